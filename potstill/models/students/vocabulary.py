"""Trim a vocabulary to the tokens that the corpora use: smaller embeddings, same logits.

Abdaoui et al. 2020, "Load What You Need: Smaller Versions of Multilingual BERT".

A text whose tokens are all kept is tokenized exactly as before:

- WordPiece takes the longest match first, and the longest match is still in the vocabulary.
- BPE applies the best-ranked merge first. All tokens that a kept token can be merged from are kept as well, and with
  them every merge that leads to it. The merges that are removed did not apply to the text.
- Unigram takes the most likely path, which is still among the remaining paths. Its score of the unknown token follows
  from the least likely token, which is therefore kept too.

Any other text is split into shorter tokens, at worst into single characters, all of which are kept. If a vocabulary
has a character only inside longer tokens (`tokenizers` trains no such vocabulary), all tokens with that character are
kept. Words with such a character are the one exception: they can become known or unknown when other tokens are gone.
"""

from __future__ import annotations

import copy
import json
import unicodedata
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
# Binary copies of the whole vocabulary, which transformers would prefer to tokenizer.json.
_DROPPED = {"spiece.model", "sentencepiece.bpe.model"}

_WORD_BATCH = 10_000

# The parsed tokenizer.json, as the current release of `tokenizers` writes it.
TokenizerJson = Mapping[str, Any]


# --- the tokenizer --------------------------------------------------------------------------------------------------


def select_ids(
    tokenizer: TokenizerJson,
    counts: Mapping[int, int],
    *,
    min_count: int = 1,
    max_tokens: int | None = None,
    names: Iterable[str] = (),
    scripts: Collection[str] | None = None,
) -> list[int]:
    """Select the token ids to keep.

    These are special and added tokens, tokens that occur in the corpora, single characters in all their forms ('c',
    '##c', 'c</w>', bytes), and the tokens that these are merged from (see the module).

    Args:
        tokenizer: the parsed tokenizer.json.
        counts: token id -> occurrences in the corpora; for a set of ids without counts `dict.fromkeys(ids, 1)`.
        min_count: tokens that occur less often are dropped, and texts with them are split into shorter tokens.
        max_tokens: upper limit of the whole vocabulary. The most frequent tokens come first, then those of lower id.
        names: further tokens to keep, such as the special tokens of tokenizer_config.json.
        scripts: scripts whose characters are kept, see `scripts_of`; others become unknown. None, or a tokenizer that
            has no unknown token or reads bytes, keeps all characters.

    Returns:
        The ids in ascending order; a token's new id is its index in this list.

    Raises:
        ModelError: the kind of tokenizer cannot be trimmed, it lacks an id of `counts`, or the limit is below the
            number of tokens that are always kept.
    """
    tokens = _tokens(tokenizer)
    unknown = sorted(set(counts) - set(tokens))
    if unknown:
        raise ModelError(
            f"the corpora have the token id {unknown[0]}, the tokenizer does not; count the tokens of this tokenizer"
        )
    model = tokenizer["model"]
    always = _special(tokenizer) | set(names)
    characters = {token for token in tokens.values() if len(_core(token, model)) == 1} | _irregular(model)
    if scripts is not None and _has_unknown(tokenizer):
        characters = {token for token in characters if scripts_of([_core(token, model)]) <= set(scripts)}
    always |= characters | {token for token in tokens.values() if _is_byte(token, model)}
    used = sorted((index for index in counts if counts[index] >= min_count), key=lambda index: (-counts[index], index))

    def with_most_frequent(count: int) -> list[int]:
        selected = always | {tokens[index] for index in used[:count]}
        selected |= _merge_parts(model, selected)
        return sorted(index for index, token in tokens.items() if token in selected)

    count = len(used)
    if max_tokens is not None:  # the size of the vocabulary grows with the number of frequent tokens
        sizes = range(len(used) + 1)
        count = bisect_right(sizes, max_tokens, key=lambda size: len(with_most_frequent(size))) - 1
    if count < 0:
        raise ModelError(
            f"max_tokens of the vocabulary is {max_tokens:,}, but special tokens and single characters alone are "
            f"{len(with_most_frequent(0)):,}; set it to at least that, or scripts to used"
        )
    return with_most_frequent(count)


