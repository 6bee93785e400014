"""The lines that `potstill init` prints at the end: what the data is, and what to expect of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.propose_params import Proposed, file_megabytes
from potstill.config.base import LABELLED
from potstill.errors import PotstillError
from potstill.paths import PRECISION

if TYPE_CHECKING:
    from potstill.data.proposals.survey import Survey

# How many classes are listed with their rows.
_LISTED_CLASSES = 6


def overview(survey: Survey, proposed: Proposed, workspace: Path) -> Iterator[tuple[str, str]]:
    """Yield lines of (topic, value). The machine's speed is measured, and kept in the workspace for the stages."""
    from potstill.data.proposals.column_summaries import describe_columns

    yield "data", "; ".join(_files(survey))
    yield "columns", describe_columns(survey.proposal.columns.values())
    for note in (*_notes(survey), *_teacher_note(survey, proposed)):
        yield "note", note
    proposal = survey.proposal
    text = survey.section["text"]
    columns = repr(text) if isinstance(text, str) else "pairs: " + " and ".join(map(repr, text))
    yield "task", f"{proposal.task} of {columns}: {proposal.why}"
    yield "splits", _splits(survey)
    if survey.classes():
        yield "classes", _classes(survey)
    yield "characters", _characters(survey)
    yield from _tokens(survey, proposed)
    yield from _run(proposed, workspace)


def _files(survey: Survey) -> Iterator[str]:
    rows = sum(look.rows for look in survey.summaries)
    tables = [look.table for look in survey.summaries]
    yield f"{rows:,} rows of {len(tables)} files" if len(tables) > 1 else f"{rows:,} rows"
    forms = sorted({table.format for table in tables if table.format})
    yield " and ".join(forms) + "".join(
        f" with {separator!r} between cells"
        for separator in sorted({table.separator for table in tables if table.separator})
    )
    tools = sorted({table.tool for table in tables if table.tool})
    if tools:
        yield f"an export of {' and '.join(tools)}"


def _notes(survey: Survey) -> Iterator[str]:
    from potstill.data.proposals.limits import DEFAULT_LIMITS

    table_notes = dict.fromkeys(note for table in survey.report["tables"] for note in table["notes"])
    # The origin of the splits has a line of its own.
    yield from (note for note in table_notes if "gives the split" not in note)
    yield from survey.proposal.notes
    removed = {why: count for why, count in survey.report["removed"].items() if count}
    if removed:
        yield "rows removed: " + ", ".join(f"{count:,} {why}" for why, count in removed.items())
    if not survey.compared:
        yield "of so many rows near copies are not looked for here; prepare removes them"
    seeds = survey.section["split"].get("class_seeds", {})
    if seeds:
        yield (
            f"classes that the common draw leaves out of a split have seeds of their own: {len(seeds)} "
            "(prepare.split.class_seeds)"
        )
    for key, usual in DEFAULT_LIMITS.items():
        if survey.limits[key] not in (usual, None):
            yield f"validate.{key} is {survey.limits[key]}, since this data has that much"


def _splits(survey: Survey) -> str:
    split_given, source = survey.given_splits
    rows = ", ".join(f"{split} {len(group):,}" for split, group in survey.splits.items())
    given_splits = [split for split in LABELLED if split_given[split]]
    drawn = [split for split in ("dev", "test") if not split_given[split]]
    if not source or not given_splits:
        return f"{rows}: dev and test are drawn by a seeded hash of the texts"
    drawn_words = f"; {' and '.join(drawn)} drawn from train" if drawn else ""
    return f"{rows}: {', '.join(given_splits)} given by {source}{drawn_words} (other: --split draw or a column)"


def _classes(survey: Survey) -> str:
    counts: Counter[str] = survey.classes()
    listed = ", ".join(f"{name} {rows:,}" for name, rows in counts.most_common(_LISTED_CLASSES))
    if len(counts) <= _LISTED_CLASSES:
        return f"{len(counts)}: {listed}"
    name, rows = min(counts.items(), key=lambda item: item[1])
    return f"{len(counts)}: {listed}, ... {name} {rows:,}"


def _characters(survey: Survey) -> str:
    lengths = sorted(sum(map(len, row.texts)) for group in survey.splits.values() for row in group)
    median = lengths[len(lengths) // 2]
    p95 = lengths[min(len(lengths) - 1, int(len(lengths) * 0.95))]
    return f"half of the texts have at most {median:,}, 95% at most {p95:,}, the longest {lengths[-1]:,}"


def _tokens(survey: Survey, proposed: Proposed) -> Iterator[tuple[str, str]]:
    coverage = proposed.coverage
    length = proposed.params.tokenize.max_length
    estimated = "about " if proposed.estimated else ""
    yield (
        "tokens",
        f"half of the texts have at most {estimated}{coverage.quantile(0.5):,}, 95% {coverage.quantile(0.95):,}, the "
        f"longest {coverage.quantile(1.0):,}; {coverage.cut_share(length):.1%} are longer than "
        f"tokenize.max_length = {length}",
    )
    yield "unknown", f"{coverage.unknown_share:.1%} of the tokens"


def _run(proposed: Proposed, workspace: Path) -> Iterator[tuple[str, str]]:
    """Yield the size of the file that will ship, and steps and minutes of each stage that trains or predicts."""
    from potstill.training.forecast import forecast, measure_speed

    config = proposed.config
    megabytes = file_megabytes(proposed)
    if megabytes is not None:
        trimmed = proposed.params.tokenize.vocabulary is not None
        size = f"{megabytes:.1f} MB at most, with a trimmed vocabulary" if trimmed else f"about {megabytes:.1f} MB"
        yield "ships", f"an INT8 file of {size} (gate.max_file_mb = {proposed.params.gate.max_file_mb:g})"
    speed = measure_speed(proposed.params, config, workspace / PRECISION)
    stages = forecast(proposed.params, proposed.size, config, speed)
    for stage, expected in stages.items():
        steps = f"{expected.steps:,} steps, " if expected.steps else ""
        yield stage, f"{steps}about {expected.minutes:.1f} minutes"
    yield "altogether", f"about {sum(stage.minutes for stage in stages.values()):.0f} minutes on this machine"


def _teacher_note(survey: Survey, proposed: Proposed) -> Iterator[str]:
    """Yield what keeps a fine-tuned teacher's labels from fitting the data."""
    from potstill.models.loading import check_labels

    folder = proposed.teacher.folder
    if folder is None or not proposed.params.teacher.fine_tuned:
        return
    try:
        check_labels(folder, [str(label) for label in survey.labels], survey.proposal.task)
    except PotstillError as error:
        yield f"before a run: {error}"
