"""Texts to token ids, exactly as `transformers` would give them, straight from tokenizer.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from potstill.artifacts import MANIFEST, write_json
from potstill.data.tokens.batches import fill_labels
from potstill.data.tokens.marking import ANSWERS, UNIT_LABELS, TagCounts, WindowCounts, write_tagged, write_windows
from potstill.data.tokens.windows import TextWindower, Windower
from potstill.errors import ModelError, SequenceLengthError
from potstill.pretrained.families import positions_of
from potstill.pretrained.files import TOKENIZER_FILES, VOCABULARIES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In the ingest stage's `base`, the encoder that a student starts from where it is not the teacher. In the tokenize
# stage's out, the student's token ids and tokenizer where they are not the teacher's; and in that folder the ids, in
# the whole vocabulary, of the tokens that a trimmed one keeps.
STUDENT, KEPT = "student", "kept.npy"
_ROWS_AT_ONCE = 1000


@dataclass
class Counts:
    """What was written of a split."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0


def check_length(base: Path, max_length: int) -> dict[str, Any]:
    """Check the sequence limit against the model's positions and return its config.json.

    Raises:
        SequenceLengthError: the limit is beyond them.
    """
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    positions = positions_of(config)
    if positions is not None and max_length > positions:
        raise SequenceLengthError(
            f"tokenize.max_length is {max_length}, but the model in {base} has {positions} positions; "
            f"set tokenize.max_length to at most {positions}"
        )
    return config


def student_base(base: Path) -> Path | None:
    """The encoder that a student starts from, in the ingest stage's `base`; None where it is the teacher."""
    about = json.loads((base / MANIFEST).read_text(encoding="utf-8"))["about"]
    return base / STUDENT if STUDENT in about else None


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Put a model's tokenizer files into `folder`; one without tokenizer.json (an older, slow one) is converted.

    Raises:
        ModelError: it cannot be converted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (base / "tokenizer.json").exists():
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copyfile(base / name, folder / name)
        return
    if not any((base / name).exists() for name in VOCABULARIES):  # transformers would make one up from config.json
        raise ModelError(
            f"{base} has no tokenizer.json; save the tokenizer beside the model (tokenizer.save_pretrained)"
        )
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False).save_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(f"the tokenizer in {base} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    if not (folder / "tokenizer.json").exists():
        raise ModelError(f"the tokenizer in {base} has no fast form (tokenizer.json); give a model that has one")


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """A tokenizer that cuts at `max_length` tokens, special ones included, and pads nothing.

    Of a pair the longer text is cut first, as `transformers` does with `truncation=True`. What tokenizer.json itself
    says on cutting and padding does not count, nor does it there.

    Raises:
        ModelError: tokenizer.json cannot be read.
    """
    from tokenizers import Tokenizer

    settings = folder / "tokenizer_config.json"
    side = (
        json.loads(settings.read_text(encoding="utf-8")).get("truncation_side", "right")
        if settings.exists()
        else "right"
    )
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{folder / 'tokenizer.json'} cannot be read: {' '.join(str(error).split())[:200]}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, stride=0, strategy="longest_first", direction=side)
    return tokenizer


def write_served_tokenizer(folder: Path, max_length: int, target: Path) -> None:
    """Write the tokenizer.json that ships: it cuts as the model was trained, and pads nothing.

    What a base model's file says on padding, such as 128 tokens for every text, would change the answers of whoever
    uses the file without Potstill: dynamic INT8 scales depend on padding too.

    Args:
        folder: holds the tokenizer of the model.
        max_length: tokens of a text, special ones included.
        target: the file.

    Raises:
        ModelError: tokenizer.json cannot be read.
    """
    load_tokenizer(folder, max_length).save(str(target))


def name_token_types(folder: Path) -> None:
    """Have transformers give the segment ids of pairs, which a tokenizer of no model's own class leaves out."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = settings.get("model_input_names", ["input_ids", "attention_mask"])
    if "token_type_ids" not in names:
        write_json(path, settings | {"model_input_names": [names[0], "token_type_ids", *names[1:]]})


def schema(label: pa.DataType, *, types: bool) -> pa.Schema:
    """Columns of a split's `.arrow` file."""
    fields = [("id", pa.string()), ("input_ids", pa.list_(pa.int32()))]
    fields += [("token_type_ids", pa.list_(pa.int8()))] if types else []
    return pa.schema([*fields, ("label", label)])


def window_stride(max_length: int, stride: int | None) -> int:
    """Tokens that neighbouring windows share, as params give them or a quarter of a window."""
    return max_length // 4 if stride is None else stride


def write_tokens(
    table: pa.Table,
    tokenizer: Tokenizer,
    path: Path,
    label: pa.DataType | None = None,
    *,
    token_types: bool = True,
    stride: int | None = None,
) -> Counts | TagCounts | WindowCounts:
    """Tokenize a prepared split into an Arrow stream that `datasets.Dataset.from_file` maps into memory.

    Args:
        table: columns `id`, `text`, `label` (null: none) and for pairs `text_pair`.
        tokenizer: see `load_tokenizer`.
        path: the file to write.
        label: type of the column `label` to write (`batches.label_type`); None: int64, a class index.
        token_types: whether the model tells the texts of a pair apart.
        stride: tokens that windows of a text with entities, or of a question's context, share; None: a quarter.
    """
    kind = table.schema.field("label").type
    if kind in (UNIT_LABELS, ANSWERS):
        length = int((tokenizer.truncation or {})["max_length"])
        cuts = (tokenizer, length, window_stride(length, stride))
        if kind == UNIT_LABELS:
            return write_tagged(table, TextWindower(*cuts), path)
        return write_windows(table, Windower(*cuts), path, types=token_types)
    pair = "text_pair" in table.column_names
    counts = Counts()
    columns = schema(label or pa.int64(), types=pair and token_types)
    with path.open("wb") as sink, pa.ipc.new_stream(sink, columns) as stream:
        for batch in _batches(table, tokenizer, counts, columns, pair=pair):
            stream.write_batch(batch)
    return counts


def _batches(
    table: pa.Table, tokenizer: Tokenizer, counts: Counts, names: pa.Schema, *, pair: bool
) -> Iterator[pa.RecordBatch]:
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        rows = table.slice(start, _ROWS_AT_ONCE)
        encodings = tokenizer.encode_batch_fast(token_inputs(rows, pair=pair))
        ids = [encoding.ids for encoding in encodings]
        counts.rows += len(ids)
        counts.tokens += sum(map(len, ids))
        counts.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        columns = [rows.column("id").combine_chunks(), pa.array(ids, pa.list_(pa.int32()))]
        if "token_type_ids" in names.names:
            columns.append(pa.array([encoding.type_ids for encoding in encodings], pa.list_(pa.int8())))
        columns.append(fill_labels(rows.column("label").combine_chunks(), names.field("label").type))
        yield pa.record_batch(columns, schema=names)


def token_inputs(rows: pa.Table, *, pair: bool) -> Sequence[str] | Sequence[tuple[str, str]]:
    """The texts of a prepared split, or its pairs, as a tokenizer takes them."""
    texts: list[str] = rows.column("text").to_pylist()
    return list(zip(texts, rows.column("text_pair").to_pylist(), strict=True)) if pair else texts