def scripts_of(texts: Iterable[str]) -> set[str]:
    """List the scripts of the letters and marks in some texts by the first word of their Unicode names: LATIN, CJK."""
    letters = {character for text in texts for character in text if unicodedata.category(character)[0] in "LM"}
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}


def dropped_words(
    tokenizer: Tokenizer,
    kept_ids: Collection[int],
    most: int | None = None,
    scripts: Collection[str] | None = None,
) -> list[str]:
    """List the words that are one dropped token each, which a student with the trimmed vocabulary has to spell.

    Args:
        tokenizer: the tokenizer with the whole vocabulary.
        kept_ids: ids that the trimmed tokenizer keeps.
        most: maximum number of words to return; None returns all. Tokenizers give frequent tokens low ids, so the
            first words are those that texts are most likely to have.
        scripts: scripts of the words; None: any.

    Returns:
        Distinct words in the order of their ids, without tokens that are no whole word, such as '##ing'.
    """
    kept_ids = set(kept_ids)
    vocabulary = tokenizer.get_vocab()
    bracketed = _bracketed(vocabulary)
    dropped = sorted(index for token, index in vocabulary.items() if index not in kept_ids and token not in bracketed)
    # Not every decoder removes the end-of-word mark.
    end = getattr(tokenizer.model, "end_of_word_suffix", None) or ""
    decoded = tokenizer.decode_batch([[index] for index in dropped])
    texts = list(filter(None, dict.fromkeys(text.removesuffix(end).strip() for text in decoded)))
    if scripts is not None:
        texts = [text for text in texts if scripts_of([text]) <= set(scripts)]
    words: list[str] = []
    for start in range(0, len(texts), _WORD_BATCH):
        part = texts[start : start + _WORD_BATCH]
        encodings = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        pairs = zip(part, encodings, strict=True)
        words += [text for text, encoding in pairs if len(encoding.ids) == 1 and encoding.ids[0] not in kept_ids]
        if most is not None and len(words) >= most:
            return words[:most]
    return words


def trimmed_tokenizer(tokenizer: TokenizerJson, kept_ids: Sequence[int]) -> dict[str, Any]:
    """Trim the content of a tokenizer.json.

    Args:
        tokenizer: the parsed tokenizer.json.
        kept_ids: old ids to keep, ascending; a token's new id is its index.

    Raises:
        ModelError: the kind of tokenizer cannot be trimmed.
    """
    new = {old: index for index, old in enumerate(kept_ids)}
    trimmed = copy.deepcopy(dict(tokenizer))
    old_model = tokenizer["model"]
    model = trimmed["model"]
    if _kind(tokenizer) == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(old_model["vocab"]) if index in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        ordered = sorted(old_model["vocab"].items(), key=lambda item: item[1])
        model["vocab"] = {token: new[index] for token, index in ordered if index in new}
    if "merges" in model:
        vocabulary = set(model["vocab"])
        model["merges"] = [
            merge for merge, tokens in zip(model["merges"], _merges(old_model), strict=True)
            if vocabulary.issuperset(tokens)
        ]  # fmt: skip
    for added in trimmed.get("added_tokens") or []:
        added["id"] = new[added["id"]]
    if trimmed.get("padding"):
        trimmed["padding"]["pad_id"] = new[trimmed["padding"]["pad_id"]]
    _renumber(trimmed.get("post_processor"), new)
    return trimmed


