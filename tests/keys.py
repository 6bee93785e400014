"""Keys that sign, for tests."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from potstill.config.promotion_params import Sign


def write_keys(folder: Path) -> Sign:
    """Write a new pair of keys, and return params that sign with them and require their signature."""
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    write_private_key(key, folder / "private.pem")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return Sign(private_key=str(folder / "private.pem"), public_key=str(folder / "public.pem"), require=True)


def write_private_key(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, path: Path, password: bytes | None = None
) -> None:
    """Write a private key as PEM."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
