from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from potstill.data.tokens.coverage import check_cut, check_unknown, fitting_length, measure_coverage
from potstill.errors import TokenizationError

CHINESE = ["这部电影的故事很感人，演员的表演也十分出色。", "剧情拖沓，毫无新意，看得我昏昏欲睡。"] * 10
ENGLISH = ["a tender and witty film about growing old", "dull, clumsy and far too long"] * 10


def test_an_english_tokenizer_hardly_knows_chinese(default_base: Path) -> None:
    assert measure_coverage(default_base, ENGLISH).unknown_share == 0.0
    share = measure_coverage(default_base, CHINESE).unknown_share
    assert share > 0.4
    with pytest.raises(TokenizationError, match=r"does not know \d+\.\d% of the tokens in train, over the limit of 10"):
        check_unknown(share, 0.1)
    check_unknown(share, None)


def test_lengths_are_those_of_whole_texts(default_base: Path) -> None:
    coverage = measure_coverage(default_base, ["word " * count for count in range(1, 101)])
    assert coverage.lengths.tolist() == list(range(3, 103))
    assert coverage.quantile(0.5) == 53
    assert coverage.cut_share(52) == 0.5
    assert coverage.mean(52) < coverage.mean(512)
    assert fitting_length(coverage, 512) == 128
    assert fitting_length(coverage, 64) == 64
    assert fitting_length(coverage, 20) == 20
    with pytest.raises(TokenizationError, match="half of the texts have at most 53 tokens"):
        check_cut(coverage.cut_share(32), 32, 0.5, coverage)


def test_pairs_are_one_sequence(default_base: Path) -> None:
    assert measure_coverage(default_base, [("a film", "a book")]).lengths.tolist() == [7]


def test_the_unknown_token_of_a_unigram_model_is_found_by_number(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁good", -1.0), ("▁bad", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert measure_coverage(tmp_path, ["good bad", "好 good"]).unknown_share == 0.25
    assert measure_coverage(tmp_path, ["good bad"]).unknown_share == 0.0


def test_no_texts_have_no_lengths(default_base: Path) -> None:
    nothing = measure_coverage(default_base, [])
    assert (nothing.quantile(0.5), nothing.cut_share(8), nothing.mean(8), nothing.unknown_share) == (0, 0.0, 0.0, 0.0)
