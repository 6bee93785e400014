"""tokenize: writes the token ids of every split, without padding, to `data/tokens`.

If the student has its own tokenizer, the folder `student` has the same rows in its tokens. If a further teacher has
one, so has the folder `members/<name>`.
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
from potstill.config.base import SPLITS
from potstill.config.tokenize_params import BudgetedTokenize, Tokenize, Vocabulary
from potstill.data.corpus import LEARNED, prepared_texts
from potstill.data.tokens.batches import TokenDataset
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
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.students.fitted_vocabulary import fit_vocabulary
from potstill.onnx_export.size import fitting_vocabulary
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.members import MEMBERS
from tasks.stage import Result, Stage, main

Info = dict[str, Any]


def run(stage: Stage) -> Result:
    """Tokenize all splits, and write them with the tokenizers."""
    prepared = stage.deps["prepared"]
    base = stage.deps["base"]
    plan = stage.params(Tokenize)
    label_info = read_json(prepared / "labels.json")
    with whole_folder(stage.outs["tokens"]) as folder:
        tables = {split: pq.read_table(prepared / f"{split}.parquet") for split in SPLITS}
        shared = {"max_length": plan.max_length} | {key: label_info[key] for key in ("task", "pair", "labels")}
        if KINDS[label_info["task"]].marks_spans:
            shared["stride"] = window_stride(plan.max_length, plan.stride)
        info = _write_tokens(base, folder, tables, shared)
        _check_coverage(folder, info, tables, plan)
        student, words = _write_student(base, folder, tables, info, _vocabulary(plan, base, info))
        if student is not None:
            check_unknown(_unknown_share(student), plan.max_unknown_share, "student")
        if words:
            tables |= _add_words(tables, words)
            info["splits"] |= _write_splits(folder, {"transfer": tables["transfer"]}, info)
            write_json(folder / "info.json", info)
        for member in sorted((base / MEMBERS).glob("*")):
            _write_member(member, folder, tables, info)
        write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "base": sha256_file(base / MANIFEST)})
    return _result(info, student)


def _write_tokens(base: Path, folder: Path, tables: Mapping[str, pa.Table], shared: Info) -> Info:
    """Write a model's tokenizer, every split in its tokens, and `info.json`."""
    config = check_length(base, shared["max_length"])
    copy_tokenizer(base, folder / "tokenizer")
    token_types = bool(shared["pair"]) and tells_texts_apart(config)
    if token_types:
        name_token_types(folder / "tokenizer")
    info = shared | {"pad_token_id": config.get("pad_token_id") or 0, "token_types": token_types}
    info["splits"] = _write_splits(folder, tables, info)
    write_json(folder / "info.json", info)
    return info


def _write_splits(folder: Path, tables: Mapping[str, pa.Table], info: Info) -> dict[str, dict[str, int]]:
    """Write every split in tokens of the folder's tokenizer, and return split -> counts."""
    tokenizer = load_tokenizer(folder / "tokenizer", info["max_length"])
    label = KINDS[info["task"]].token_column(len(info["labels"]))
    splits = {}
    for split, table in tables.items():
        path = folder / f"{split}.arrow"
        counts = write_tokens(table, tokenizer, path, label, token_types=info["token_types"], stride=info.get("stride"))
        tokens = TokenDataset.open(path, info["pad_token_id"]).token_counts()
        unknown_tokens, text_tokens = count_unknown(tokens, tokenizer)
        splits[split] = asdict(counts) | {"unknown": unknown_tokens, "text_tokens": text_tokens}
    return splits


def _check_coverage(folder: Path, info: Info, tables: Mapping[str, pa.Table], plan: Tokenize) -> None:
    """Refuse texts that the teacher hardly reads: those in an unknown script, or mostly cut."""
    check_unknown(_unknown_share(info), plan.max_unknown_share)
    train = info["splits"]["train"]
    share = share_of(train["truncated"], train["rows"])
    if KINDS[info["task"]].marks_spans or plan.max_cut_share is None or share <= plan.max_cut_share:
        return
    texts = prepared_texts(tables["train"])
    check_cut(share, plan.max_length, plan.max_cut_share, measure_coverage(folder / "tokenizer", texts))


def _unknown_share(info: Info) -> float:
    train = info["splits"]["train"]
    return share_of(train["unknown"], train["text_tokens"])


def _write_member(base: Path, folder: Path, tables: Mapping[str, pa.Table], info: Info) -> None:
    """Write the folder `members/<name>` of a further teacher, where its tokenizer is not the first teacher's."""
    member_dir = folder / MEMBERS / base.name
    _write_tokens(base, member_dir, tables, info)
    if _same_tokenizer(member_dir, folder):
        shutil.rmtree(member_dir)
        if not any(member_dir.parent.iterdir()):
            member_dir.parent.rmdir()
    elif KINDS[info["task"]].marks_spans:
        raise ModelError(
            f"ingest.teachers.{base.name} has another tokenizer than ingest.teacher, but the teachers of a "
            f"{info['task']} task answer token by token, together; give one with the same tokenizer.json"
        )