def trim_tokenizer(
    source: Path,
    target: Path,
    counts: Mapping[int, int],
    *,
    min_count: int = 1,
    max_tokens: int | None = None,
    scripts: Collection[str] | None = None,
) -> dict[int, int]:
    """Write a trimmed copy of a tokenizer folder, without its binary SentencePiece model.

    Args:
        source: folder with tokenizer.json.
        target: folder to write; not `source`.
        counts, min_count, max_tokens, scripts: see `select_ids`.

    Returns:
        Old id -> new id of every kept token, ascending in both. The keys are the `kept_ids` of `trim_embeddings`.

    Raises:
        ModelError: tokenizer.json is missing, cannot be trimmed, or has ids that cannot be made contiguous; see also
            `select_ids`.
    """
    if target.resolve() == source.resolve():
        raise ModelError(f"the trimmed tokenizer cannot be written over its source {source}; give another folder")
    tokenizer = _read(source / "tokenizer.json")
    kept_ids = select_ids(
        tokenizer, counts,
        min_count=min_count, max_tokens=max_tokens, names=_special_tokens(source), scripts=scripts,
    )  # fmt: skip
    trimmed = trimmed_tokenizer(tokenizer, kept_ids)
    tokens = _tokens(tokenizer)
    _check_ids(trimmed, [tokens[index] for index in kept_ids], source)
    new = {old: index for index, old in enumerate(kept_ids)}
    write_text(target / "tokenizer.json", _json(trimmed))
    for name in TOKENIZER_FILES:
        if name != "tokenizer.json" and name not in _DROPPED and (source / name).exists():
            write_text(target / name, _side_file(name, source / name, trimmed, new))
    return new


# --- the model ------------------------------------------------------------------------------------------------------


def trim_embeddings(model: PreTrainedModel, kept_ids: Sequence[int]) -> PreTrainedModel:
    """Copy a model with some rows of its vocabulary; the logits of a classifier stay the same to the bit.

    All weights with one row a token are cut: word embeddings (V, E) -> (K, E), and the decoder and biases of a masked
    language model. `config.vocab_size` becomes K. Every `*_token_id` of the config gets its new id, or None if its
    token is dropped. The copy is fp32 and in evaluation mode; the global random state is not touched.

    Args:
        model: a model of a class in `families.FAMILIES`, with or without a head.
        kept_ids: old ids to keep, ascending, as `trim_tokenizer` returns them; a token's new id is its index.

    Raises:
        ModelError: the ids are out of order or the model does not have them, or the pad token is dropped or cannot
            change its id.
    """
    import torch

    config = _trimmed_config(model.config, kept_ids)
    with torch.random.fork_rng(devices=[]):
        trimmed = type(model)(config)
    rows = torch.tensor(list(kept_ids))
    state = {}
    target_state = trimmed.state_dict()
    for name, value in model.state_dict().items():
        has_vocabulary_rows = value.shape != target_state[name].shape
        state[name] = value[rows.to(value.device)] if has_vocabulary_rows else value
    trimmed.load_state_dict(state)
    return trimmed.eval()


def _trimmed_config(old: PreTrainedConfig, kept_ids: Sequence[int]) -> PreTrainedConfig:
    family = family_of(old)
    new = {old_id: new_id for new_id, old_id in enumerate(kept_ids)}
    if not kept_ids or list(kept_ids) != sorted(new) or kept_ids[0] < 0 or kept_ids[-1] >= old.vocab_size:
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
    config.vocab_size = len(kept_ids)
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
    """Map ids to tokens, added tokens included."""
    vocabulary = tokenizer["model"]["vocab"]
    if _kind(tokenizer) == "Unigram":
        tokens = {index: str(piece) for index, (piece, _) in enumerate(vocabulary)}
    else:
        tokens = {index: str(token) for token, index in vocabulary.items()}
    return tokens | {added["id"]: added["content"] for added in tokenizer.get("added_tokens") or []}


