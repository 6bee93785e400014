"""Stage tokenize: exact token ids of every split, without padding, to `data/tokens`.

Where the student has a tokenizer of its own, the same rows once more as its tokens, in the folder `student`; where a
further teacher has one, once more as its, in `members/<name>`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest
from potstill.config.base import OF_PLACES, SPLITS
from potstill.config.tokenize_params import Tokenize, Vocabulary
from potstill.data.corpus import LEARNED, prepared_texts
from potstill.data.tokens.batches import TokenDataset, label_type
from potstill.data.tokens.coverage import check_cut, check_unknown, count_unknown, measure_coverage, share_of
from potstill.data.tokens.tokenization import (
    KEPT_IDS,
    STUDENT,
    check_length,
    copy_tokenizer,
    load_tokenizer,
    name_token_types,
    student_base,
    window_stride,
    write_tokens,
)
from potstill.errors import ModelError
from potstill.models.students.fitted_vocabulary import fit_vocabulary
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.members import MEMBERS
from tasks.stage import Result, Stage, main

Info = dict[str, Any]


def run(stage: Stage) -> Result:
    """Tokenize all splits and write them with the tokenizer."""
    prepared, base, out = stage.deps["prepared"], stage.deps["base"], stage.outs["tokens"]
    plan = stage.params(Tokenize)
    about = read_json(prepared / "labels.json")
    with whole_folder(out) as folder:
        tables = {split: pq.read_table(prepared / f"{split}.parquet") for split in SPLITS}
        shared = {"max_length": plan.max_length} | {key: about[key] for key in ("task", "pair", "labels")}
        if about["task"] in OF_PLACES:
            shared["stride"] = window_stride(plan.max_length, plan.stride)
        info = _write_whole(base, folder, tables, shared)
        _check_fit(folder, info, tables, plan)
        student, words = _write_student(base, folder, tables, info, plan.vocabulary)
        if student is not None:
            check_unknown(_unknown_share(student), plan.max_unknown_share, "student")
        if words:
            tables |= _with_words(tables, words)
            info["splits"] |= _write_splits(folder, {"transfer": tables["transfer"]}, info)
            write_json(folder / "info.json", info)
        for member in sorted((base / MEMBERS).glob("*")):
            _write_member(member, folder, tables, info)
        write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "base": sha256_file(base / MANIFEST)})
    return _result(info, student)


def _write_whole(base: Path, folder: Path, tables: Mapping[str, pa.Table], shared: Info) -> Info:
    """A model's tokenizer, every split as its tokens, and `info.json`."""
    config = check_length(base, shared["max_length"])
    copy_tokenizer(base, folder / "tokenizer")
    types = bool(shared["pair"]) and tells_texts_apart(config)
    if types:
        name_token_types(folder / "tokenizer")
    info = shared | {"pad_token_id": config.get("pad_token_id") or 0, "token_types": types}
    info["splits"] = _write_splits(folder, tables, info)
    write_json(folder / "info.json", info)
    return info


def _write_splits(folder: Path, tables: Mapping[str, pa.Table], info: Info) -> dict[str, dict[str, int]]:
    """Every split as tokens of the tokenizer in the folder, and what was written."""
    tokenizer = load_tokenizer(folder / "tokenizer", info["max_length"])
    label = label_type(info["task"], len(info["labels"]))
    written = {}
    for split, table in tables.items():
        path = folder / f"{split}.arrow"
        counts = write_tokens(table, tokenizer, path, label, token_types=info["token_types"], stride=info.get("stride"))
        tokens = TokenDataset.open(path, info["pad_token_id"]).token_counts()
        missing, plain = count_unknown(tokens, tokenizer)
        written[split] = asdict(counts) | {"unknown": missing, "text_tokens": plain}
    return written


def _check_fit(folder: Path, info: Info, tables: Mapping[str, pa.Table], plan: Tokenize) -> None:
    """Refuse texts that the teacher hardly reads: in another script, or mostly cut."""
    check_unknown(_unknown_share(info), plan.max_unknown_share)
    train = info["splits"]["train"]
    share = share_of(train["truncated"], train["rows"])
    if info["task"] in OF_PLACES or plan.max_cut_share is None or share <= plan.max_cut_share:
        return
    texts = prepared_texts(tables["train"])
    check_cut(share, plan.max_length, plan.max_cut_share, measure_coverage(folder / "tokenizer", texts))


def _unknown_share(info: Info) -> float:
    train = info["splits"]["train"]
    return share_of(train["unknown"], train["text_tokens"])


def _write_member(base: Path, folder: Path, tables: Mapping[str, pa.Table], info: Info) -> None:
    """The folder `members/<name>` of a further teacher, where its tokens are not the first one's."""
    own = folder / MEMBERS / base.name
    _write_whole(base, own, tables, info)
    if (own / "tokenizer" / "tokenizer.json").read_bytes() == (folder / "tokenizer" / "tokenizer.json").read_bytes():
        shutil.rmtree(own)
        if not any(own.parent.iterdir()):
            own.parent.rmdir()
    elif info["task"] in OF_PLACES:
        raise ModelError(
            f"ingest.teachers.{base.name} has another tokenizer than ingest.teacher, but the teachers of a "
            f"{info['task']} task answer token by token, together; give one with the same tokenizer.json"
        )


