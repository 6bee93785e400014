"""A vocabulary cut to what the corpora use: smaller embeddings, same logits (Abdaoui et al. 2020, Load What You Need).

A text whose tokens are all kept is split exactly as before:

- WordPiece takes the longest match first, and the longest match is still there.
- BPE applies the best-ranked merge first. Of every kept token all the tokens it can be merged from are kept, and so
  every merge on the way to it; the merges that are gone did not apply to the text.
- Unigram takes the most likely path, which is still there among fewer. (Its score of the unknown follows from the
  least likely token; that one is kept too.)

Any other text is split into shorter tokens, at worst single characters, all of which are kept. A character that the
vocabulary knows only inside longer tokens (`tokenizers` trains none) keeps all tokens it is in. Words with
such a character are the one exception: with other tokens around them gone, they can become known or unknown.
"""

from __future__ import annotations

import copy
import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import read_json, write_text
from potstill.errors import ModelError
from potstill.pretrained.families import family_of
from potstill.pretrained.files import TOKENIZER_FILES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

KINDS = ("WordPiece", "BPE", "Unigram")
# Binary twins of tokenizer.json with the whole vocabulary; transformers would prefer them to it.
_DROPPED = {"spiece.model", "sentencepiece.bpe.model"}

_WORDS_AT_ONCE = 10_000

# The parsed tokenizer.json, as the current release of `tokenizers` writes it.
TokenizerJson = Mapping[str, Any]


# --- the tokenizer --------------------------------------------------------------------------------------------------


def kept_ids(
    tokenizer: TokenizerJson,
    counts: Mapping[int, int],
    *,
    min_count: int = 1,
    max_tokens: int | None = None,
    names: Iterable[str] = (),
) -> list[int]:
    """The ids to keep, ascending: a kept token's new id is its place in this list.

    Kept are the special and added tokens, the tokens seen, single characters in all their forms ('c', '##c', 'c</w>',
    bytes), and what these need; see the module.

    Args:
        tokenizer: the parsed tokenizer.json.
        counts: token id -> how often the corpora have it; for a mere set of ids `dict.fromkeys(ids, 1)`.
        min_count: a token seen less often is dropped, and the texts that have it are split into shorter tokens.
        max_tokens: of all that is kept; those seen most often come first, of equals the one with the lower id.
        names: further tokens to keep, as the special tokens of tokenizer_config.json.

    Raises:
        ModelError: a kind of tokenizer that cannot be trimmed, an id that it does not have, or a limit below the
            tokens that are kept in any case.
    """
    tokens = _tokens(tokenizer)
    unknown = sorted(set(counts) - set(tokens))
    if unknown:
        raise ModelError(
            f"the corpora have the token id {unknown[0]}, the tokenizer does not; count the tokens of this tokenizer"
        )
    model = tokenizer["model"]
    always = _special(tokenizer) | set(names)
    always |= {token for token in tokens.values() if len(_core(token, model)) == 1 or _is_byte(token, model)}
    always |= _irregular(model)
    seen = sorted((index for index in counts if counts[index] >= min_count), key=lambda index: (-counts[index], index))

    def kept(most: int) -> list[int]:
        wanted = always | {tokens[index] for index in seen[:most]}
        wanted |= _parts(model, wanted)
        return sorted(index for index, token in tokens.items() if token in wanted)

    most = len(seen)
    if max_tokens is not None:  # what is kept grows with the tokens seen
        most = bisect_right(range(len(seen) + 1), max_tokens, key=lambda most: len(kept(most))) - 1
    if most < 0:
        raise ModelError(
            f"max_tokens of the vocabulary is {max_tokens:,}, but special tokens and single characters alone are "
            f"{len(kept(0)):,}; set it to at least that"
        )
    return kept(most)


