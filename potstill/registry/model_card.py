"""The model card of a version: what a reviewer reads on MLflow's page, in the form of Hugging Face's model cards.

Everything here is a pure function of plain values. Text from data and params is escaped, so that a label cannot become
a link, a heading or a column of a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.errors import first_names
from potstill.evaluation.metrics_reading import (
    finite,
    mapping,
    percent_interval,
    read_difference,
    signed_interval,
    signed_points,
    slice_losses,
    with_bounds,
)
from potstill.evaluation.naming import TITLES, candidate_of
from potstill.evaluation.recommendation import recommend
from potstill.kinds.definitions.task_kinds import kind_in

# MLflow's column for the description of a version (mlflow.store.model_registry.dbmodels). SQLite stores longer texts,
# PostgreSQL and MySQL refuse them.
DESCRIPTION_CHARACTERS = 5000
CARD = "README.md"
# Room for the titles of all sections.
_LEFT_OUT_CHARACTERS = 200
_NAMED_LABELS = 20
_CELL_CHARACTERS = 400
# Form of the answers -> the hub's name of the task; numbers are a text classification there.
_PIPELINES = {"entities": "token-classification", "span": "question-answering"}
_ANSWERS = {
    "class": "answers one class for each text",
    "labels": "answers the labels that apply to each text",
    "number": "answers a number for each text",
    "entities": "marks the entities of each text",
    "span": "answers questions with a span of their context",
}
# Outs whose hashes are in the card; the version's tag potstill.data has those of all stages.
_OUTS = ("raw", "given", "prepared", "tokens", "teacher", "signals", "serving", "evaluation")
_MARKUP = re.compile(r"[\\`*_\[\]<>|~#$@&]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


@dataclass(frozen=True)
class Teacher:
    """The origin of a teacher.

    Attributes:
        origin: where it comes from, such as `owner/name@commit`.
        hub_id: its id on the Hugging Face hub; None if it is not from there.
        licence: its licence, as its folder names it; None if it names none.
    """

    origin: str
    hub_id: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Lineage:
    """The origins of a version: teacher, data, code and environment.

    Attributes:
        project: name of the project.
        candidate: sha256 of its serving folder's manifest.
        bento: tag of its Bento.
        commit: git commit; None outside git.
        is_clean: whether the tree was that of the commit; None outside git.
        lock_sha256: sha256 of the environment's lock file.
        data: out -> DVC hash in dvc.lock.
        teacher: origin of the teacher.
        labels: what the model answers; empty for answers to questions and numbers.
        max_length: tokens that the model reads of a text.
        champion: number of the champion that the gate compared it with; None without one.
        abstains: whether the service says where it is less sure than its threshold.
        signer: sha256 of the public key or certificate that signs it; None if it is not signed.
    """

    project: str
    candidate: str
    bento: str
    commit: str | None
    is_clean: bool | None
    lock_sha256: str | None
    data: Mapping[str, str]
    teacher: Teacher
    labels: Sequence[str | int]
    max_length: int | None
    champion: str | None
    abstains: bool = False
    signer: str | None = None


def render_card(metrics: Mapping[str, Any], verdict: Mapping[str, Any], lineage: Lineage) -> str:
    """Write the whole card, with the metadata that the Hugging Face hub reads.

    Args:
        metrics: the content of reports/metrics.json.
        verdict: the content of reports/gate.json.
        lineage: what the version was made of.
    """
    return _metadata(metrics, lineage) + "\n".join(_sections(metrics, verdict, lineage))


def render_description(metrics: Mapping[str, Any], verdict: Mapping[str, Any], lineage: Lineage) -> str:
    """Write the card as MLflow's description: without metadata, and with the names of the sections that do not fit."""
    end = f"\nThe whole card is the artifact `{CARD}` of this version"
    sections = _sections(metrics, verdict, lineage)
    space = DESCRIPTION_CHARACTERS - len(end) - _LEFT_OUT_CHARACTERS
    text = ""
    left_out = []
    for section in sections:
        longer = f"{text}\n{section}" if text else section
        if len(longer) <= space:
            text = longer
        else:
            left_out.append(section.partition("\n")[0].lstrip("# "))
    more = f", with {' and '.join(left_out)}" if left_out else ""
    return f"{text}{end}{more}.\n"


