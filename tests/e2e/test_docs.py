"""The documentation is true: commands run, messages are said, tables are whole, links lead somewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from safetensors.numpy import save_file

from potstill import environment, errors
from potstill.config.ingest_params import FileSource, Ingest
from potstill.config.params import Params
from potstill.config.params_file import parse_params
from potstill.config.yaml_file import read_params
from potstill.data.fetching.ingestion import ingest_all
from potstill.data.fetching.safety import refuse_unsafe
from potstill.data.preparation import prepare
from potstill.data.proposals.table_summaries import summarize_files
from potstill.data.tokens.tokenization import check_length
from potstill.errors import PotstillError
from potstill.models.loading import check_labels
from potstill.models.students.student import check_layers
from potstill.pretrained.inspection import inspect_model
from scripts.params_page import PAGE, fill
from tests.conftest import REPOSITORY, generate_rows
from tests.e2e.conftest import TUTORIAL, Finished
from tests.e2e.pages import Block, Shell, blocks, commands
from tests.redis_server import need_redis

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# tests/test_translations.py compares the commands of a translated page with those of the English one.
RUN = [page.name for page in PAGES if commands(page) and not page.name.endswith(".zh-CN.md")]
LINKED = [*PAGES, *sorted(REPOSITORY.glob("*.md")), *sorted(REPOSITORY.glob("examples/*/README.md"))]


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose header row is `heading`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = text.split(heading + "\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_do_what_it_says(
    page: str, finished: Finished, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "targets.md":  # it asks for OpenVINO, which the lock leaves out
        monkeypatch.setenv("PYTHONPATH", str(request.getfixturevalue("openvino_packages")), prepend=os.pathsep)
    if page == "streams.md":
        need_redis()
    home = tmp_path / "home"
    shutil.copytree(finished.home, home, symlinks=True)
    folder = home / finished.folder.name
    if page == "own-data.md":  # it begins before there is a workspace
        shutil.copytree(folder / "data" / "teacher", home / "empty" / "my-teacher")
        folder = home / "empty"
    # The finished run is the first two commands of the tutorial.
    rest = commands(DOCS / page)[2 if page == TUTORIAL.name else 0 :]
    with Shell(folder, home) as shell:
        for block in rest:
            shell.run(block)


def yaml_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.kind == ["yaml"]]


@pytest.mark.parametrize("block", yaml_blocks(), ids=lambda block: block.where)
def test_yaml_blocks_are_sections_of_params(block: Block) -> None:
    params = read_params(REPOSITORY / "params.yaml")
    for section, values in yaml.safe_load(block.code).items():
        params[section] = params.get(section, {}) | values
    parse_params(params, where=block.where)


# --- what bad input says ----------------------------------------------------------------------------------------------

ROWS = [(text, "yes" if label == "positive" else "no") for text, label in generate_rows(40)]


def csv(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    return "\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n"


def prepare_rows(content: str | bytes, **params: Any) -> None:
    """The prepare stage over one file."""
    folder = Path("data/raw/data")
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    section = {"tables": [{"source": "data"}], "text": "text", "label": {"kind": "column", "column": "label"}}
    raw = read_params(REPOSITORY / "params.yaml")
    sources = {"data": {"kind": "file", "path": "rows.csv"}}
    raw["ingest"]["data"], raw["prepare"] = sources, section | params
    prepare(Path("data/raw"), parse_params(raw).prepare)


def set_params(section: str, **values: Any) -> None:
    raw = read_params(REPOSITORY / "params.yaml")
    raw[section] |= values
    parse_params(raw)


def given_test_in_train() -> None:
    rows = [(text, f"{label},train") for text, label in ROWS] + [(text, f"{label},test") for text, label in ROWS[:20]]
    prepare_rows(csv(rows, header="text,label,part"), tables=[{"source": "data", "split_column": "part"}])


def ingest(path: str, sums: Mapping[str, str] = {}) -> None:
    source = FileSource(kind="file", path=path, sums=dict(sums))
    ingest_all(Ingest(data={"data": source}, teacher=FileSource(kind="file", path="base")), Path("raw"), Path("base2"))


def wrong_sum() -> None:
    Path("rows.csv").write_text(csv(ROWS))
    ingest("rows.csv", {"rows.csv": "0" * 64})


def no_header() -> None:
    Path("rows.csv").write_text(csv(ROWS, header="a new one,yes"))
    summarize_files(Path("rows.csv"))


def pickled_weights() -> None:
    Path("base").mkdir()
    Path("base/pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    refuse_unsafe(Path("base"))


def spreadsheet() -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    prepare_rows(data.getvalue())


def model_folder(**config: Any) -> Path:
    folder = Path("data/base")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({}, folder / "model.safetensors")
    return folder


def other_labels() -> None:
    names = {"0": "a", "1": "b", "2": "c"}
    folder = model_folder(architectures=["BertForSequenceClassification"], id2label=names)
    check_labels(folder, ["no", "yes"])


def adapter() -> None:
    folder = model_folder()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/base"}))
    inspect_model(folder)


BAD: dict[str, Callable[[], object]] = {
    "a misspelt key": partial(set_params, "distill", temprature=4.0),
    "a value of a wrong type": partial(set_params, "teacher", epochs="three"),
    "a path that does not exist": partial(ingest, "rows.csv"),
    "a file whose sum differs": wrong_sum,
    "pickled weights": pickled_weights,
    "a name that YAML reads as a truth value": partial(set_params, "prepare", labels=[False, True]),
    "a missing column": partial(prepare_rows, csv(ROWS, header="Text,label")),
    "an empty file": partial(prepare_rows, ""),
    "a header only": partial(prepare_rows, "text,label\n"),
    "no header": no_header,
    "a label outside the declared set": partial(
        prepare_rows, csv([("a new one", "maybe"), *ROWS]), labels=["no", "yes"]
    ),
    "a row without a label": partial(prepare_rows, csv([("a new one", ""), *ROWS])),
    "several labels in a cell": partial(prepare_rows, csv([("a new one", '"[""no"", ""yes""]"'), *ROWS])),
    "one class": partial(prepare_rows, csv([(text, "yes") for text, _ in ROWS])),
    "a class with one row": partial(prepare_rows, csv([*ROWS, ("a new one", "maybe")])),
    "Latin-1": partial(prepare_rows, csv([("café", "yes"), *ROWS]).encode("latin-1")),
    "GB18030": partial(prepare_rows, csv([("很好用的手机", "yes"), *ROWS]).encode("gb18030")),
    "UTF-16": partial(prepare_rows, csv(ROWS).encode("utf-16")),
    "a NUL byte": partial(prepare_rows, csv([("a\0b", "yes"), *ROWS])),
    "a cell of 10 MB": partial(prepare_rows, csv([("x" * 10_000_000, "yes"), *ROWS])),
    "all rows duplicates": partial(prepare_rows, csv([("the same", label) for _, label in ROWS])),
    "test texts in train": given_test_in_train,
    "a line with too many cells": partial(prepare_rows, csv([("one, two", "yes"), *ROWS])),
    "a damaged archive": partial(prepare_rows, gzip.compress(csv(ROWS).encode())[:100]),
    "a spreadsheet": spreadsheet,
    "layers the teacher lacks": partial(check_layers, [0, 7], 4, "data/teacher"),
    "an adapter instead of a model": adapter,
    "a model of a family that is not known": lambda: inspect_model(model_folder(model_type="albert")),
    "another number of labels in the teacher": other_labels,
    "more tokens than positions": lambda: check_length(model_folder(max_position_embeddings=64), 512),
}
SAID = {row[0]: row[1:] for row in table("own-data.md", "| input | exit code | sentence |")}


def test_every_bad_input_of_the_table_is_tried() -> None:
    assert list(SAID) == list(BAD)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_the_table_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, sentence = SAID[name]
    with pytest.raises(PotstillError) as caught:
        BAD[name]()
    assert caught.value.exit_code == int(code)
    pattern = ".*".join(map(re.escape, sentence.strip("`").split("...")))
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)


# --- tables and links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics", "gate"])
def test_json_examples_have_the_keys_of_the_real_files(name: str, finished: Finished) -> None:
    examples = [json.loads(block.code) for block in blocks(DOCS / "artifacts.md") if block.kind == ["json"]]
    shown = examples[["metrics", "gate"].index(name)]
    real = json.loads((finished.folder / "reports" / f"{name}.json").read_text(encoding="utf-8"))
    assert real.keys() == shown.keys()
    if name == "gate":
        assert all(check.keys() == shown["checks"][0].keys() for check in real["checks"])
    else:
        assert real["models"].keys() == shown["models"].keys()
        assert real["models"]["teacher"].keys() == shown["models"]["teacher"].keys()
        assert real["comparison"].keys() == shown["comparison"].keys()
        assert real["comparison"]["control"].keys() == shown["comparison"]["control"].keys()


def error_classes() -> list[type[PotstillError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PotstillError)]
    return [kind for kind in found if kind is not PotstillError]


def error_rows() -> list[list[str]]:
    """The table of docs/errors.md, from potstill/errors.py."""
    rows = {kind.exit_code: (f"`{kind.__name__}`", " ".join((kind.__doc__ or "").split())) for kind in error_classes()}
    rows[0] = ("", "It is done, or there was nothing to do.")
    rows[1] = ("", "Anything else; if it is a defect of Potstill, the sentence names the file with the traceback.")
    rows[2] = ("", "The command line cannot be read: an unknown command or option.")
    rows[errors.INTERRUPTED] = ("", "Interrupted by Ctrl-C or SIGTERM; run again to go on.")
    return [[str(code), *rows[code]] for code in sorted(rows)]


def test_no_exit_code_has_two_meanings() -> None:
    codes = [kind.exit_code for kind in error_classes()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2, errors.INTERRUPTED} & set(codes)


def test_the_table_of_errors_is_complete_and_agrees() -> None:
    expected = error_rows()
    shown = "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in expected)
    assert table("errors.md", "| exit code | class | meaning |") == expected, (
        f"docs/errors.md needs these rows:\n{shown}"
    )


def test_the_tables_of_params_are_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == fill(text), "docs/params.md differs from potstill/config: python scripts/params_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_params_named_in_a_page_exist(page: Path) -> None:
    sections = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for section, key in re.findall(r"`([a-z]+)\.([a-z_0-9]+)[^`/]*`", text):
        model = sections.get(section)
        if isinstance(model, type) and issubclass(model, BaseModel) and key != "temprature":
            assert key in model.model_fields, f"{page.name}: {section}.{key}"


def test_telemetry_page_names_every_switch() -> None:
    named = dict(re.findall(r"\b([A-Z_]+)=(\S+)", "".join(block.code for block in blocks(DOCS / "tools.md"))))
    assert named == environment.NO_TELEMETRY


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


def test_the_landing_page_leads_to_every_page() -> None:
    assert {page.name for page in PAGES} - {"README.md"} <= set(targets(DOCS / "README.md"))


def targets(page: Path) -> list[str]:
    """The targets of a page's links and images, those on other sites aside."""
    links = re.findall(r"\]\(([^)\s]+)\)|\bsrc=\"([^\"]+)\"", page.read_text(encoding="utf-8"))
    return [target for pair in links for target in pair if target and not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors a page's headings have on a forge."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
