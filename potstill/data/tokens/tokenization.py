"""Tokenizes texts with tokenizer.json, with the same ids as `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from potstill.artifacts import MANIFEST, read_json, write_json
from potstill.data.cleaning import cleaning_normalizer
from potstill.data.corpus import prepared_texts
from potstill.data.tokens.batches import fill_labels
from potstill.data.tokens.marking import (
    ANSWERS,
    UNIT_LABELS,
    SplitCounts,
    token_schema,
    write_stream,
    write_tagged,
    write_windows,
)
from potstill.errors import ModelError, SequenceLengthError
from potstill.labels.windows import TextWindower, Windower
from potstill.pretrained.families import positions_of
from potstill.pretrained.files import VOCABULARIES, copy_tokenizer_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A folder in the ingest stage's `base` with the encoder that a student starts from, and one in the tokenize stage's out
# with the student's token ids and tokenizer. Either exists only if it differs from the teacher's.
STUDENT = "student"
# A file in the latter: the ids, in the whole vocabulary, of the tokens that a trimmed one keeps.
KEPT_IDS = "kept.npy"


def check_length(base: Path, max_length: int) -> dict[str, Any]:
    """Check the sequence limit against the model's positions and return its config.json.

    Raises:
        SequenceLengthError: the limit exceeds them.
    """
    config: dict[str, Any] = read_json(base / "config.json")
    positions = positions_of(config)
    if positions is not None and max_length > positions:
        raise SequenceLengthError(
            f"tokenize.max_length is {max_length}, but the model in {base} has {positions} positions; "
            f"set tokenize.max_length to at most {positions}"
        )
    return config


def student_base(base: Path) -> Path | None:
    """Find the encoder that a student starts from, in the ingest stage's `base`. None: it is the teacher."""
    return base / STUDENT if STUDENT in read_json(base / MANIFEST)["about"] else None


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Copy a model's tokenizer files into `folder`. An older, slow tokenizer without tokenizer.json is converted.

    Raises:
        ModelError: it cannot be converted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (base / "tokenizer.json").exists():
        copy_tokenizer_files(base, folder)
        return
    if not any((base / name).exists() for name in VOCABULARIES):  # transformers would invent one from config.json
        raise ModelError(
            f"{base} has no tokenizer.json; save the tokenizer in the model's folder (tokenizer.save_pretrained)"
        )
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(f"the tokenizer in {base} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    if not (folder / "tokenizer.json").exists():
        raise ModelError(f"the tokenizer in {base} has no fast form (tokenizer.json); give a model that has one")


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Load a tokenizer that truncates to `max_length` tokens with special ones, and does not pad.

    The longer text of a pair is truncated first, as `transformers` does with `truncation=True`. The truncation and
    padding in tokenizer.json are ignored, as `transformers` does too.

    Raises:
        ModelError: tokenizer.json cannot be read.
    """
    from tokenizers import Tokenizer

    settings = folder / "tokenizer_config.json"
    config = read_json(settings) if settings.exists() else {}
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {' '.join(str(error).split())[:200]}") from error
    tokenizer.no_padding()
    side = config.get("truncation_side", "right")
    tokenizer.enable_truncation(max_length, stride=0, strategy="longest_first", direction=side)
    return tokenizer


def write_served_tokenizer(folder: Path, max_length: int, target: Path) -> None:
    """Write the tokenizer.json for serving: it cleans texts as `prepare` does, truncates as in training, does not pad.

    A base model's file may pad, such as every text to 128 tokens. That would change the answers when the file is used
    without Potstill, since dynamic INT8 scales depend on padding too. A raw text can have tokens that the model never
    learnt from, such as one for the line break at its end.

    Args:
        folder: holds the tokenizer of the model.
        max_length: tokens of a text with special ones.
        target: the file to write.

    Raises:
        ModelError: tokenizer.json cannot be read.
    """
    tokenizer = load_tokenizer(folder, max_length)
    tokenizer.normalizer = cleaning_normalizer(tokenizer.normalizer)
    tokenizer.save(str(target))


def name_token_types(folder: Path) -> None:
    """Make transformers return the segment ids of pairs, which a tokenizer without a model's class leaves out."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    names = settings.get("model_input_names", ["input_ids", "attention_mask"])
    if "token_type_ids" not in names:
        write_json(path, settings | {"model_input_names": [names[0], "token_type_ids", *names[1:]]})


def window_stride(max_length: int, stride: int | None) -> int:
    """Choose the tokens that neighbouring windows share: as in params, else a quarter of a window."""
    return max_length // 4 if stride is None else stride


def write_tokens(
    table: pa.Table,
    tokenizer: Tokenizer,
    path: Path,
    label: pa.DataType | None = None,
    *,
    token_types: bool = True,
    stride: int | None = None,
) -> SplitCounts:
    """Tokenize a prepared split into an Arrow stream that `datasets.Dataset.from_file` maps into memory.

    Args:
        table: columns `id`, `text`, `label` (null: none) and for pairs `text_pair`.
        tokenizer: see `load_tokenizer`.
        path: the file to write.
        label: type of the column `label` to write (`Kind.token_column`); None: int64, a class index.
        token_types: whether the model distinguishes the texts of a pair by segment ids.
        stride: tokens that windows of a text with entities or of a context share; None: a quarter of a window.
    """
    kind = table.schema.field("label").type
    if kind in (UNIT_LABELS, ANSWERS):
        length = int((tokenizer.truncation or {})["max_length"])
        stride = window_stride(length, stride)
        if kind == UNIT_LABELS:
            return write_tagged(table, TextWindower(tokenizer, length, stride), path)
        return write_windows(table, Windower(tokenizer, length, stride), path, types=token_types)
    counts = SplitCounts()
    schema = token_schema(label or pa.int64(), types="text_pair" in table.column_names and token_types)
    write_stream(table, path, schema, lambda rows: _token_batch(rows, tokenizer, counts, schema))
    return counts


def _token_batch(rows: pa.Table, tokenizer: Tokenizer, counts: SplitCounts, schema: pa.Schema) -> pa.RecordBatch:
    encodings = tokenizer.encode_batch_fast(prepared_texts(rows))
    ids = [encoding.ids for encoding in encodings]
    counts.rows += len(ids)
    counts.tokens += sum(map(len, ids))
    counts.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
    columns = [rows.column("id").combine_chunks(), pa.array(ids, pa.list_(pa.int32()))]
    if "token_type_ids" in schema.names:
        columns.append(pa.array([encoding.type_ids for encoding in encodings], pa.list_(pa.int8())))
    columns.append(fill_labels(rows.column("label").combine_chunks(), schema.field("label").type))
    return pa.record_batch(columns, schema=schema)
