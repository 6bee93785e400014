"""API keys: who may ask. Only their sha256 is ever stored, in the environment or in a file."""

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

# `name:sha256` of each key, separated by commas; and a file with one such entry a line (# starts a comment).
VARIABLE, FILE_VARIABLE = "POTSTILL_API_KEYS", "POTSTILL_API_KEYS_FILE"
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64}):(?P<sum>[0-9a-f]{64})")
# Enough that guessing is hopeless, so that a plain hash is safe where passwords would need a slow one.
_BYTES = 32


def new_key() -> str:
    """A random key."""
    return secrets.token_urlsafe(_BYTES)


def entry(name: str, key: str) -> str:
    """What is stored of a key.

    Raises:
        ParamsError: the name has characters that entries are separated by.
    """
    made = f"{name}:{_sum(key)}"
    if not _ENTRY.fullmatch(made):
        raise ParamsError(f"{name!r} cannot name a key: 1 to 64 letters, digits, dots, underscores and hyphens can")
    return made


def add_to_file(path: Path, made: str) -> None:
    """Append an entry; a new file is readable by its owner only.

    Raises:
        ParamsError: the file cannot be written, has a key of that name, or is not one of keys.
    """
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+", encoding="utf-8") as file:
            text = file.read()
            both = text + ("\n" if text and not text.endswith("\n") else "") + made + "\n"
            _entries(str(path), both)
            file.write(both[len(text) :])
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ParamsError(
            f"{path} cannot take the key ({why}); name a file of keys, or one that does not exist yet"
        ) from error


@dataclass(frozen=True)
class Keys:
    """The keys a service accepts; none: everybody may ask.

    Attributes:
        sums: name -> sha256 of its key, in hex.
    """

    sums: Mapping[str, str]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Keys:
        """The keys that the environment names.

        Raises:
            ParamsError: an entry is not `name:sha256`, a name is there twice, or the file cannot be read.
        """
        found: dict[str, str] = {}
        for where, text in _sources(environment):
            for name, known in _entries(where, text).items():
                if name in found:
                    raise ParamsError(f"{where}: the key {name!r} is there twice; give each a name of its own")
                found[name] = known
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self.sums)

    def owner(self, authorization: str | None) -> str | None:
        """The name of the key in an `Authorization: Bearer` header; None: no key, or none of these.

        All keys are compared, each in constant time, so that the time tells nothing of them.
        """
        scheme, _, key = (authorization or "").partition(" ")
        asked, found = _sum(key.strip()), None
        for name, known in self.sums.items():
            if hmac.compare_digest(asked, known) and scheme.lower() == "bearer":
                found = name
        return found


def _entries(where: str, text: str) -> dict[str, str]:
    """Name -> sha256."""
    values = [part.strip() for part in re.split(r"[,\n]", re.sub(r"#.*", "", text)) if part.strip()]
    if not values:
        raise ParamsError(f"{where} holds no key, so everybody could ask; add one or unset the variable")
    found: dict[str, str] = {}
    for value in values:
        match = _ENTRY.fullmatch(value)
        if match is None:
            raise ParamsError(
                f"{where}: {value[:12]!r}... is not name:sha256; `potstill key NAME` makes a key and its entry"
            )
        if match["name"] in found:
            raise ParamsError(f"{where}: the key {match['name']!r} is there twice; give each a name of its own")
        found[match["name"]] = match["sum"]
    return found


def _sources(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [(VARIABLE, environment[VARIABLE])] if environment.get(VARIABLE) else []
    path = environment.get(FILE_VARIABLE)
    if path and not Path(path).is_absolute():
        # The service's working folder is the Bento's.
        raise ParamsError(f"{FILE_VARIABLE} names {path}; it has to be an absolute path")
    if path:
        try:
            found.append((path, Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"{FILE_VARIABLE} names {path}, which cannot be read: {error}") from error
    return found


def _sum(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
