from __future__ import annotations

from pathlib import Path

import pytest

from potstill.data.formats.tables import read_file, read_tables
from potstill.errors import FormatError

TWO = "EU\tB-ORG\nrejects\tO\n\nPeter\tB-PER\nBlackburn\tI-PER\n"


def test_two_columns_in_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TWO)
    (table,) = read_tables(tmp_path, "*", "auto", None, 100)
    assert table.columns == {
        "tokens": [["EU", "rejects"], ["Peter", "Blackburn"]],
        "ner_tags": [["B-ORG", "O"], ["B-PER", "I-PER"]],
    }
    locations = [table.row_location(row) for row in (0, 1)]
    assert locations == [f"{tmp_path}/train.txt, line 1", f"{tmp_path}/train.txt, line 4"]


def test_a_text_file_of_sentences_is_not_taken_for_conll(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text\nanother text\n\nand more text\n")
    with pytest.raises(FormatError, match="`lines` if each line is one text"):
        list(read_tables(tmp_path, "*", "auto", None, 100))


def test_documents_comments_and_the_word_hash(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\n# id 7\n# # O O\n1 CD O B-X\n\n-DOCSTART- -X- O O\n\nlast NN O O\n"
    (tmp_path / "a.conll").write_text(text)
    table = read_file(tmp_path / "a.conll")
    assert table.column("tokens") == [["#", "1"], ["last"]]
    assert list(table.columns) == ["tokens", "pos_tags", "chunk_tags", "ner_tags"]


def test_numbered_words_as_in_germeval(tmp_path: Path) -> None:
    text = "#\thttp://x [2009]\n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n\n1\tBerlin\tB-LOC\tO\n"
    (tmp_path / "a.conll").write_text(text)
    table = read_file(tmp_path / "a.conll")
    assert table.column("tokens") == [["Schartau", "sagte"], ["Berlin"]]
    named = read_file(tmp_path / "a.conll", "conll", ["id", "tokens", "ner_tags", "nested"])
    assert named.column("ner_tags") == [["B-PER", "O"], ["B-LOC"]]


def test_conll_u_with_entities_in_misc(tmp_path: Path) -> None:
    lines = [
        "# text = Vámonos al mar",
        "1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\tNER=O",
        "2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_",
        "3\tMadrid\tMadrid\tPROPN\t_\t_\t1\tobl\t_\tSpaceAfter=No|NER=B-LOC",
        "3.1\tx\tx\tX\t_\t_\t_\t_\t_\t_",
    ]
    (tmp_path / "a.conllu").write_text("\n".join(lines))
    table = read_file(tmp_path / "a.conllu")
    assert table.column("tokens") == [["Vamos", "nos", "Madrid"]]
    assert table.column("ner_tags") == [["O", "O", "B-LOC"]]


def test_conll_u_plus_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conllup").write_text("# global.columns = ID FORM UPOS NER\n1\tBath\tPROPN\tB-LOC\n")
    table = read_file(tmp_path / "a.conllup")
    assert table.columns == {"id": [["1"]], "tokens": [["Bath"]], "upos": [["PROPN"]], "ner_tags": [["B-LOC"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a NN O\nb O\nc NN O\n", r"a.conll, line 2 has 2 columns where 3 \(tokens, column_2, ner_tags\)"),
        ("a\nb\n", "has no tags"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_file(tmp_path / "a.conll")
