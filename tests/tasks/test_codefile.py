from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from potstill import __version__
from potstill.errors import ToolError
from tasks.codefile import CODE_FILE, check_code_file, refresh_code_file, write_code_file
from tasks.stage import code_sum


def test_it_names_the_installed_code(tmp_path: Path) -> None:
    write_code_file(tmp_path)
    named = yaml.safe_load((tmp_path / CODE_FILE).read_text(encoding="utf-8"))
    assert named == {"potstill": __version__, "tree": code_sum()}
    check_code_file(tmp_path)
    assert refresh_code_file(tmp_path) is None


@pytest.mark.parametrize("content", ["potstill: 0.0.1\ntree: abc\n", "", ": :"])
def test_other_code_is_refused_by_a_stage_and_taken_up_by_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / CODE_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ToolError, match="potstill run"):
        check_code_file(tmp_path)
    assert "every stage runs again" in str(refresh_code_file(tmp_path))
    check_code_file(tmp_path)


def test_a_workspace_with_the_code_needs_none(tmp_path: Path) -> None:
    check_code_file(tmp_path)
    assert refresh_code_file(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
