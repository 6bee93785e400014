from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.config.prepare_params import Augment
from potstill.errors import ModelError
from potstill.models.word_replacement import GUESSES, _drawn, replace_words
from tests.conftest import BAD, GOOD, NEUTRAL, generate_rows

TEXTS = [text for text, _ in generate_rows(30)]
KNOWN = {*GOOD, *BAD, *NEUTRAL}


def make_generator(folder: Path, base: Path, favoured: list[str]) -> Path:
    """Make a masked language model that predicts the favoured words everywhere, the first as the most likely."""
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight.zero_()
        model.cls.predictions.transform.LayerNorm.weight.zero_()
        model.cls.predictions.bias.zero_()
        for place, word in enumerate(favoured):
            model.cls.predictions.bias[tokenizer.convert_tokens_to_ids(word)] = 50.0 - 0.1 * place
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(tiny_base: Path) -> list[str]:
    """List words that are one token each."""
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(tiny_base).get_vocab()
    return [word for word in [*GOOD, *BAD, *NEUTRAL] if word in vocabulary]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, words: list[str]) -> Path:
    # More words than `GUESSES`, after tokens that must not be drawn.
    return make_generator(
        tmp_path_factory.mktemp("generator") / "g", tiny_base, ["[MASK]", "##e", "[SEP]", *words[: GUESSES + 3]]
    )


def changed(original: str, copy: str) -> list[tuple[str, str]]:
    return [(was, now) for was, now in zip(original.split(), copy.split(), strict=True) if was != now]


def test_a_share_of_the_words_is_replaced_by_likely_predictions(generator: Path, words: list[str]) -> None:
    made = replace_words(TEXTS, Augment(replacements=2, share=0.3), generator, "cpu")
    assert len(made) == 2 * len(TEXTS)
    said = set()
    for place, copy in enumerate(made):
        pairs = changed(TEXTS[place // 2], copy)
        single = sum(word in words for word in TEXTS[place // 2].split())
        assert 1 <= len(pairs) <= 0.3 * len(copy.split()) + 1
        assert single >= len(pairs)
        said |= {now for _, now in pairs}
    # If the original word is among the most likely ones, the next takes its place.
    assert said <= set(words[: GUESSES + 1])
    assert len(said) > GUESSES / 2


def test_draws_depend_on_the_text_and_the_seed(generator: Path) -> None:
    params = Augment(replacements=1)
    first = replace_words(TEXTS, params, generator, "cpu")
    assert replace_words(TEXTS, params, generator, "cpu") == first
    assert replace_words(TEXTS[10:], params, generator, "cpu") == first[10:]
    assert replace_words(TEXTS, Augment(replacements=1, seed=1), generator, "cpu") != first


def test_a_word_is_drawn_by_its_probability_among_allowed_tokens() -> None:
    logits = torch.tensor([9.0, 1.0, 2.0, 0.0, 8.0])
    able = torch.tensor([False, True, True, True, False])
    shares = torch.tensor([2.0, 1.0, 0.0]).softmax(0).cumsum(0)
    draws = [0.0, float(shares[0]) - 0.01, float(shares[0]) + 0.01, float(shares[1]) + 0.01, 1.0]
    assert [_drawn(logits, able, draw) for draw in draws] == [2, 2, 1, 3, 3]


def test_text_around_the_words_stays_the_same(generator: Path) -> None:
    text = "The  movie, (superb!) -- 42 garden?"
    (made,) = replace_words([text], Augment(replacements=1, share=0.9), generator, "cpu")
    assert made != text
    strip = str.maketrans("", "", "abcdefghijklmnopqrstuvwxyzT0123456789")
    assert made.translate(strip) == text.translate(strip)


def test_a_text_without_single_token_words_has_no_copies(generator: Path) -> None:
    assert replace_words(["?!", "zzzzqqqq"], Augment(replacements=3), generator, "cpu") == []


def test_an_encoder_without_a_head_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="cannot predict masked tokens; name a"):
        replace_words(TEXTS, Augment(replacements=1), tiny_base, "cpu")


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path, generator: Path) -> None:
    import json

    folder: Any = shutil.copytree(generator, tmp_path / "g")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("mask_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="has no mask token"):
        replace_words(TEXTS, Augment(replacements=1), folder, "cpu")
