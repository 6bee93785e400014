from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potstill.data.tokens.tokenization import load_tokenizer
from potstill.errors import ModelError
from potstill.models.students.vocabulary import (
    dropped_words,
    scripts_of,
    select_ids,
    trim_embeddings,
    trim_tokenizer,
    trimmed_tokenizer,
)
from potstill.pretrained.families import FAMILIES
from tests.conftest import BAD, GLUE, GOOD, NEUTRAL, generate_rows
from tests.potstill.models.tiny import batch, make

TEXTS = [text for text, _ in generate_rows(300, seed=1)]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece() -> Any:
    trained = Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    trained.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    special = [BERT[0], "[unused1]", *BERT[1:]]  # as in the released ones
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    return transformers.BertTokenizer(vocab=trained.get_vocab())


def byte_bpe() -> Any:
    trained = Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=450, special_tokens=ROBERTA, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    trained.train_from_iterator(TEXTS, trainer)
    model = json.loads(trained.to_str())["model"]
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def suffix_bpe() -> Any:
    """A BPE tokenizer with marks inside and at the end of words, and [UNK] for unknown characters."""
    trained = Tokenizer(
        tokenizers.models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>", continuing_subword_prefix="@@")
    )
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()  # type: ignore[assignment]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=200, special_tokens=BERT, show_progress=False,
        end_of_word_suffix="</w>", continuing_subword_prefix="@@",
    )  # fmt: skip
    trained.train_from_iterator(TEXTS, trainer)
    trained.post_processor = tokenizers.processors.BertProcessing(  # type: ignore[assignment]
        ("[SEP]", trained.token_to_id("[SEP]")), ("[CLS]", trained.token_to_id("[CLS]"))
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=trained, **names)


def unigram() -> Any:
    trained = Tokenizer(tokenizers.models.Unigram())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()  # type: ignore[assignment]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=200, special_tokens=ROBERTA[:4], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    vocabulary = json.loads(trained.to_str())["model"]["vocab"]
    return transformers.XLMRobertaTokenizer(vocab=[(piece, score) for piece, score in [*vocabulary, ["<mask>", 0.0]]])


# (How a tokenizer is built, class of the models that use it)
MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "wordpiece": (wordpiece, "bert"),
    "byte_bpe": (byte_bpe, "roberta"),
    "suffix_bpe": (suffix_bpe, "distilbert"),
    "unigram": (unigram, "xlm-roberta"),
}
KINDS = sorted(MADE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of each kind of tokenizer, as save_pretrained writes them."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        MADE[kind][0]().save_pretrained(folder)
    return made


class Parsed(dict[str, tuple[dict[str, Any], Tokenizer]]):
    """Parsed tokenizer.json and tokenizer of each kind; hypothesis prints it."""

    def __repr__(self) -> str:
        return "parsed"


@pytest.fixture(scope="module")
def parsed(folders: dict[str, Path]) -> Parsed:
    read = {kind: Tokenizer.from_file(str(folder / "tokenizer.json")) for kind, folder in folders.items()}
    return Parsed({kind: (json.loads(tokenizer.to_str()), tokenizer) for kind, tokenizer in read.items()})


def count(tokenizer: Tokenizer, texts: list[str]) -> Counter[int]:
    return Counter(index for text in texts for index in tokenizer.encode(text).ids)


def cut(parsed: tuple[dict[str, Any], Tokenizer], texts: list[str], min_count: int = 1) -> tuple[list[int], Tokenizer]:
    source, tokenizer = parsed
    before = copy.deepcopy(source)
    kept = select_ids(source, count(tokenizer, texts), min_count=min_count)
    trimmed = Tokenizer.from_str(json.dumps(trimmed_tokenizer(source, kept)))
    assert source == before
    return kept, trimmed


# Words of the training text, made-up ones of its letters, and anything.
words = some.one_of(
    some.sampled_from(GOOD + BAD + NEUTRAL + GLUE),
    some.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12),
    some.text(min_size=1, max_size=4),
)
texts = some.lists(words, max_size=12).map(" ".join)
check = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", KINDS)
@check
@given(corpus=some.lists(texts, max_size=4))
def test_the_corpus_is_tokenized_as_before(kind: str, parsed: Parsed, corpus: list[str]) -> None:
    tokenizer = parsed[kind][1]
    kept, trimmed = cut(parsed[kind], corpus)
    assert kept == sorted(kept)
    assert sorted(trimmed.get_vocab().values()) == list(range(len(kept)))
    for text in corpus:
        before, after = tokenizer.encode(text, corpus[0]), trimmed.encode(text, corpus[0])
        assert after.tokens == before.tokens
        assert after.type_ids == before.type_ids
        assert [kept[index] for index in after.ids] == before.ids


