"""Stage tokenize: exact token ids of every split, without padding, to `data/tokens`.

A further teacher with a tokenizer of its own gets its own ids of the same rows, in the same order, in
`data/tokens/members/<name>`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest
from potstill.config import SPLITS, Tokenize
from potstill.data.tokenization import Counts, check_length, copy_tokenizer, load_tokenizer, write_tokens
from potstill.models.members import MEMBERS
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Tokenize all splits and write them with the tokenizer."""
    prepared, base, out = stage.deps["prepared"], stage.deps["base"], stage.outs["tokens"]
    max_length = stage.params(Tokenize).max_length
    about = read_json(prepared / "labels.json")
    tables = {split: pq.read_table(prepared / f"{split}.parquet") for split in SPLITS}
    with whole_folder(out) as folder:
        counts = _write(folder, base, tables, about, max_length)
        for member in sorted((base / MEMBERS).glob("*")):
            _write_member(folder, member, tables, about, max_length)
        write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "base": sha256_file(base / MANIFEST)})
    rows, tokens = sum(c.rows for c in counts.values()), sum(c.tokens for c in counts.values())
    cut = sum(c.truncated for c in counts.values())
    return Result(
        summary=f"{tokens:,} tokens of {rows:,} texts; {cut:,} ({cut / max(rows, 1):.2%}) were cut at {max_length}",
        metrics={"tokens": float(tokens), "truncated": float(cut)},
    )


def _write(
    folder: Path, base: Path, tables: dict[str, pa.Table], about: dict[str, Any], max_length: int
) -> dict[str, Counts]:
    """The tokenizer of a model and its token ids of every split."""
    config = check_length(base, max_length)
    copy_tokenizer(base, folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer", max_length)
    counts = {split: write_tokens(table, tokenizer, folder / f"{split}.arrow") for split, table in tables.items()}
    info: dict[str, Any] = {
        "max_length": max_length,
        "pad_token_id": config.get("pad_token_id") or 0,
        "pair": about["pair"],
        "labels": about["labels"],
        "splits": {split: asdict(count) for split, count in counts.items()},
    }
    write_json(folder / "info.json", info)
    return counts


def _write_member(
    folder: Path, member: Path, tables: dict[str, pa.Table], about: dict[str, Any], max_length: int
) -> None:
    """The same of a further teacher, unless its tokenizer is the one that is there."""
    with TemporaryDirectory(prefix="potstill-") as scratch:
        copy_tokenizer(member, Path(scratch))
        files = (Path(scratch) / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
        shared = sha256_file(files[0]) == sha256_file(files[1])
    if shared:
        check_length(member, max_length)
    else:
        _write(folder / MEMBERS / member.name, member, tables, about, max_length)


if __name__ == "__main__":
    main(run)
