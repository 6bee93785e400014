"""API keys of the service. Only their sha256 is stored, in the environment or in a file."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import ParamsError

# The first variable holds `name:sha256` entries separated by commas, the second names a file with one entry a line
# (# starts a comment).
VARIABLE, FILE_VARIABLE = "POTSTILL_API_KEYS", "POTSTILL_API_KEYS_FILE"
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<sum>[0-9a-f]{64})")
# Keys are too long to guess, so a plain hash is safe; passwords would need a slow one.
_BYTES = 32


def new_key() -> str:
    """Create a random key."""
    return secrets.token_urlsafe(_BYTES)


def key_entry(name: str, key: str) -> str:
    """Build the entry that is stored for a key.

    Raises:
        ParamsError: the name has characters that an entry does not allow.
    """
    entry = f"{name}:{_sha256(key)}"
    if not _ENTRY.fullmatch(entry):
        raise ParamsError(f"{name!r} cannot name a key: 1 to 64 letters, digits, dots, underscores and hyphens can")
    return entry


def add_to_file(path: Path, entry: str) -> None:
    """Append an entry; only the owner can read a new file.

    Raises:
        ParamsError: the file cannot be written, already has a key of that name, or is not a file of keys.
    """
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+", encoding="utf-8") as file:
            text = file.read()
            extended = text + ("\n" if text and not text.endswith("\n") else "") + entry + "\n"
            _add_entries({}, str(path), extended)
            file.write(extended[len(text) :])
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ParamsError(
            f"{path} cannot take the key ({reason}); name a file of keys, or one that does not exist yet"
        ) from error


@dataclass(frozen=True)
class Keys:
    """The keys that a service accepts; without keys everyone has access.

    Attributes:
        digests: name -> sha256 of its key, in hex.
    """

    digests: Mapping[str, str]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Keys:
        """Read the keys that the environment names.

        Raises:
            ParamsError: an entry is not `name:sha256`, a name is used twice, or the file cannot be read.
        """
        digests: dict[str, str] = {}
        for source, text in _sources(environment):
            _add_entries(digests, source, text)
        return cls(digests)

    def __bool__(self) -> bool:
        return bool(self.digests)

    def owner(self, authorization: str | None) -> str | None:
        """Find the name of the key in an `Authorization: Bearer` header; None if it has none of these keys.

        All keys are compared, each in constant time, so that the time reveals nothing about them.
        """
        scheme, _, key = (authorization or "").partition(" ")
        given_digest = _sha256(key.strip())
        owner = None
        for name, digest in self.digests.items():
            if hmac.compare_digest(given_digest, digest) and scheme.lower() == "bearer":
                owner = name
        return owner


def _add_entries(digests: dict[str, str], source: str, text: str) -> None:
    """Parse entries and add them to name -> sha256."""
    values = [part.strip() for part in re.split(r"[,\n]", re.sub(r"#.*", "", text)) if part.strip()]
    if not values:
        raise ParamsError(f"{source} holds no key, so everyone would have access; add one or unset the variable")
    for value in values:
        match = _ENTRY.fullmatch(value)
        if match is None:
            raise ParamsError(
                f"{source}: {value[:12]!r}... is not name:sha256; `potstill key NAME` makes a key and its entry"
            )
        if match["name"] in digests:
            raise ParamsError(f"{source}: the key {match['name']!r} is there twice; give each a different name")
        digests[match["name"]] = match["sum"]


def _sources(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    sources = [(VARIABLE, environment[VARIABLE])] if VARIABLE in environment else []
    path = environment.get(FILE_VARIABLE)
    if path is not None and not Path(path).is_absolute():
        # The service's working folder is the Bento's.
        raise ParamsError(f"{FILE_VARIABLE} names {path!r}; it has to be an absolute path")
    if path is not None:
        try:
            sources.append((path, Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"{FILE_VARIABLE} names {path}, which cannot be read: {error}") from error
    return sources


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
