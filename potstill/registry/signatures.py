"""Signatures of models and Bentos in the format of OpenSSF Model Signing, which its own `model_signing verify` checks.

A signature names each file of a folder with its sha256. Neither signing nor verifying uses a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.artifacts import BENTO_IMAGE, BENTO_SIGNATURE, sha256_file
from potstill.config.promotion_params import Sign
from potstill.errors import SignatureError

if TYPE_CHECKING:
    from model_signing import signing, verifying

# The signature of the serving folder, in a version's evidence.
MODEL_SIGNATURE = "model.sig"
_UNSIGNED_IN_BENTO = (BENTO_SIGNATURE, BENTO_IMAGE)
_DIGESTS = re.compile(r": Expected \\?'Digest\(.*?, Actual \\?'Digest\(.*?\)\\?'")


def signer_sum(settings: Sign, workspace: Path) -> str | None:
    """Compute the sha256 of the certificate or, without one, of the public key. None where nothing is signed.

    Raises:
        SignatureError: the key or a certificate cannot be used.
    """
    if settings.private_key is None:
        return None
    _signing_config(settings, workspace)
    if settings.certificate is not None:
        return sha256_file(_path(workspace, settings.certificate))
    return hashlib.sha256(_public_key(_path(workspace, settings.private_key))).hexdigest()


def sign_files(target: Path, signature: Path, settings: Sign, workspace: Path) -> None:
    """Sign a folder, or a single file.

    Args:
        target: what is signed.
        signature: the new file, outside of `target`.
        settings: names the key.
        workspace: relative paths in `settings` begin here.

    Raises:
        SignatureError: the key or a certificate cannot be used.
    """
    _signing_config(settings, workspace).sign(target, signature)


def sign_bento(bento: Path, settings: Sign, workspace: Path) -> None:
    """Sign a sealed Bento; the signature becomes part of it.

    Raises:
        SignatureError: the key or a certificate cannot be used.
    """
    from model_signing import hashing

    signed_files = hashing.Config().set_ignored_paths(paths=_UNSIGNED_IN_BENTO)
    _signing_config(settings, workspace).set_hashing_config(signed_files).sign(bento, bento / BENTO_SIGNATURE)


def verify_files(target: Path, signature: Path, settings: Sign, workspace: Path) -> None:
    """Check that a trusted key has signed exactly the present files of a folder, or a single file.

    Raises:
        SignatureError: there is no signature, it is not by a trusted key, or a file is not what was signed.
    """
    if not signature.is_file():
        raise SignatureError(f"{target} has no signature ({signature}), but sign.require is true; {_ADVICE}")
    config = _verifying_config(settings, workspace)
    try:
        config.verify(target, signature)
    except Exception as error:  # whatever is wrong with a signature, it does not verify
        raise SignatureError(
            f"the signature {signature} of {target} does not verify: {_words(error)}; {_ADVICE}"
        ) from error


def verify_bento(bento: Path, settings: Sign, workspace: Path) -> None:
    """Check the signature of a Bento. Python's caches in it are removed first: they would run without being signed.

    Raises:
        SignatureError: there is no signature, it is not by a trusted key, or a file is not what was signed.
    """
    for cache in list(bento.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    verify_files(bento, bento / BENTO_SIGNATURE, settings, workspace)


_ADVICE = (
    "`potstill run` signs a new candidate where sign.private_key is set, and `bentoml delete` with `potstill fetch` "
    "replaces a Bento that was altered here"
)


def _signing_config(settings: Sign, workspace: Path) -> signing.Config:
    from model_signing import signing

    if settings.private_key is None:
        raise SignatureError("sign.private_key is null, so nothing can be signed; name a PEM file")
    key = _path(workspace, settings.private_key)
    if settings.certificate is None:
        with _usable("private_key", key):
            return signing.Config().use_elliptic_key_signer(private_key=key)
    certificate = _path(workspace, settings.certificate)
    chain = _paths(workspace, settings.certificate_chain)
    with _usable("private_key with sign.certificate and sign.certificate_chain", key, certificate, *chain):
        # model_signing 1.1 does not take an empty chain.
        return signing.Config().use_certificate_signer(
            private_key=key, signing_certificate=certificate, certificate_chain=chain or [certificate]
        )


def _verifying_config(settings: Sign, workspace: Path) -> verifying.Config:
    from model_signing import verifying

    if settings.public_key is not None:
        key = _path(workspace, settings.public_key)
        with _usable("public_key", key):
            return verifying.Config().use_elliptic_key_verifier(public_key=key)
    if not settings.trusted_certificates:  # model_signing would trust every web site's authority
        raise SignatureError("neither sign.public_key nor sign.trusted_certificates names whom to trust; set one")
    roots = _paths(workspace, settings.trusted_certificates)
    with _usable("trusted_certificates", *roots):
        return verifying.Config().use_certificate_verifier(certificate_chain=roots)


def _public_key(private_key: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(private_key.read_bytes(), None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _path(workspace: Path, value: str) -> Path:
    return workspace / os.path.expanduser(value)


def _paths(workspace: Path, values: list[str]) -> list[Path]:
    return [_path(workspace, value) for value in values]


@contextmanager
def _usable(name: str, *paths: Path) -> Iterator[None]:
    """Raise every fault of files of keys or certificates as one sentence."""
    try:
        yield
    except Exception as error:  # each of the three libraries below has exceptions of its own
        raise SignatureError(
            f"sign.{name} ({', '.join(map(str, paths))}) cannot be used: {_words(error)}; name unencrypted PEM files "
            "of an elliptic-curve key on P-256, P-384 or P-521"
        ) from error


def _words(error: Exception) -> str:
    """Return a library's message on one line, without the bytes of digests."""
    message = _DIGESTS.sub("", " ".join(str(error).split())).replace("\\'", "'")
    return message[:400] or type(error).__name__