def dropped_words(tokenizer: Tokenizer, kept: Collection[int], most: int | None = None) -> list[str]:
    """Texts that are one dropped token each: what a student with the trimmed vocabulary has to spell.

    Args:
        tokenizer: the whole one.
        kept: ids that the trimmed one keeps.
        most: how many to return at most. Tokenizers are trained to give frequent tokens low ids, so that the first
            are those that texts are most likely to have; None: all.

    Returns:
        In the order of the ids, without doubles; tokens that no text becomes by itself, as the inside of a word, are
        not among them.
    """
    known, vocabulary = set(kept), tokenizer.get_vocab()
    unheard = _bracketed(vocabulary)
    lost = sorted(index for token, index in vocabulary.items() if index not in known and token not in unheard)
    # A decoder takes the mark of a word's end away, where the tokenizer has one.
    end = getattr(tokenizer.model, "end_of_word_suffix", None) or ""
    decoded = tokenizer.decode_batch([[index] for index in lost])
    texts = list(filter(None, dict.fromkeys(text.removesuffix(end).strip() for text in decoded)))
    words: list[str] = []
    for start in range(0, len(texts), _WORDS_AT_ONCE):
        part = texts[start : start + _WORDS_AT_ONCE]
        encodings = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        pairs = zip(part, encodings, strict=True)
        words += [text for text, encoding in pairs if _is_one_token(encoding.ids, known)]
        if most is not None and len(words) >= most:
            return words[:most]
    return words


def _is_one_token(ids: Sequence[int], kept: Collection[int]) -> bool:
    return len(ids) == 1 and ids[0] not in kept


def trimmed_tokenizer(tokenizer: TokenizerJson, kept: Sequence[int]) -> dict[str, Any]:
    """A tokenizer.json with only the tokens of the given old ids; `kept[new id]` is the old one.

    Raises:
        ModelError: a kind of tokenizer that cannot be trimmed.
    """
    new = {old: index for index, old in enumerate(kept)}
    trimmed = copy.deepcopy(dict(tokenizer))
    old_model, model = tokenizer["model"], trimmed["model"]
    if _kind(tokenizer) == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(old_model["vocab"]) if index in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        ordered = sorted(old_model["vocab"].items(), key=lambda item: item[1])
        model["vocab"] = {token: new[index] for token, index in ordered if index in new}
    if "merges" in model:
        there = set(model["vocab"])
        model["merges"] = [
            merge for merge, (*parts, result) in zip(model["merges"], _merges(old_model), strict=True)
            if there.issuperset([*parts, result])
        ]  # fmt: skip
    for added in trimmed.get("added_tokens") or []:
        added["id"] = new[added["id"]]
    if trimmed.get("padding"):
        trimmed["padding"]["pad_id"] = new[trimmed["padding"]["pad_id"]]
    _renumber(trimmed.get("post_processor"), new)
    return trimmed


def trim_tokenizer(
    source: Path, target: Path, counts: Mapping[int, int], *, min_count: int = 1, max_tokens: int | None = None
) -> dict[int, int]:
    """Write the trimmed form of a tokenizer folder; its binary SentencePiece model is left out.

    Args:
        source: a folder with tokenizer.json.
        target: the folder to write, another one.
        counts, min_count, max_tokens: see `kept_ids`.

    Returns:
        Old id -> new id of every kept token, ascending in both; its keys are the `kept` of `trim_embeddings`.

    Raises:
        ModelError: tokenizer.json is missing, of a kind that cannot be trimmed or with ids that cannot be made dense,
            or see `kept_ids`.
    """
    if target.resolve() == source.resolve():
        raise ModelError(f"the trimmed tokenizer cannot be written over its source {source}; give another folder")
    tokenizer = _read(source / "tokenizer.json")
    kept = kept_ids(tokenizer, counts, min_count=min_count, max_tokens=max_tokens, names=_named(source))
    trimmed = trimmed_tokenizer(tokenizer, kept)
    tokens = _tokens(tokenizer)
    _check_ids(trimmed, [tokens[index] for index in kept], source)
    new = {old: index for index, old in enumerate(kept)}
    write_text(target / "tokenizer.json", _json(trimmed))
    for name in TOKENIZER_FILES:
        if name != "tokenizer.json" and name not in _DROPPED and (source / name).exists():
            write_text(target / name, _side_file(name, source / name, trimmed, new))
    return new


# --- the model ------------------------------------------------------------------------------------------------------