# --- escaping ---------------------------------------------------------------------------------------------------------


def escape(value: object, characters: int = _CELL_CHARACTERS) -> str:
    """Write a text so that Markdown shows it as it is, on one line and of limited length."""
    text = " ".join(str(value).split())
    if len(text) > characters:
        text = f"{text[: characters - 1]}\u2026"
    text = _MARKUP.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), text)
    # Without a backslash, a list item could begin a list of its own, and an address would become a link.
    text = re.sub(r"^(\d*)([-+.)])", r"\1\\\2", text)
    return re.sub(r"(?i)(https?|ftp)://|\bwww\.", lambda match: match[0].replace(":", "\\:").replace(".", "\\."), text)


def _code(value: object) -> str:
    """Write a hash, a tag or a path as code; text that could end the code is escaped instead."""
    text = str(value)
    return f"`{text}`" if re.fullmatch(r"[\w./:@=+ -]+", text) else escape(text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write cells, which are escaped already, as a table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- sections ---------------------------------------------------------------------------------------------------------


def _metadata(metrics: Mapping[str, Any], lineage: Lineage) -> str:
    import yaml

    facts: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": _PIPELINES.get(kind_in(metrics).form, "text-classification"),
        "tags": ["potstill", "distillation"],
    }
    if lineage.teacher.hub_id is not None:
        facts |= {"base_model": lineage.teacher.hub_id, "base_model_relation": "finetune"}
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n\n"


def _sections(metrics: Mapping[str, Any], verdict: Mapping[str, Any], lineage: Lineage) -> list[str]:
    """Write all sections, the most important ones first."""
    sections = [
        _head(metrics, verdict, lineage),
        _evaluation(metrics, verdict, lineage),
        _losses(metrics, verdict),
        _use(metrics, lineage),
        _commands(lineage),
        _lineage(lineage),
        _data(lineage),
        _gate(verdict),
        _behaviour(metrics),
    ]
    return [section for section in sections if section]


def _head(metrics: Mapping[str, Any], verdict: Mapping[str, Any], lineage: Lineage) -> str:
    champion = f"version {lineage.champion}" if lineage.champion else "none yet"
    shipped = {"int8": "INT8", "fp32": "fp32"}.get(str(metrics.get("shipped")), "an unknown variant")
    advice = recommend(metrics, verdict.get("passed") is True, _judged_champion(verdict, lineage))
    cautions = "".join(f"- {escape(caution)}\n" for caution in advice.cautions)
    cautions += "\n" if cautions else ""
    return (
        f"# {escape(lineage.project)}\n\n"
        f"**{advice.call}.** {escape(advice.summary[:1].upper() + advice.summary[1:], 1200)}.\n\n"
        f"{cautions}"
        f"Gate: {escape(verdict.get('sentence', 'not judged'), 1200)}.\n\n"
        f"A student of {escape(lineage.teacher.origin)}, distilled by Potstill and shipped as {shipped} for "
        f"onnxruntime. Bento: {_code(lineage.bento)}. Champion when it was judged: {champion}.\n"
    )


def _judged_champion(verdict: Mapping[str, Any], lineage: Lineage) -> Mapping[str, Any] | None:
    """Return the champion with its number, as `recommend` takes it; None without one."""
    champion = mapping(verdict.get("champion"))
    return {**champion, "version": lineage.champion} if champion or lineage.champion else None


