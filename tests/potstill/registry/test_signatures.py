"""Signatures, also as OpenSSF's own command line verifies them."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from potstill.artifacts import BENTO_SIGNATURE, write_manifest
from potstill.config.promotion_params import Sign
from potstill.errors import SignatureError
from potstill.registry.signatures import sign_bento, sign_files, signer_sum, verify_bento, verify_files
from potstill.registry.version_artifacts import BENTOS, pack_bento
from tests.keys import write_keys, write_private_key

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def keys(tmp_path: Path) -> Sign:
    return write_keys(tmp_path / "keys")


@pytest.fixture
def bento(tmp_path: Path) -> Path:
    """What stands for a sealed Bento."""
    folder = tmp_path / "bento"
    for name in ("bento.yaml", "src/data/serving/model.onnx", "src/service.py", "env/docker/Dockerfile"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}", encoding="utf-8")
    write_manifest(folder)
    return folder


def test_a_signed_bento_verifies_wherever_it_lies(keys: Sign, bento: Path, tmp_path: Path) -> None:
    sign_bento(bento, keys, tmp_path)
    verify_bento(bento, keys, tmp_path)
    copy = shutil.copytree(bento, tmp_path / "elsewhere/v1")
    verify_bento(copy, keys, tmp_path)
    (copy / "env/docker/Dockerfile").write_text("as bentoml containerize writes it", encoding="utf-8")
    verify_bento(copy, keys, tmp_path)


def test_a_signature_is_registered_with_its_bento(keys: Sign, bento: Path, tmp_path: Path) -> None:
    unsigned = pack_bento(bento, tmp_path / "unsigned")
    sign_bento(bento, keys, tmp_path)
    assert pack_bento(bento, tmp_path / "signed") == unsigned
    packed = [path.name for path in (tmp_path / "signed" / BENTOS / bento.name).iterdir()]
    assert BENTO_SIGNATURE in packed


def test_caches_of_python_are_not_trusted(keys: Sign, bento: Path, tmp_path: Path) -> None:
    sign_bento(bento, keys, tmp_path)
    cache = bento / "src/__pycache__/service.cpython-311.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"other code")
    verify_bento(bento, keys, tmp_path)
    assert not cache.parent.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bento: (bento / "src/service.py").write_text("other"), r"Hash mismatch for 'src/service\.py'\S?\]; "),
        (lambda bento: (bento / "src/more.py").write_text("more"), "Extra files .*more.py"),
        (lambda bento: (bento / "src/service.py").unlink(), "Missing files .*service.py"),
        (lambda bento: (bento / "manifest.json").write_text("{}"), "Hash mismatch for 'manifest.json'"),
        (lambda bento: (bento / BENTO_SIGNATURE).write_text("no JSON"), "does not verify"),
        (lambda bento: (bento / BENTO_SIGNATURE).write_text("{}"), "does not verify"),
        (lambda bento: (bento / BENTO_SIGNATURE).unlink(), "has no signature"),
    ],
)
def test_what_was_not_signed_is_refused(
    keys: Sign, bento: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    sign_bento(bento, keys, tmp_path)
    change(bento)
    with pytest.raises(SignatureError, match=said) as refusal:
        verify_bento(bento, keys, tmp_path)
    assert "\n" not in str(refusal.value)


def test_the_signature_of_another_key_or_another_folder_is_refused(keys: Sign, bento: Path, tmp_path: Path) -> None:
    stranger = write_keys(tmp_path / "stranger")
    sign_bento(bento, stranger, tmp_path)
    with pytest.raises(SignatureError, match="Key mismatch"):
        verify_bento(bento, keys, tmp_path)
    sign_files(bento / "src", bento / BENTO_SIGNATURE, keys, tmp_path)
    with pytest.raises(SignatureError, match="Signature mismatch"):
        verify_bento(bento, keys, tmp_path)


def test_a_signer_is_known_by_its_public_key(keys: Sign, tmp_path: Path) -> None:
    assert signer_sum(Sign(), tmp_path) is None
    assert signer_sum(keys, tmp_path) == signer_sum(keys, tmp_path)
    assert signer_sum(keys, tmp_path) != signer_sum(write_keys(tmp_path / "stranger"), tmp_path)


def test_a_key_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key", encoding="utf-8")
    write_private_key(ec.generate_private_key(ec.SECP256K1()), tmp_path / "curve.pem")
    write_private_key(rsa.generate_private_key(65537, 2048), tmp_path / "rsa.pem")
    write_private_key(ec.generate_private_key(ec.SECP256R1()), tmp_path / "locked.pem", password=b"secret")
    for name in ("missing.pem", "text.pem", "curve.pem", "rsa.pem", "locked.pem"):
        with pytest.raises(SignatureError, match=rf"sign\.private_key \(.*{name}\) cannot be used: .*; name unencry"):
            signer_sum(Sign(private_key=name), tmp_path)
    (tmp_path / "model.sig").write_text("{}", encoding="utf-8")
    for trusted in (Sign(public_key="text.pem"), Sign(trusted_certificates=["text.pem"])):
        with pytest.raises(SignatureError, match=r"text\.pem\) cannot be used"):
            verify_files(tmp_path, tmp_path / "model.sig", trusted, tmp_path)


def test_a_certificate_is_trusted_through_its_authority(bento: Path, tmp_path: Path) -> None:
    authority = write_authority(tmp_path, "authority")
    write_certificate(tmp_path, authority)
    write_authority(tmp_path, "stranger")
    signs = Sign(private_key="key.pem", certificate="certificate.pem")
    sign_bento(bento, signs, tmp_path)
    assert signer_sum(signs, tmp_path) is not None
    verify_bento(bento, Sign(trusted_certificates=["authority.pem"]), tmp_path)
    with pytest.raises(SignatureError, match="does not verify"):
        verify_bento(bento, Sign(trusted_certificates=["stranger.pem"]), tmp_path)
    with pytest.raises(SignatureError, match="names whom to trust"):
        verify_bento(bento, Sign(), tmp_path)


@pytest.mark.slow
def test_openssf_verifies_model_and_bento(keys: Sign, bento: Path, tmp_path: Path) -> None:
    serving, signature = bento / "src/data/serving", tmp_path / "model.sig"
    sign_files(serving, signature, keys, tmp_path)
    sign_bento(bento, keys, tmp_path)
    assert openssf_verifies(serving, signature, keys)
    assert openssf_verifies(bento, bento / BENTO_SIGNATURE, keys)
    (serving / "model.onnx").write_text("other", encoding="utf-8")
    assert not openssf_verifies(serving, signature, keys)
    assert not openssf_verifies(bento, bento / BENTO_SIGNATURE, keys)


def openssf_verifies(target: Path, signature: Path, keys: Sign) -> bool:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(target), "--signature", str(signature)]
    return subprocess.run([*command, "--public_key", str(keys.public_key)], check=False).returncode == 0


def write_authority(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = certificate_builder(subject, subject, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


def write_certificate(folder: Path, authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> None:
    """Write a key and its certificate for signing."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_private_key(key, folder / "key.pem")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pipeline")])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = certificate_builder(subject, authority[0].subject, key).add_extension(usage, critical=True)
    certificate = builder.sign(authority[1], hashes.SHA256())
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=3650))