def _special(tokenizer: TokenizerJson) -> set[str]:
    """List the tokens that tokenizer.json names by role, and Unigram's least likely token."""
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
    """Replace the old ids in a post-processor (template, BERT's, RoBERTa's, or a sequence of these), in place."""
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
    """Strip a token of its word-internal prefix ('##') and its end-of-word suffix ('</w>')."""
    core = token.removeprefix(model.get("continuing_subword_prefix") or "")
    return core.removesuffix(model.get("end_of_word_suffix") or "") or token


def _has_unknown(tokenizer: TokenizerJson) -> bool:
    """Whether characters that are not in the vocabulary become an unknown token; in byte-level BPE they are bytes."""
    model = tokenizer["model"]
    byte_level = "ByteLevel" in json.dumps(tokenizer.get("pre_tokenizer"))
    return not byte_level and any(model.get(key) is not None for key in ("unk_token", "unk_id"))


def _is_byte(token: str, model: Mapping[str, Any]) -> bool:
    """Whether a token stands for a byte of a character that is not in the vocabulary."""
    return bool(model.get("byte_fallback")) and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _irregular(model: Mapping[str, Any]) -> set[str]:
    """List the tokens that cannot be spelled with single-character tokens of the vocabulary."""
    if model["type"] == "BPE":  # its merges start from single characters
        return set()
    tokens = [entry[0] for entry in model["vocab"]] if model["type"] == "Unigram" else list(model["vocab"])
    prefix = model.get("continuing_subword_prefix") or ""
    vocabulary = set(tokens)

    def character_tokens(token: str) -> Iterator[str]:
        inside = bool(prefix) and token.startswith(prefix) and token != prefix
        for index, character in enumerate(_core(token, model)):
            yield prefix + character if inside or index else character

    return {token for token in tokens if not vocabulary.issuperset(character_tokens(token))} - _bracketed(tokens)


def _bracketed(tokens: Iterable[str]) -> set[str]:
    """List tokens such as '[unused7]' and '<pad>', which no ordinary text is tokenized to."""
    return {token for token in tokens if len(token) > 2 and token[0] + token[-1] in ("[]", "<>")}


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the left part, right part and result of each merge; older files write a merge as one string."""
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or []:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right, left + right.removeprefix(prefix)


def _merge_parts(model: Mapping[str, Any], tokens: set[str]) -> set[str]:
    """List all tokens that BPE can merge some tokens from."""
    parts: dict[str, set[str]] = {}
    for left, right, result in _merges(model):
        parts.setdefault(result, set()).update((left, right))
    reached: set[str] = set()
    queue = list(tokens)
    while queue:
        new = parts.get(queue.pop(), set()) - reached
        reached |= new
        queue += new
    return reached


# --- files ----------------------------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    """Read tokenizer.json in its current form; older files lack the kind of model and write merges as strings."""
    from tokenizers import Tokenizer

    if not path.exists():
        raise ModelError(f"{path.parent} has no tokenizer.json; only a fast tokenizer can be trimmed")
    try:
        tokenizer: dict[str, Any] = json.loads(Tokenizer.from_file(str(path)).to_str())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return tokenizer


def _special_tokens(folder: Path) -> set[str]:
    """List special tokens of the tokenizer's settings; transformers would add a missing one with a new id."""
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
    """Load the trimmed tokenizer and check that the id of every token is its index."""
    from tokenizers import Tokenizer as Fast

    try:
        loaded = Fast.from_str(json.dumps(trimmed))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"the tokenizer in {source} cannot be trimmed: {' '.join(str(error).split())[:200]}"
        ) from error
    moved = [token for token_id, token in enumerate(tokens) if loaded.token_to_id(token) != token_id]
    if moved:
        raise ModelError(
            f"the tokenizer in {source} cannot be trimmed: the ids of its added tokens lie among the others "
            f"({moved[0]!r}) and cannot be made contiguous"
        )


def _side_file(name: str, path: Path, trimmed: TokenizerJson, new: Mapping[int, int]) -> str:
    """Return the content of another tokenizer file for the trimmed vocabulary."""
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