def trim_embeddings(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A copy of a model with only the given rows of its vocabulary; logits of a classifier stay the same to the bit.

    Everything with a row for each token is cut: word embeddings (V, E) -> (K, E), and a masked LM's decoder and
    biases. `config.vocab_size` becomes K, and every `*_token_id` of the config moves along; one that is not kept
    becomes None. The copy is fp32, in evaluation mode; the global random state is left as it was.

    Args:
        model: a model of a class in `families.FAMILIES`, with or without a head.
        kept: old ids, ascending, each at the place that is its new id, as `trim_tokenizer` returns them.

    Raises:
        ModelError: ids out of order or that the model does not have, or a pad token that is lost or cannot move.
    """
    import torch

    config = _trimmed_config(model.config, kept)
    with torch.random.fork_rng(devices=[]):
        trimmed = type(model)(config)
    rows = torch.tensor(list(kept))
    state = {}
    wanted = trimmed.state_dict()
    for name, value in model.state_dict().items():
        cut = value.shape != wanted[name].shape
        state[name] = value[rows.to(value.device)] if cut else value
    trimmed.load_state_dict(state)
    return trimmed.eval()


def _trimmed_config(old: PreTrainedConfig, kept: Sequence[int]) -> PreTrainedConfig:
    family = family_of(old)
    new = {index: place for place, index in enumerate(kept)}
    if not kept or list(kept) != sorted(new) or kept[0] < 0 or kept[-1] >= old.vocab_size:
        raise ModelError(
            f"the ids to keep have to be ascending and from 0 to {old.vocab_size - 1}, the rows of the model's "
            "embeddings; trim the model with the ids of its own tokenizer"
        )
    pad = old.pad_token_id
    if pad is not None and pad not in new:
        raise ModelError(f"the pad token (id {pad}) is not among the ids to keep; make it a special token")
    if family.positions_from_pad and pad is not None and new[pad] != pad:
        raise ModelError(
            f"a {old.model_type} model counts positions from its pad token, whose id cannot change from {pad} to "
            f"{new[pad]}; keep all ids below it"
        )
    config = copy.deepcopy(old)
    config.vocab_size = len(kept)
    for key in (key for key in old.to_dict() if key.endswith("_token_id")):
        value = getattr(old, key)
        moved = [new[item] for item in value if item in new] if isinstance(value, list) else new.get(value)
        setattr(config, key, moved)
    return config


# --- inside tokenizer.json ------------------------------------------------------------------------------------------


def _kind(tokenizer: TokenizerJson) -> str:
    kind = str(tokenizer["model"].get("type"))
    if kind not in KINDS:
        raise ModelError(f"a {kind} tokenizer cannot be trimmed; {', '.join(KINDS)} can")
    return kind


def _tokens(tokenizer: TokenizerJson) -> dict[int, str]:
    """Id -> token, of the model and of the added tokens."""
    vocabulary = tokenizer["model"]["vocab"]
    if _kind(tokenizer) == "Unigram":
        tokens = {index: str(piece) for index, (piece, _) in enumerate(vocabulary)}
    else:
        tokens = {index: str(token) for token, index in vocabulary.items()}
    return tokens | {added["id"]: added["content"] for added in tokenizer.get("added_tokens") or []}


def _special(tokenizer: TokenizerJson) -> set[str]:
    """Tokens that the tokenizer itself names, and Unigram's least likely one."""
    model = tokenizer["model"]
    names = {added["content"] for added in tokenizer.get("added_tokens") or []}
    names |= {str(model["unk_token"])} if model.get("unk_token") is not None else set()
    if model["type"] == "Unigram":
        unknown = model.get("unk_id")
        names |= {model["vocab"][unknown][0]} if unknown is not None else set()
        names.add(min(model["vocab"], key=lambda entry: entry[1])[0])
    names |= {padding["pad_token"]} if (padding := tokenizer.get("padding")) else set()
    processors = [tokenizer.get("post_processor")]
    while processors:
        processor = processors.pop() or {}
        processors += processor.get("processors", [])
        names |= {token for special in processor.get("special_tokens", {}).values() for token in special["tokens"]}
        names |= {processor[key][0] for key in ("sep", "cls") if key in processor}
    return names


def _renumber(processor: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    """The ids in a post-processor (template, BERT's, RoBERTa's, a sequence of them), in place."""
    if not processor:
        return
    for inner in processor.get("processors", []):
        _renumber(inner, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new[index] for index in special["ids"]]
    for key in ("sep", "cls"):
        if key in processor:
            processor[key][1] = new[processor[key][1]]


def _core(token: str, model: Mapping[str, Any]) -> str:
    """A token without the marks of a word's inside ('##') or end ('</w>')."""
    core = token.removeprefix(model.get("continuing_subword_prefix") or "")
    return core.removesuffix(model.get("end_of_word_suffix") or "") or token


def _is_byte(token: str, model: Mapping[str, Any]) -> bool:
    """Whether a token stands for a byte of a character that is not in the vocabulary."""
    return bool(model.get("byte_fallback")) and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _irregular(model: Mapping[str, Any]) -> set[str]:
    """Tokens with a character that the vocabulary does not have by itself in that place of a word."""
    if model["type"] == "BPE":  # it starts from single characters
        return set()
    tokens = [entry[0] for entry in model["vocab"]] if model["type"] == "Unigram" else list(model["vocab"])
    prefix = model.get("continuing_subword_prefix") or ""
    there = set(tokens)

    def pieces(token: str) -> Iterator[str]:
        inside = bool(prefix) and token.startswith(prefix) and token != prefix
        for place, character in enumerate(_core(token, model)):
            yield prefix + character if inside or place else character

    return {token for token in tokens if not there.issuperset(pieces(token))} - _bracketed(tokens)


def _bracketed(tokens: Iterable[str]) -> set[str]:
    """Tokens as '[unused7]' and '<pad>': no text becomes one by way of the model."""
    return {token for token in tokens if len(token) > 2 and token[0] + token[-1] in ("[]", "<>")}


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Left part, right part and result of each merge; the file has pairs or, older, strings."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or []:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right, left + right.removeprefix(prefix)


def _parts(model: Mapping[str, Any], wanted: set[str]) -> set[str]:
    """Every token from which BPE can merge the wanted ones."""
    parts: dict[str, set[str]] = {}
    for left, right, result in _merges(model):
        parts.setdefault(result, set()).update((left, right))
    found: set[str] = set()
    open_ = list(wanted)
    while open_:
        fresh = parts.get(open_.pop(), set()) - found
        found |= fresh
        open_ += fresh
    return found


# --- files ----------------------------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """tokenizer.json in its current form: older files leave out the kind of model and write merges as strings."""
    from tokenizers import Tokenizer

    if not path.exists():
        raise ModelError(f"{path.parent} has no tokenizer.json; only a fast tokenizer can be trimmed")
    try:
        tokenizer: dict[str, Any] = json.loads(Tokenizer.from_file(str(path)).to_str())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return tokenizer


def _named(folder: Path) -> set[str]:
    """Special tokens that the settings name: transformers would add a lost one anew, with an id of its own."""
    files = [folder / "tokenizer_config.json", folder / "special_tokens_map.json"]
    settings = [read_json(file) for file in files if file.exists()]
    values = [setting[key] for setting in settings for key in setting if key.endswith(("_token", "special_tokens"))]
    return set(_strings(values))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(value["content"] if "content" in value else list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _check_ids(trimmed: TokenizerJson, tokens: Sequence[str], source: Path) -> None:
    """Load the new tokenizer as its users will and see that every token has its place as id."""
    from tokenizers import Tokenizer as Fast

    try:
        loaded = Fast.from_str(json.dumps(trimmed))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"the tokenizer in {source} cannot be trimmed: {' '.join(str(error).split())[:200]}"
        ) from error
    moved = [token for place, token in enumerate(tokens) if loaded.token_to_id(token) != place]
    if moved:
        raise ModelError(
            f"the tokenizer in {source} cannot be trimmed: the ids of its added tokens lie among the others "
            f"({moved[0]!r}) and cannot be made dense"
        )


def _side_file(name: str, path: Path, trimmed: TokenizerJson, new: Mapping[int, int]) -> str:
    """The text of a file beside tokenizer.json, as the trimmed tokenizer has it."""
    text = path.read_text(encoding="utf-8")
    model = trimmed["model"]
    if name == "vocab.txt":
        return "".join(f"{token}\n" for token in model["vocab"])
    if name == "vocab.json":
        return _json(model["vocab"])
    if name == "merges.txt":
        return "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right, _ in _merges(model))
    if name == "added_tokens.json":
        return _json({token: new[index] for token, index in json.loads(text).items() if index in new})
    settings = json.loads(text)
    if "added_tokens_decoder" in settings:
        decoder = settings["added_tokens_decoder"].items()
        settings["added_tokens_decoder"] = {
            str(new[int(index)]): token for index, token in decoder if int(index) in new
        }
    return _json(settings)