def _write_student(
    base: Path, folder: Path, tables: Mapping[str, pa.Table], info: Info, plan: Vocabulary | None
) -> tuple[Info | None, list[str]]:
    """The folder `student`, where its tokens are not the teacher's: its info, or None; the words it has to spell."""
    own, whole, target = student_base(base), folder / "whole", folder / STUDENT
    source = folder
    words: list[str] = []
    if own is not None:
        theirs, info = info, _write_whole(own, whole, tables, info)
        files = [place / "tokenizer" / "tokenizer.json" for place in (folder, whole)]
        # Segment ids that the student has no use for do no harm; those that it lacks would.
        if files[0].read_bytes() != files[1].read_bytes() or info["token_types"] > theirs["token_types"]:
            source = whole
        else:
            info = theirs
    if plan is not None:
        info, words = _write_trimmed(source, target, tables, info, plan)
    elif source == whole:
        whole.rename(target)
    shutil.rmtree(whole, ignore_errors=True)
    return (info if target.exists() else None), words


def _write_trimmed(
    source: Path, target: Path, tables: Mapping[str, pa.Table], info: Info, plan: Vocabulary
) -> tuple[Info, list[str]]:
    """A tokenizer with what the texts to learn from use most, and every split as its tokens; the words to spell."""
    splits = {split: TokenDataset.open(source / f"{split}.arrow", info["pad_token_id"]) for split in SPLITS}
    learned = TokenDataset.concatenate([splits[split] for split in LEARNED])
    whole = load_tokenizer(source / "tokenizer", info["max_length"])
    fitted = fit_vocabulary(
        whole, source / "tokenizer", target / "tokenizer", learned, plan, pair=bool(info["pair"]), name="tokenize"
    )
    kept, words = fitted.kept_ids, fitted.spelled
    np.save(target / KEPT_IDS, kept, allow_pickle=False)
    changed = {split: rows.share_beyond(kept) for split, rows in splits.items()}
    trimmed = info | {
        # Any token serves where the model has none.
        "pad_token_id": fitted.new_ids.get(info["pad_token_id"], 0),
        "splits": _write_splits(target, _with_words(tables, words), info),
        "vocabulary": {
            "tokens": len(kept),
            "of": whole.get_vocab_size(),
            "spelled": len(words),
            "rank": plan.rank,
            "changed": {split: {"tokens": tokens, "rows": rows} for split, (tokens, rows) in changed.items()},
        },
    }
    write_json(target / "info.json", trimmed)
    return trimmed, words


def _with_words(tables: Mapping[str, pa.Table], words: list[str]) -> dict[str, pa.Table]:
    """The tables, with a row of transfer for each word: its text alone, nothing else known of it."""
    schema = tables["transfer"].schema
    known = {"id": [f"word-{number}" for number in range(len(words))], "text": words}
    columns = [pa.array(known.get(field.name, [None] * len(words)), field.type) for field in schema]
    rows = pa.Table.from_arrays(columns, schema=schema)
    return dict(tables) | {"transfer": pa.concat_tables([tables["transfer"], rows])}


def _result(info: Info, student: Info | None) -> Result:
    rows, cut = (sum(split[part] for split in info["splits"].values()) for part in ("rows", "truncated"))
    tokens = _tokens(info)
    if info["task"] in OF_PLACES:
        summary = f"{tokens:,} tokens in {rows:,} windows; {cut:,} texts have several, of {info['max_length']} at most"
    else:
        share = f"{cut:,} ({cut / max(rows, 1):.2%})"
        summary = f"{tokens:,} tokens of {rows:,} texts; {share} were cut at {info['max_length']}"
    metrics = {"tokens": float(tokens), "truncated": float(cut), "unknown_share": _unknown_share(info)}
    summary += f"; {_unknown_share(info):.2%} of train's tokens are unknown"
    if student is None:
        return Result(summary, metrics)
    summary += f"; the student has a tokenizer of its own, {_tokens(student):,} tokens"
    metrics |= {"student_tokens": float(_tokens(student))}
    if "vocabulary" not in student:
        return Result(summary, metrics)
    about = student["vocabulary"]
    changed = about["changed"]["train"]["tokens"]
    summary += (
        f", from a vocabulary of {about['tokens']:,} of {about['of']:,}: {changed:.1%} of the tokens in train are "
        f"split into shorter ones, {about['spelled']:,} words join transfer"
    )
    return Result(summary, metrics | {"vocabulary": float(about["tokens"]), "changed_tokens": changed})


def _tokens(info: Info) -> int:
    return sum(split["tokens"] for split in info["splits"].values())


if __name__ == "__main__":
    main(run)
