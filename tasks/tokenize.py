"""Stage tokenize: exact token ids of every split, without padding, to `data/tokens`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest
from potstill.config import SPLITS, Tokenize
from potstill.data.batches import label_type
from potstill.data.tokenization import (
    check_length,
    copy_tokenizer,
    load_tokenizer,
    name_token_types,
    window_stride,
    write_tokens,
)
from potstill.models.families import tells_texts_apart
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Tokenize all splits and write them with the tokenizer."""
    prepared, base, out = stage.deps["prepared"], stage.deps["base"], stage.outs["tokens"]
    params = stage.params(Tokenize)
    max_length = params.max_length
    config = check_length(base, max_length)
    about = read_json(prepared / "labels.json")
    types = about["pair"] and tells_texts_apart(config)
    label = label_type(about["task"], len(about["labels"]))
    with whole_folder(out) as folder:
        copy_tokenizer(base, folder / "tokenizer")
        if types:
            name_token_types(folder / "tokenizer")
        tokenizer = load_tokenizer(folder / "tokenizer", max_length)
        tables = {split: pq.read_table(prepared / f"{split}.parquet") for split in SPLITS}
        counts = {
            split: write_tokens(
                table, tokenizer, folder / f"{split}.arrow", label, token_types=types, stride=params.stride
            )
            for split, table in tables.items()
        }
        info: dict[str, Any] = {
            "max_length": max_length,
            "pad_token_id": config.get("pad_token_id") or 0,
            "task": about["task"],
            "pair": about["pair"],
            "token_types": types,
            "labels": about["labels"],
            **({"stride": window_stride(max_length, params.stride)} if about["task"] == "question_answering" else {}),
            "splits": {split: asdict(count) for split, count in counts.items()},
        }
        write_json(folder / "info.json", info)
        write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "base": sha256_file(base / MANIFEST)})
    rows, tokens = sum(c.rows for c in counts.values()), sum(c.tokens for c in counts.values())
    cut = sum(c.truncated for c in counts.values())
    return Result(
        summary=f"{tokens:,} tokens of {rows:,} texts; {cut:,} ({cut / max(rows, 1):.2%}) were cut at {max_length}",
        metrics={"tokens": float(tokens), "truncated": float(cut)},
    )


if __name__ == "__main__":
    main(run)
