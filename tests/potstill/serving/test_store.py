from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import ToolError
from potstill.serving.store import below, open_store


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_files_are_kept_by_name(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "watch") if kind == "folder" else f"memory://{tmp_path.name}/watch"
    store = open_store(below(place, "0123456789abcdef"))
    assert str(store) == f"{place}/0123456789ab"
    assert store.names() == []
    store.write("b.json", "ü\n")
    store.write("a.json", "1")
    store.write("a.json", "2")
    assert store.names() == ["a.json", "b.json"]
    assert (store.read("a.json"), store.read("b.json")) == ("2", "ü\n")
    assert open_store(below(place, "0123456789abxxxx")).names() == ["a.json", "b.json"]
    store.remove("a.json")
    store.remove("a.json")
    assert store.names() == ["b.json"]


def test_a_url_that_nothing_knows_is_one_sentence() -> None:
    with pytest.raises(ToolError, match="nowhere://a cannot be opened"):
        open_store("nowhere://a")