def _vocabulary(plan: Tokenize, base: Path, info: Info) -> Vocabulary | None:
    """Return the limits of the student's vocabulary, with a number where params leave it to the size of the file."""
    vocabulary = plan.vocabulary
    if vocabulary is None or not isinstance(plan, BudgetedTokenize):
        return vocabulary
    config = read_json((student_base(base) or base) / "config.json")
    max_tokens = fitting_vocabulary(config, plan.budget, len(info["labels"]))
    return None if max_tokens is None else vocabulary.model_copy(update={"max_tokens": max_tokens})


def _write_student(
    base: Path, folder: Path, tables: Mapping[str, pa.Table], info: Info, plan: Vocabulary | None
) -> tuple[Info | None, list[str]]:
    """Write the folder `student`, where its tokens are not the teacher's.

    Returns:
        Its info, None where there is no such folder; and the words that a trimmed vocabulary spells in pieces.
    """
    checkpoint = student_base(base)
    untrimmed = folder / "whole"
    target = folder / STUDENT
    source = folder
    words: list[str] = []
    if checkpoint is not None:
        student_info = _write_tokens(checkpoint, untrimmed, tables, info)
        # Segment ids that the student ignores do no harm; missing ones would.
        if not _same_tokenizer(untrimmed, folder) or student_info["token_types"] > info["token_types"]:
            source = untrimmed
            info = student_info
    if plan is not None:
        info, words = _write_trimmed(source, target, tables, info, plan)
    elif source == untrimmed:
        untrimmed.rename(target)
    shutil.rmtree(untrimmed, ignore_errors=True)
    return (info if target.exists() else None), words


def _same_tokenizer(first_dir: Path, second_dir: Path) -> bool:
    file = Path("tokenizer") / "tokenizer.json"
    return (first_dir / file).read_bytes() == (second_dir / file).read_bytes()


def _write_trimmed(
    source: Path, target: Path, tables: Mapping[str, pa.Table], info: Info, plan: Vocabulary
) -> tuple[Info, list[str]]:
    """Trim a tokenizer to the tokens that train and transfer use most, and write every split in its tokens.

    Returns:
        The folder's info, and the dropped words that join transfer so that the student learns to spell them.
    """
    splits = {split: TokenDataset.open(source / f"{split}.arrow", info["pad_token_id"]) for split in SPLITS}
    learned = TokenDataset.concatenate([splits[split] for split in LEARNED])
    untrimmed = load_tokenizer(source / "tokenizer", info["max_length"])
    fitted = fit_vocabulary(
        untrimmed, source / "tokenizer", target / "tokenizer", learned, plan, pair=bool(info["pair"]), name="tokenize"
    )
    kept_ids, words = fitted.kept_ids, fitted.spelled
    np.save(target / KEPT_IDS, kept_ids, allow_pickle=False)
    changed = {split: rows.share_beyond(kept_ids) for split, rows in splits.items()}
    trimmed = info | {
        # A model without a pad token takes any.
        "pad_token_id": fitted.new_ids.get(info["pad_token_id"], 0),
        "splits": _write_splits(target, _add_words(tables, words), info),
        "vocabulary": {
            "tokens": len(kept_ids),
            "of": untrimmed.get_vocab_size(),
            "spelled": len(words),
            "rank": plan.rank,
            "changed": {split: {"tokens": tokens, "rows": rows} for split, (tokens, rows) in changed.items()},
        },
    }
    write_json(target / "info.json", trimmed)
    return trimmed, words


def _add_words(tables: Mapping[str, pa.Table], words: list[str]) -> dict[str, pa.Table]:
    """Add a row to transfer for each word, with id and text and no other column."""
    schema = tables["transfer"].schema
    values = {"id": [f"word-{number}" for number in range(len(words))], "text": words}
    columns = [pa.array(values.get(field.name, [None] * len(words)), field.type) for field in schema]
    rows = pa.Table.from_arrays(columns, schema=schema)
    return dict(tables) | {"transfer": pa.concat_tables([tables["transfer"], rows])}


def _result(info: Info, student: Info | None) -> Result:
    rows = sum(split["rows"] for split in info["splits"].values())
    cut = sum(split["truncated"] for split in info["splits"].values())
    tokens = _tokens(info)
    if KINDS[info["task"]].marks_spans:
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
    vocabulary = student["vocabulary"]
    changed = vocabulary["changed"]["train"]["tokens"]
    summary += (
        f", from a vocabulary of {vocabulary['tokens']:,} of {vocabulary['of']:,}: {changed:.1%} of the tokens in "
        f"train are split into shorter ones, {vocabulary['spelled']:,} words join transfer"
    )
    return Result(summary, metrics | {"vocabulary": float(vocabulary["tokens"]), "changed_tokens": changed})


def _tokens(info: Info) -> int:
    return sum(split["tokens"] for split in info["splits"].values())


if __name__ == "__main__":
    main(run)