def _evaluation(metrics: Mapping[str, Any], verdict: Mapping[str, Any], lineage: Lineage) -> str:
    scoring = kind_in(metrics).scoring
    models = mapping(metrics.get("models"))
    candidate = candidate_of(metrics) or ""
    confidence = 100 * float(metrics.get("confidence") or 0.95)
    names = [candidate, *(name for name in (*TITLES, *models) if name in models and name != candidate)]
    rows = [_row(name, metrics, scoring.key, candidate) for name in dict.fromkeys(names)]
    champion = mapping(verdict.get("champion"))
    if champion:
        rows.insert(1, _champion_row(champion, metrics, scoring.key, candidate, lineage))
    score = f"{scoring.words}, %"
    header = ["model", score, "this version minus it, points", "calibration error", "MB", "p50 ms", "p99 ms"]
    uses = verdict.get("test_uses")
    judged = f" They have judged {uses} candidate{'s' if uses != 1 else ''} so far." if isinstance(uses, int) else ""
    rows_text = f"{metrics.get('rows', 'an unknown number of')} test rows that no stage trained on."
    return (
        f"## Evaluation\n\nOn {rows_text}{judged} "
        f"Intervals are at {confidence:g}%; times are of one text a call on the CPU.\n\n{markdown_table(header, rows)}"
    )


def _row(name: str, metrics: Mapping[str, Any], key: str, candidate: str) -> list[str]:
    model = mapping(mapping(metrics.get("models")).get(name))
    title = escape(TITLES.get(name, name))
    return [
        f"**{title} (this version)**" if name == candidate else title,
        _with_interval(model, key),
        "" if name == candidate else _difference(name, model, metrics, key, candidate),
        _decimal(model.get("ece"), 3),
        _decimal(model.get("megabytes"), 1),
        _decimal(model.get("p50_ms"), 1),
        _decimal(model.get("p99_ms"), 1),
    ]


def _champion_row(
    champion: Mapping[str, Any], metrics: Mapping[str, Any], key: str, candidate: str, lineage: Lineage
) -> list[str]:
    title = f"Champion, version {lineage.champion}" if lineage.champion else "Champion"
    if champion.get("problem") is not None:
        return [title, "not comparable", escape(champion["problem"]), "", "", "", ""]
    return [
        title,
        _with_interval(champion, key),
        _difference("champion", champion, metrics, key, candidate),
        _decimal(champion.get("ece"), 3),
        _decimal(champion.get("megabytes"), 1),
        "",  # its times are of its own run, on whichever machine
        "",
    ]


def _difference(name: str, model: Mapping[str, Any], metrics: Mapping[str, Any], key: str, candidate: str) -> str:
    """Write the candidate's gain over a model, with its interval where metrics.json or the verdict has one."""
    verdicts = mapping(mapping(metrics.get("proof")).get("verdicts"))
    for comparison in (model.get("comparison"), mapping(metrics.get("comparison")).get(name), verdicts.get(name)):
        numbers = read_difference(comparison)
        if numbers is not None:
            difference, low, high = numbers
            return f"{signed_points(difference)} ({signed_interval(low, high)})"
    candidate_score = finite(mapping(mapping(metrics.get("models")).get(candidate)).get(key))
    score = finite(model.get(key))
    return "" if candidate_score is None or score is None else signed_points(candidate_score - score)


def _with_interval(model: Mapping[str, Any], key: str) -> str:
    value, low, high = (finite(model.get(name)) for name in with_bounds(key))
    if value is None:
        return "missing"
    interval = "" if low is None or high is None else f" ({percent_interval(low, high)})"
    return f"{100 * value:.1f}{interval}"


