from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import ParamsError
from potstill.serving.keys import FILE_VARIABLE, VARIABLE, Keys, add_to_file, key_entry, new_key


def test_a_key_is_identified_by_name_and_stored_as_sha256() -> None:
    mine, yours = new_key(), new_key()
    keys = Keys.read({VARIABLE: f"{key_entry('mine', mine)}, {key_entry('yours', yours)}"})
    assert keys.owner(f"Bearer {mine}") == "mine"
    assert keys.owner(f"bearer {yours}") == "yours"
    assert mine not in str(keys)
    assert mine != yours


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x"])
def test_other_headers_have_no_owner(header: str | None) -> None:
    key = new_key()
    keys = Keys.read({VARIABLE: key_entry("mine", key)})
    assert keys.owner(header.format(key=key) if header else header) is None


def test_keys_of_a_file_with_comments(tmp_path: Path) -> None:
    path, key = tmp_path / "keys", new_key()
    path.write_text(f"# ours\n{key_entry('mine', key)}  # until May\n\n", encoding="utf-8")
    assert Keys.read({FILE_VARIABLE: str(path)}).owner(f"Bearer {key}") == "mine"


def test_without_keys_there_is_no_access_control() -> None:
    assert not Keys.read({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine:abc", "is not name:sha256"),
        (" # nothing", "holds no key"),
        ("", "holds no key"),
        (",".join([key_entry("mine", "a"), key_entry("mine", "b")]), "there twice"),
    ],
)
def test_an_invalid_entry_is_refused(text: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Keys.read({VARIABLE: text})


def test_a_file_that_would_open_the_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="cannot be read"):
        Keys.read({FILE_VARIABLE: str(tmp_path / "none")})
    (tmp_path / "keys").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="holds no key"):
        Keys.read({FILE_VARIABLE: str(tmp_path / "keys")})
    with pytest.raises(ParamsError, match="absolute path"):
        Keys.read({FILE_VARIABLE: ""})


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(ParamsError, match="absolute path"):
        Keys.read({FILE_VARIABLE: "keys"})


def test_keys_are_appended_to_a_private_file(tmp_path: Path) -> None:
    path, mine, yours = tmp_path / "keys", new_key(), new_key()
    add_to_file(path, key_entry("mine", mine))
    path.write_text(path.read_text().rstrip("\n"))
    add_to_file(path, key_entry("yours", yours))
    assert path.stat().st_mode & 0o777 == 0o600
    keys = Keys.read({FILE_VARIABLE: str(path)})
    assert [keys.owner(f"Bearer {key}") for key in (mine, yours)] == ["mine", "yours"]
    before = path.read_bytes()
    with pytest.raises(ParamsError, match="there twice"):
        add_to_file(path, key_entry("mine", mine))
    assert path.read_bytes() == before
    with pytest.raises(ParamsError, match="cannot take"):
        add_to_file(tmp_path, key_entry("mine", mine))


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a:b", "x" * 65])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="cannot name a key"):
        key_entry(name, new_key())
