"""Sentences of Chinese and English, how they are ranked, and the page of the example."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from examples.summaries.summarize import (
    MAX_SENTENCES,
    centralities,
    choose,
    similarities,
    split_sentences,
    summarize_folder,
)
from potstill.artifacts import write_json, write_manifest
from potstill.errors import EmptyDataError, EncodingError, FetchError, FormatError, ModelError, PotstillError
from potstill.inference.runtime import EMBEDDING, Student
from tests.conftest import REPOSITORY
from tests.e2e.pages import Shell, commands
from tests.potstill.serving.folders import card, write_serving
from tests.registries import write_champion

EXAMPLE = REPOSITORY / "examples/summaries"


@pytest.fixture(scope="module")
def student(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student(write_serving(tiny_base, tmp_path_factory.mktemp("student") / "serving"), 2)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith met J. Doe at 3.5 p.m. today. He left!", ["Dr. Smith met J. Doe at 3.5 p.m. today.", "He left!"]),
        ('He said: "Go!" and went. "Really?" asked she.', ['He said: "Go!" and went.', '"Really?" asked she.']),
        ("Done... But (see e.g. Fig. 2) not v1.2.3.", ["Done...", "But (see e.g. Fig. 2) not v1.2.3."]),
        ("他说：“走吧！”然后走了……后来呢？没人知道。", ["他说：“走吧！”", "然后走了……", "后来呢？", "没人知道。"]),
        ("很好。It works.真的", ["很好。", "It works.", "真的"]),
        ("# A title\nA line\nand more. Two.\n\n- one\n- two?\n", ["A line and more.", "Two.", "one", "two?"]),
        (" \n\n# A title\n", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_lexrank_and_mmr_on_a_graph_by_hand() -> None:
    angles = np.radians([0, 2, 4, 80, 82, 50])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    similar = similarities(vectors)
    assert (similar.min(), similar.max()) == pytest.approx((0, 1))
    central = centralities(similar)
    steps = 0.85 * similar / similar.sum(axis=1, keepdims=True) + 0.15 / 6
    walk = np.linalg.matrix_power(steps, 200)[0]
    assert central == pytest.approx(walk / walk.max())
    assert central.argmax() == 5
    assert list(choose(similar, central, 3, 0.0)) == np.argsort(-central, kind="stable")[:3].tolist()
    groups = {0: "low", 1: "low", 2: "low", 3: "high", 4: "high", 5: "middle"}
    assert {groups[index] for index in choose(similar, central, 3, 0.7)} == {"low", "middle", "high"}
    repeated = choose(similarities(np.ones((4, 3))), centralities(similarities(np.ones((4, 3)))), 9, 0.3)
    assert repeated == pytest.approx({0: 0, 1: 1, 2: 1, 3: 1})


def test_an_embedding_is_what_the_served_file_gives(student: Student) -> None:
    texts = ["a superb film", "a dull and stale plot", "a superb film"]
    embeddings = student.embed(texts)
    row = student.tokenizer.encode(texts[1])
    (expected,) = student._session.run([EMBEDDING], {"input_ids": [row.ids], "attention_mask": [row.attention_mask]})
    assert embeddings.shape == (3, 32)
    assert embeddings[1].tolist() == expected[0].tolist()
    assert embeddings[0].tolist() == embeddings[2].tolist() != embeddings[1].tolist()


def test_a_summary_is_in_the_order_of_the_document(student: Student, tmp_path: Path) -> None:
    (tmp_path / "in/more").mkdir(parents=True)
    (tmp_path / "in/more/a.md").write_text("# A\nOne film. Two stories! A plot. Music and a river.", encoding="utf-8")
    (tmp_path / "in/b.txt").write_text("只有一句。", encoding="utf-8")
    assert summarize_folder(tmp_path / "in", tmp_path / "out", student, "v", 2, 0.3) == 2
    summary = json.loads((tmp_path / "out/more/a.md.summary.json").read_text(encoding="utf-8"))
    assert (summary["document"], summary["sentences"], summary["model_version"]) == ("more/a.md", 4, "v")
    numbers = [item["number"] for item in summary["summary"]]
    assert len(numbers) == 2
    assert numbers == sorted(numbers)
    assert max(item["centrality"] for item in summary["summary"]) == 1
    assert (tmp_path / "out/b.txt.summary.md").read_text(encoding="utf-8") == "# b.txt\n\n- 只有一句。\n"


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (None, FetchError, "no document there; name a folder of .txt or .md files"),
        (b"\xff\xfe", EncodingError, "a.txt is not UTF-8"),
        (b"# Only a title", EmptyDataError, "a.txt has no sentence; leave it out"),
        (b"One. " * (MAX_SENTENCES + 1), FormatError, "more than 2,000; cut it"),
    ],
    ids=["none", "UTF-16", "empty", "long"],
)
def test_bad_documents_are_one_sentence(
    student: Student, tmp_path: Path, content: bytes | None, error: type[PotstillError], sentence: str
) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(error, match=sentence):
        summarize_folder(tmp_path, tmp_path / "out", student, "v", 2, 0.3)


def test_a_model_without_embeddings_of_single_texts_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    serving = write_serving(tiny_base, tmp_path / "serving")
    write_json(serving / "model.json", card(embedding=False))
    write_manifest(serving)
    with pytest.raises(ModelError, match="it is for single_label, or was exported before there were any; take another"):
        Student(serving, 1).embed(["a"])


@pytest.mark.slow
def test_the_page_does_what_it_says(tiny_base: Path, tmp_path: Path) -> None:
    home = write_champion(tiny_base, tmp_path)
    shutil.copytree(EXAMPLE, home / "workspace/examples/summaries")
    shutil.copyfile(REPOSITORY / "params.yaml", home / "workspace/params.yaml")
    with Shell(home / "workspace", home) as shell:
        for block in commands(EXAMPLE / "README.md"):
            shell.run(block)