@pytest.mark.parametrize("kind", KINDS)
@check
@given(corpus=some.lists(texts, max_size=2), text=texts, min_count=some.integers(1, 3))
def test_no_text_becomes_unknown(kind: str, parsed: Parsed, corpus: list[str], text: str, min_count: int) -> None:
    tokenizer = parsed[kind][1]
    _, trimmed = cut(parsed[kind], corpus, min_count)
    before, after = tokenizer.encode(text), trimmed.encode(text)
    assert unknown(trimmed, after.ids) == unknown(tokenizer, before.ids)
    assert letters(after.tokens) == letters(before.tokens)


def unknown(tokenizer: Tokenizer, ids: list[int]) -> int:
    """Count the unknown token among the ids; a Unigram's `tokens` show the character instead."""
    unk = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")} - {None}
    assert len(unk) == 1
    return sum(index in unk for index in ids)


def letters(tokens: list[str]) -> str:
    """Join tokens without their marks of the position in a word."""
    return "".join(token.removeprefix("##").removeprefix("@@").removesuffix("</w>") for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_folder_and_its_model(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    source, corpus = folders[kind], ["the movie is superb", "a dull plot, under the bridge"]
    counts = count(load_tokenizer(source, 64), corpus)
    new = trim_tokenizer(source, tmp_path / "trimmed", counts)
    old_tokens = AutoTokenizer.from_pretrained(source)
    model = make(MADE[kind][1], vocab_size=len(old_tokens) + 3, pad_token_id=old_tokens.pad_token_id)
    trimmed = trim_embeddings(model, list(new))
    trimmed.save_pretrained(tmp_path / "trimmed")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trimmed")
    new_tokens = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    assert type(new_tokens) is type(old_tokens)
    assert len(new_tokens) == len(new) == loaded.config.vocab_size < len(old_tokens)
    assert new_tokens.pad_token_id == loaded.config.pad_token_id
    old, ours = (it(corpus, padding=True, return_tensors="pt") for it in (old_tokens, new_tokens))
    assert [[new[index] for index in row] for row in old["input_ids"].tolist()] == ours["input_ids"].tolist()
    with torch.no_grad():
        assert torch.equal(model(**old).logits, trimmed(**ours).logits)
        assert torch.equal(model(**old).logits, loaded(**ours).logits)
    dropped = model.num_parameters() - loaded.num_parameters()
    assert dropped == 32 * (len(old_tokens) + 3 - len(new))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_tokenizer_survives_save_pretrained(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    trim_tokenizer(folders[kind], tmp_path / "trimmed", count(load_tokenizer(folders[kind], 64), TEXTS[:5]))
    trimmed = AutoTokenizer.from_pretrained(tmp_path / "trimmed")
    trimmed.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    fast = load_tokenizer(tmp_path / "trimmed", 512)
    for text in [*TEXTS[:20], "Unheard-of wörds, 中文 <mask> [MASK]"]:
        ids = trimmed(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert fast.encode(text).ids == ids
        assert trimmed.decode(ids, skip_special_tokens=True) == again.decode(ids, skip_special_tokens=True)


def test_only_seen_tokens_special_tokens_and_characters_are_kept(parsed: Parsed) -> None:
    source, tokenizer = parsed["wordpiece"]
    _, trimmed = cut(parsed["wordpiece"], ["movie superb"])
    seen = set(tokenizer.encode("movie superb").tokens)
    rest = set(trimmed.get_vocab()) - seen - set(BERT)
    assert all(len(token.removeprefix("##")) == 1 for token in rest)
    assert {token for token in source["model"]["vocab"] if len(token.removeprefix("##")) == 1} <= rest | seen
    assert "[unused1]" not in trimmed.get_vocab()


def test_rare_tokens_are_dropped(parsed: Parsed) -> None:
    corpus = ["movie movie movie", "movie superb"]
    _, trimmed = cut(parsed["wordpiece"], corpus, min_count=2)
    assert trimmed.encode("movie").tokens == ["[CLS]", "movie", "[SEP]"]
    assert "superb" not in trimmed.get_vocab()
    assert len(trimmed.encode("superb").tokens) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_keeps_the_most_frequent_tokens(kind: str, parsed: Parsed) -> None:
    source, tokenizer = parsed[kind]
    counts = count(tokenizer, TEXTS)
    least, whole = len(select_ids(source, {})), len(select_ids(source, counts))
    assert select_ids(source, counts, max_tokens=whole) == select_ids(source, counts)
    before: set[int] = set()
    for limit in range(least, whole, 5):
        kept = set(select_ids(source, counts, max_tokens=limit))
        # A BPE token comes with the parts it is merged from.
        assert limit - 12 <= len(kept) <= limit if "bpe" in kind else len(kept) == limit
        assert before <= kept
        added, left = kept - before, set(counts) - kept
        if before and "bpe" not in kind:
            assert min(counts[index] for index in added) >= max(counts[index] for index in left)
        before = kept
    with pytest.raises(ModelError, match=f"max_tokens of the vocabulary is {least - 1}, but special .* are {least};"):
        select_ids(source, counts, max_tokens=least - 1)


def test_the_script_of_a_text_is_that_of_its_letters_and_marks() -> None:
    assert scripts_of(["Good 12!", "фильм", "电影 ▁"]) == {"LATIN", "CYRILLIC", "CJK"}
    assert scripts_of([""]) == set()


def of_several_scripts(**options: Any) -> tuple[dict[str, Any], Tokenizer]:
    """A Unigram tokenizer of Latin, Cyrillic and Chinese."""
    pieces = ["<unk>", *"▁adgo12!", *"жильмф", *"电影院", "▁good", "▁фильм", "电影"]
    model = tokenizers.models.Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], **options)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = tokenizers.decoders.Metaspace()  # type: ignore[assignment]
    return json.loads(tokenizer.to_str()), tokenizer


def test_characters_of_other_scripts_become_unknown() -> None:
    source, tokenizer = of_several_scripts(unk_id=0)
    counts = count(tokenizer, ["good 12", "dog"])
    trimmed = Tokenizer.from_str(json.dumps(trimmed_tokenizer(source, select_ids(source, counts, scripts={"LATIN"}))))
    assert set(trimmed.get_vocab()) == {"<unk>", *"▁adgo12!", "▁good", "电影"}  # the last is the least likely token
    assert trimmed.encode("good 12 a!").tokens == tokenizer.encode("good 12 a!").tokens
    assert set(trimmed.encode("фильм").ids[1:]) == {trimmed.token_to_id("<unk>")}
    whole = Tokenizer.from_str(json.dumps(trimmed_tokenizer(source, select_ids(source, counts))))
    assert whole.encode("фильм").tokens == ["▁", *"фильм"]


def test_without_an_unknown_token_no_character_is_dropped(parsed: Parsed) -> None:
    """A character that is neither in the vocabulary nor unknown would vanish, or end in an error."""
    source, _ = of_several_scripts()
    assert select_ids(source, {}, scripts=set()) == select_ids(source, {})
    source, _ = parsed["byte_bpe"]
    assert select_ids(source, {}, scripts=set()) == select_ids(source, {})


def test_words_of_other_scripts_are_not_spelled() -> None:
    source, tokenizer = of_several_scripts(unk_id=0)
    kept = select_ids(source, {}, scripts={"LATIN"})
    assert dropped_words(tokenizer, kept, scripts={"LATIN"}) == ["good"]
    assert dropped_words(tokenizer, kept) == ["good", "фильм"]


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_words_are_one_token_before_and_others_after(kind: str, parsed: Parsed) -> None:
    source, tokenizer = parsed[kind]
    kept, trimmed = cut(parsed[kind], TEXTS, min_count=200)
    words = dropped_words(tokenizer, kept)
    assert len(words) == len(set(words)) > 5
    for word in words:
        (index,) = tokenizer.encode(word, add_special_tokens=False).ids
        assert index not in kept
        assert len(trimmed.encode(word, add_special_tokens=False).ids) > 1
    assert not dropped_words(tokenizer, range(tokenizer.get_vocab_size()))
    if kind == "wordpiece":
        lost = {token for token, index in source["model"]["vocab"].items() if index not in kept}
        assert set(words) == {token for token in lost if token[:2] != "##" and token != "[unused1]"}


def test_a_bpe_token_keeps_all_tokens_it_is_merged_from(parsed: Parsed) -> None:
    _, trimmed = cut(parsed["byte_bpe"], ["the evening"])
    merges = json.loads(trimmed.to_str())["model"]["merges"]
    assert all({left, right, left + right} <= set(trimmed.get_vocab()) for left, right in merges)
    assert trimmed.encode("the evening").tokens == parsed["byte_bpe"][1].encode("the evening").tokens


def test_a_word_with_a_character_known_only_inside_tokens() -> None:
    """The documented exception: 'abc' was unknown, because 'ab' is the longest match and '##c' is not a token."""
    vocabulary = ["[UNK]", "a", "b", "c", "##a", "##b", "ab", "##bc"]
    tokenizer = Tokenizer(
        tokenizers.models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    parsed = (json.loads(tokenizer.to_str()), tokenizer)
    kept, trimmed = cut(parsed, ["abc a b"])
    assert [vocabulary[index] for index in kept] == ["[UNK]", "a", "b", "c", "##a", "##b", "##bc"]
    assert tokenizer.encode("abc").tokens == ["[UNK]"]
    assert trimmed.encode("abc").tokens == ["a", "##bc"]


def test_the_score_of_the_unknown_token_stays_the_same() -> None:
    """A Unigram's unknown token scores 10 less than its least likely token; without 'zz' it would win here."""
    pieces = [("<unk>", 0.0), ("a", -12.0), ("z", -12.0), ("aaa", -1.0), ("ac", -14.0), ("zz", -30.0)]
    tokenizer = Tokenizer(tokenizers.models.Unigram(pieces, 0))
    _, trimmed = cut((json.loads(tokenizer.to_str()), tokenizer), ["aaac", "aaa"])
    assert tokenizer.encode("aaac").tokens == trimmed.encode("aaac").tokens == ["a", "a", "ac"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing", "TemplateProcessing"])
def test_ids_of_special_tokens_are_updated(kind: str, inside: bool) -> None:
    vocabulary = ["[unused0]", "[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "a"]
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    if kind == "TemplateProcessing":
        post = tokenizers.processors.TemplateProcessing("[CLS] $0 [SEP]", None, [("[CLS]", 4), ("[SEP]", 5)])
    else:
        post = getattr(tokenizers.processors, kind)(("[SEP]", 5), ("[CLS]", 4))
    tokenizer.post_processor = tokenizers.processors.Sequence([post]) if inside else post  # type: ignore[assignment]
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", length=5)
    kept, trimmed = cut((json.loads(tokenizer.to_str()), tokenizer), ["a"])
    assert [vocabulary[index] for index in kept] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"]
    assert trimmed.encode("a").ids == [2, 4, 3, 0, 0]
    assert trimmed.encode("a").tokens == tokenizer.encode("a").tokens


def test_other_tokenizer_files_are_trimmed(parsed: Parsed, folders: dict[str, Path], tmp_path: Path) -> None:
    """Folders of older releases have several copies of the vocabulary."""
    source = tmp_path / "source"
    tokenizer = Tokenizer.from_file(str(folders["byte_bpe"] / "tokenizer.json"))
    transformers.PreTrainedTokenizerFast.from_pretrained(folders["byte_bpe"]).save_pretrained(source)
    tokenizer.model.save(str(source))
    added = {"<mask>": tokenizer.token_to_id("<mask>")}
    (source / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    (source / "sentencepiece.bpe.model").write_bytes(b"binary")
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    decoder = {str(tokenizer.token_to_id(token)): {"content": token, "special": True} for token in ROBERTA}
    config |= {"added_tokens_decoder": decoder, "extra_special_tokens": ["Ġevening"]}
    (source / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    target = tmp_path / "target"
    new = trim_tokenizer(source, target, count(tokenizer, ["the movie"]))
    trimmed = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert json.loads((target / "vocab.json").read_text(encoding="utf-8")) == trimmed["vocab"]
    merges = (target / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert merges == [" ".join(merge) for merge in trimmed["merges"]]
    mask = trimmed["vocab"]["<mask>"]
    assert json.loads((target / "added_tokens.json").read_text(encoding="utf-8")) == {"<mask>": mask}
    settings = json.loads((target / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert {int(index): token["content"] for index, token in settings["added_tokens_decoder"].items()} == {
        new[tokenizer.token_to_id(token)]: token for token in ROBERTA
    }
    assert "Ġevening" in trimmed["vocab"]  # a lost one would be added anew
    assert not (target / "sentencepiece.bpe.model").exists()


def test_vocab_txt_and_an_older_tokenizer_json(folders: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    written = json.loads((folders["wordpiece"] / "tokenizer.json").read_text(encoding="utf-8"))
    del written["model"]["type"]
    (source / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    tokens = sorted(written["model"]["vocab"], key=written["model"]["vocab"].__getitem__)
    (source / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    new = trim_tokenizer(source, tmp_path / "target", {10: 1})
    lines = (tmp_path / "target" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [tokens[old] for old in new]


def test_tokenizers_that_cannot_be_trimmed_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="a WordLevel tokenizer cannot be trimmed; WordPiece, BPE, Unigram can"):
        trim_tokenizer(tmp_path, tmp_path / "out", {})
    with pytest.raises(ModelError, match="have the token id 9999, the tokenizer does not"):
        trim_tokenizer(folders["wordpiece"], tmp_path / "out", {9999: 1})
    with pytest.raises(ModelError, match="over its source"):
        trim_tokenizer(folders["wordpiece"], folders["wordpiece"], {})
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        trim_tokenizer(tmp_path / "nothing", tmp_path / "out", {})
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        trim_tokenizer(tmp_path, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_ids_that_cannot_be_made_contiguous_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    written = json.loads((folders["wordpiece"] / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    hole = vocabulary.pop("movie")  # an added token in its place, which no loader of tokenizer.json would give it
    written["added_tokens"].append(dict(written["added_tokens"][0], content="<extra>", id=hole))
    (tmp_path / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(ModelError, match="lie among the others"):
        trim_tokenizer(tmp_path, tmp_path / "out", {})


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM"])
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_embeddings_of_every_class_are_trimmed(kind: str, head: str) -> None:
    model, state = make(kind, head), torch.get_rng_state()
    kept = [0, 1, 2, 3, 4, *range(5, 50, 3)]
    trimmed = trim_embeddings(model, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert (trimmed.config.vocab_size, model.config.vocab_size) == (len(kept), 50)
    inputs = batch(len(kept))
    old = inputs | {"input_ids": torch.tensor(kept)[inputs["input_ids"]]}
    with torch.no_grad():
        ours, theirs = trimmed(**inputs).logits, model(**old).logits
    if head == "ForMaskedLM":
        assert torch.allclose(ours, theirs[..., kept], atol=1e-4)
        decoder, embedding = trimmed.get_output_embeddings(), trimmed.get_input_embeddings()
        assert decoder.weight is embedding.weight
    else:
        assert torch.equal(ours, theirs)


def test_the_bias_of_a_head_without_a_decoder_is_trimmed() -> None:
    model = make("deberta-v2", "ForMaskedLM", legacy=False)
    kept = list(range(0, 50, 2))
    model.config.pad_token_id = 0
    trimmed = trim_embeddings(model, kept)
    assert trimmed.lm_predictions.lm_head.bias.shape == (25,)


def test_special_ids_of_the_config_are_updated() -> None:
    model = make("modernbert", bos_token_id=6, eos_token_id=[8, 9], sep_token_id=10, cls_token_id=6)
    config = trim_embeddings(model, [1, 6, 8, 20]).config
    assert (config.pad_token_id, config.bos_token_id, config.cls_token_id) == (0, 1, 1)
    assert (config.eos_token_id, config.sep_token_id) == ([2], None)


@pytest.mark.parametrize("kept", [[], [1, 1, 2], [2, 1], [-1, 1], [1, 50]])
def test_ids_that_the_model_lacks_are_refused(kept: list[int]) -> None:
    with pytest.raises(ModelError, match="ascending and from 0 to 49"):
        trim_embeddings(make("bert"), kept)


def test_a_dropped_or_moved_pad_token_is_refused() -> None:
    with pytest.raises(ModelError, match=r"pad token \(id 0\) is not among the ids"):
        trim_embeddings(make("bert"), [1, 2])
    with pytest.raises(ModelError, match="counts positions from its pad token, whose id cannot change from 1 to 0"):
        trim_embeddings(make("roberta"), [1, 2])
    assert trim_embeddings(make("electra"), [1, 2]).get_input_embeddings().padding_idx == 0


@pytest.mark.slow
def test_a_vocabulary_of_a_hundred_thousand_pieces_is_trimmed_in_seconds(tmp_path: Path) -> None:
    """Once the table of tokens was built again for each kept token, which took hours for multilingual models."""
    letters = "abcdefghij"
    pieces = [("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    pieces += [(f"▁{number:05d}".translate(str.maketrans("0123456789", letters)), -3.0) for number in range(100_000)]
    tokenizer = Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    (tmp_path / "whole").mkdir()
    tokenizer.save(str(tmp_path / "whole/tokenizer.json"))
    start = time.process_time()
    new = trim_tokenizer(tmp_path / "whole", tmp_path / "trimmed", dict.fromkeys(range(12, 8_012), 1))
    words = dropped_words(tokenizer, new, most=500)
    assert time.process_time() - start < 60  # seconds; one table for each kept token would be minutes
    # The least likely piece, and pieces that are seen or always kept.
    assert len(new) == 8_012 == Tokenizer.from_file(str(tmp_path / "trimmed/tokenizer.json")).get_vocab_size()
    assert len(words) == 500
    assert words == dropped_words(tokenizer, new)[:500]