def _losses(metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """List the slices on which the candidate is worse than a rival: the champion first, the largest losses first."""
    reports = [mapping(verdict.get("champion")).get("slices"), metrics.get("slices")]
    losses = [
        f"- {escape(part.get('name'))}: {signed_points(comparison['difference'])} points to the {escape(rival)} on "
        f"{part.get('rows')} rows ({signed_interval(comparison['low'], comparison['high'])})\n"
        for report in reports
        for part, rival, comparison in sorted(slice_losses(report), key=lambda loss: loss[2]["difference"])
    ]
    return f"## Worse on\n\n{''.join(losses)}" if losses else ""


def _behaviour(metrics: Mapping[str, Any]) -> str:
    """List how often the candidate fails each behavioural test, next to the teacher."""
    compared = (candidate_of(metrics) or "", "teacher")
    rows = []
    for test, result in mapping(mapping(metrics.get("behaviour")).get("tests")).items():
        models = mapping(mapping(result).get("models"))
        rates = [_with_interval(mapping(models.get(name)), "failure_rate") for name in compared]
        rows.append([escape(test), *rates])
    header = ["test", "fails, %", "teacher fails, %"]
    return f"## Behaviour\n\n{markdown_table(header, rows)}" if rows else ""


def _gate(verdict: Mapping[str, Any]) -> str:
    checks = [mapping(check) for check in verdict.get("checks") or []]
    rows = [
        ["pass" if check.get("passed") is True else "**FAIL**", _code(check.get("name")), escape(check.get("sentence"))]
        for check in sorted(checks, key=lambda check: check.get("passed") is True)
    ]
    return f"## Gate\n\n{markdown_table(['result', 'check', 'in words'], rows)}" if rows else ""


def _use(metrics: Mapping[str, Any], lineage: Lineage) -> str:
    kind = kind_in(metrics)
    labels = [escape(label, 60) for label in lineage.labels]
    names = f" Its labels: {first_names(labels, _NAMED_LABELS)}." if labels else ""
    truncation = mapping(metrics.get("truncation"))
    share = finite(truncation.get("share"))
    cut = "" if share is None else f" ({100 * share:.1f}% of the test texts were longer)"
    length = f"It reads the first {lineage.max_length} tokens of a text{cut}. " if lineage.max_length else ""
    abstention = mapping(mapping(metrics.get("abstention")).get("threshold"))
    confidence = finite(abstention.get("confidence"))
    served = ", and the service says `abstained: true`" if lineage.abstains else ""
    threshold = "" if confidence is None else f" Below a confidence of {confidence:.4f} a person should decide{served}."
    return (
        f"## Intended use and limits\n\nIt {_ANSWERS[kind.form]}, for texts like those in `data/prepared`.{names} "
        f"{length}The numbers hold for texts like the test rows: other domains, languages and times are not measured "
        f"here. `potstill drift` watches for that.{threshold}\n"
    )


def _commands(lineage: Lineage) -> str:
    return (
        "## Serve, and roll back\n\n```sh\n"
        f"potstill fetch {lineage.bento} && potstill serve --tag {lineage.bento}\n"
        f"potstill review {lineage.bento}        # against the champion\n"
        f'potstill promote {lineage.bento} --reason "..."\n'
        'potstill rollback --reason "..."      # to the champion before\n'
        f"mlflow models serve -m models:/{lineage.project}@champion   # without Potstill\n```\n"
    )


def _lineage(lineage: Lineage) -> str:
    state = {True: "clean", False: "with uncommitted changes", None: "state not known"}[lineage.is_clean]
    commit = f"{_code(lineage.commit)}, {state}" if lineage.commit else "not in git"
    teacher = lineage.teacher
    rows = [
        ["commit", commit],
        ["candidate", _code(lineage.candidate)],
        ["environment", _code(lineage.lock_sha256) if lineage.lock_sha256 else "no lock file"],
        ["teacher", escape(teacher.origin)],
        ["licence of the teacher", escape(teacher.licence) if teacher.licence else "not named by its folder"],
        ["signed by", _code(lineage.signer) if lineage.signer else "nobody"],
        ["report", "artifact `report.html` in `evidence`"],
        ["bill of materials", "artifact `ml-bom.json` in `evidence`"],
    ]
    return f"## Lineage\n\n{markdown_table(['what', 'value'], rows)}"


def _data(lineage: Lineage) -> str:
    paths = [path for path in (f"data/{name}" for name in _OUTS) if path in lineage.data]
    rows = [[_code(path), _code(lineage.data[path])] for path in paths]
    return f"## Data\n\n{markdown_table(['out', 'DVC hash'], rows)}" if rows else ""


def _decimal(value: Any, digits: int) -> str:
    number = finite(value)
    return "" if number is None else f"{number:.{digits}f}"
