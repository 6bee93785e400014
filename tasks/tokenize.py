"""Stage tokenize: exact token ids of every split, without padding, to `data/tokens`.

Where the student gets a vocabulary of its own, the same rows once more as its tokens, in the folder `student`; where a
further teacher has a tokenizer of its own, once more as its, in `members/<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest
from potstill.config import SPLITS, Tokenize, Vocabulary
from potstill.data.batches import TokenDataset
from potstill.data.tokenization import KEPT, STUDENT, check_length, copy_tokenizer, load_tokenizer, write_tokens
from potstill.models.members import MEMBERS
from potstill.models.vocabulary import trim_tokenizer
from tasks.stage import Result, Stage, main

Info = dict[str, Any]
# The splits whose texts a student may learn from: its vocabulary is chosen by these alone.
LEARNED = ("train", "transfer")


def run(stage: Stage) -> Result:
    """Tokenize all splits and write them with the tokenizer."""
    prepared, base, out = stage.deps["prepared"], stage.deps["base"], stage.outs["tokens"]
    plan = stage.params(Tokenize)
    config = check_length(base, plan.max_length)
    about = read_json(prepared / "labels.json")
    with whole_folder(out) as folder:
        copy_tokenizer(base, folder / "tokenizer")
        tables = {split: pq.read_table(prepared / f"{split}.parquet") for split in SPLITS}
        info = {
            "max_length": plan.max_length,
            "pad_token_id": config.get("pad_token_id") or 0,
            "pair": about["pair"],
            "labels": about["labels"],
        }
        info["splits"] = _write_splits(folder, tables, plan.max_length)
        write_json(folder / "info.json", info)
        for member in sorted((base / MEMBERS).glob("*")):
            _write_member(folder, member, tables, info)
        trimmed = None if plan.vocabulary is None else _write_trimmed(folder, tables, info, plan.vocabulary)
        write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "base": sha256_file(base / MANIFEST)})
    return _result(info, trimmed)


def _write_splits(folder: Path, tables: Mapping[str, pa.Table], max_length: int) -> dict[str, dict[str, int]]:
    """Every split as tokens of the tokenizer in the folder, and what was written."""
    tokenizer = load_tokenizer(folder / "tokenizer", max_length)
    return {split: asdict(write_tokens(table, tokenizer, folder / f"{split}.arrow")) for split, table in tables.items()}


def _write_member(folder: Path, base: Path, tables: Mapping[str, pa.Table], info: Info) -> None:
    """The folder `members/<name>`: a further teacher's tokenizer and every split as its tokens, if it is another."""
    config, own = check_length(base, info["max_length"]), folder / MEMBERS / base.name
    with TemporaryDirectory(prefix="potstill-") as scratch:
        copy_tokenizer(base, Path(scratch))
        files = (Path(scratch) / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")
        if sha256_file(files[0]) == sha256_file(files[1]):
            return
    copy_tokenizer(base, own / "tokenizer")
    splits = _write_splits(own, tables, info["max_length"])
    write_json(own / "info.json", info | {"pad_token_id": config.get("pad_token_id") or 0, "splits": splits})


def _write_trimmed(folder: Path, tables: Mapping[str, pa.Table], info: Info, plan: Vocabulary) -> Info:
    """The folder `student`: a tokenizer with what the texts to learn from use most, and every split as its tokens."""
    splits = {split: TokenDataset.open(folder / f"{split}.arrow", info["pad_token_id"]) for split in SPLITS}
    counts = TokenDataset.concatenate([splits[split] for split in LEARNED]).token_counts()
    own = folder / STUDENT
    new = trim_tokenizer(
        folder / "tokenizer",
        own / "tokenizer",
        {int(index): int(counts[index]) for index in np.flatnonzero(counts)},
        min_count=plan.min_count,
        max_tokens=plan.max_tokens,
    )
    kept = np.array(list(new), dtype=np.int64)
    np.save(own / KEPT, kept, allow_pickle=False)
    changed = {split: rows.share_beyond(kept) for split, rows in splits.items()}
    trimmed = info | {
        # Any token serves where the model has none.
        "pad_token_id": new.get(info["pad_token_id"], 0),
        "splits": _write_splits(own, tables, info["max_length"]),
        "vocabulary": {
            "tokens": len(kept),
            "of": load_tokenizer(folder / "tokenizer", info["max_length"]).get_vocab_size(),
            "changed": {split: {"tokens": tokens, "rows": rows} for split, (tokens, rows) in changed.items()},
        },
    }
    write_json(own / "info.json", trimmed)
    return trimmed


def _result(info: Info, trimmed: Info | None) -> Result:
    rows, tokens, cut = (
        sum(split[part] for split in info["splits"].values()) for part in ("rows", "tokens", "truncated")
    )
    summary = (
        f"{tokens:,} tokens of {rows:,} texts; {cut:,} ({cut / max(rows, 1):.2%}) were cut at {info['max_length']}"
    )
    metrics = {"tokens": float(tokens), "truncated": float(cut)}
    if trimmed is None:
        return Result(summary, metrics)
    about = trimmed["vocabulary"]
    changed = about["changed"]["train"]["tokens"]
    summary += (
        f"; the student has {about['tokens']:,} of the vocabulary's {about['of']:,} tokens and splits "
        f"{changed:.1%} of those in train into shorter ones"
    )
    return Result(summary, metrics | {"vocabulary": float(about["tokens"]), "changed_tokens": changed})


if __name__ == "__main__":
    main(run)
