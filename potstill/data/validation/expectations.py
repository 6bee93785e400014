"""Runs Great Expectations suites over the prepared splits.

An empty frame passes every column expectation, so the row count of each split is checked first. Class balance, leakage
between splits and the change since the last accepted data are no properties of a column. They are computed into small
frames with suites of their own, so that the Data Docs hold all results.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig

from potstill.config.base import LABELLED
from potstill.config.validate_params import Validate
from potstill.data.cleaning import DAMAGE, comparable
from potstill.data.label_cells import FINITE
from potstill.data.rows import PAIR_SEPARATOR
from potstill.data.validation.data_docs import make_reproducible
from potstill.data.validation.profiles import drift
from potstill.kinds.definitions.question_answering import ANSWER, NO_ANSWER
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.tags import types_named

# How a sentence names the limits of an expectation.
_LIMITS = {"min_value": "at least", "max_value": "at most", "value_set": "one of", "value": "exactly"}
# The docs show a run's time. It is fixed, since equal data has to give equal bytes.
_NO_TIME = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Check:
    """An expectation, with a description, and the remedy if it fails, which names the key of its limit."""

    what: str
    expectation: gxe.Expectation
    remedy: str


@dataclass
class Suite:
    """Expectations on one frame."""

    name: str
    frame: pd.DataFrame
    checks: list[Check] = field(default_factory=list)

    def expect(self, what: str, expectation: gxe.Expectation, remedy: str = "correct these rows") -> None:
        """Add an expectation."""
        expectation.notes = what
        self.checks.append(Check(what, expectation, remedy))


@dataclass(frozen=True)
class Verdict:
    """The result of the suites as result.json holds it, and a sentence for each failure."""

    result: dict[str, Any]
    failures: tuple[str, ...]


def build_suites(
    splits: Mapping[str, pd.DataFrame],
    labels: Sequence[str],
    params: Validate,
    accepted: Mapping[str, Any],
    task: TaskKind = "single_label",
) -> list[Suite]:
    """Build all suites, in the order in which failures are reported.

    Args:
        splits: train, dev, test and transfer as in `data/prepared`.
        labels: names in class-index order.
        params: the limits.
        accepted: the last accepted profile; empty if there is none.
        task: decides on the checks of labels.
    """
    keys = {
        split: [comparable(PAIR_SEPARATOR.join(texts)) for texts in _texts(frame)] for split, frame in splits.items()
    }
    suites = [_split_suite(name, frame, keys[name], params) for name, frame in splits.items()]
    for name, suite in zip(splits, suites, strict=True):
        _expect_labels(suite, name in LABELLED, labels, params, task)
    if KINDS[task].has_classes:
        suites += [_class_suite(name, splits[name], labels, params, task) for name in LABELLED]
    suites.append(_leakage_suite(keys))
    if accepted:
        names = label_names(splits, labels, task)
        distances = drift(accepted, text_lengths(splits), names, target_numbers(splits, task))
        suites.append(_drift_suite(distances, params))
    return suites


def text_lengths(splits: Mapping[str, pd.DataFrame]) -> dict[str, list[int]]:
    """Measure the characters of each row, by split."""
    return {name: [sum(map(len, texts)) for texts in _texts(frame)] for name, frame in splits.items()}


def label_names(
    splits: Mapping[str, pd.DataFrame], labels: Sequence[str], task: TaskKind = "single_label"
) -> dict[str, list[str]]:
    """List the known labels of the rows, by labelled split. A row with several labels gives each of them."""
    return {name: _names(splits[name], labels, task) for name in LABELLED}


def _names(frame: pd.DataFrame, labels: Sequence[str], task: TaskKind) -> list[str]:
    form, known = KINDS[task].form, frame["label"].dropna()
    if form == "number":
        return []
    if form == "entities":  # Each type once a row.
        return [kind for row in known for kind in _types(row, labels)]
    if form == "span":
        return [ANSWER if len(row) else NO_ANSWER for row in known]
    if form == "labels":
        return [label for row in known for label, flag in zip(labels, row, strict=False) if flag == 1]
    return [labels[int(index)] for index in known if 0 <= index < len(labels)]


def _types(row: Sequence[Sequence[int]], labels: Sequence[str]) -> list[str]:
    kinds = types_named(labels)
    return sorted({kinds[(int(tag) - 1) // 2] for _, _, tag in row if 0 < tag <= 2 * len(kinds)})


def target_numbers(splits: Mapping[str, pd.DataFrame], task: TaskKind) -> dict[str, list[float]]:
    """List the numbers of the rows, by labelled split. Empty for tasks without numbers."""
    if KINDS[task].form != "number":
        return {}
    return {name: splits[name]["label"].dropna().tolist() for name in LABELLED}


def _texts(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = [name for name in ("text", "text_pair") if name in frame]
    return list(zip(*(frame[name].fillna("") for name in columns), strict=True))


def _split_suite(name: str, frame: pd.DataFrame, keys: list[str], params: Validate) -> Suite:
    suite = Suite(name, frame.assign(normalized=keys))
    suite.expect(
        "enough rows",
        gxe.ExpectTableRowCountToBeBetween(min_value=params.min_rows.get(name, 0)),  # type: ignore[call-overload]
        f"give more rows, or lower validate.min_rows.{name}",
    )
    suite.expect("an id in every row", gxe.ExpectColumnValuesToNotBeNull(column="id"))
    low, high = params.characters
    for column in ("text", "text_pair"):
        if column in frame:
            suite.expect(f"a {column} in every row", gxe.ExpectColumnValuesToNotBeNull(column=column))
            suite.expect(
                f"characters of a {column}",
                gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=low, max_value=high),
                "correct these texts, or widen validate.characters: texts beyond tokenize.max_length are only cut",
            )
            suite.expect(
                f"undamaged encoding of {column} (no U+FFFD, no mojibake)",
                gxe.ExpectColumnValuesToNotMatchRegex(column=column, regex=DAMAGE, mostly=1 - params.max_damaged_share),
                "export the texts again in UTF-8, or raise validate.max_damaged_share",
            )
    suite.expect("distinct ids", gxe.ExpectColumnValuesToBeUnique(column="id"))
    suite.expect("distinct texts", gxe.ExpectColumnValuesToBeUnique(column="normalized"))
    return suite


def _expect_labels(suite: Suite, labelled: bool, labels: Sequence[str], params: Validate, task: TaskKind) -> None:
    """Add the expectations of a split's labels."""
    form = KINDS[task].form
    if not labelled:
        suite.expect("no labels", gxe.ExpectColumnValuesToBeNull(column="label"))
    elif form == "labels":
        _expect_flags(suite, labels)
    elif KINDS[task].marks_spans:
        _expect_positions(suite, labels, task)
    else:
        suite.expect("a label in every row", gxe.ExpectColumnValuesToNotBeNull(column="label"))
        if form == "class":
            known = list(range(len(labels)))
            suite.expect("labels of the set", gxe.ExpectColumnValuesToBeInSet(column="label", value_set=known))
        else:
            _expect_numbers(suite, params)


def _expect_flags(suite: Suite, labels: Sequence[str]) -> None:
    """Replace the column of lists, which no expectation compares, by a column of flags for each label."""
    rows = [[None] * len(labels) if row is None else list(row) for row in suite.frame["label"]]
    columns = [f"label {name}" for name in labels]
    flags = pd.DataFrame(rows, columns=columns, index=suite.frame.index)
    suite.frame = pd.concat([suite.frame.drop(columns="label"), flags], axis=1)
    for column in columns:
        suite.expect(f"a value in every row of {column}", gxe.ExpectColumnValuesToNotBeNull(column=column))
        suite.expect(f"0 or 1 in {column}", gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[0, 1]))


def _expect_positions(suite: Suite, labels: Sequence[str], task: TaskKind) -> None:
    """Replace the column of lists of positions, which no expectation compares, by columns of counts."""
    frame = suite.frame
    is_entities = KINDS[task].form == "entities"
    texts = frame["text" if is_entities else "text_pair"].fillna("")
    marks = [[] if row is None else [list(map(int, mark)) for mark in row] for row in frame["label"]]
    suite.frame = frame.assign(
        label=pd.Series([None if row is None else len(row) for row in frame["label"]], frame.index, dtype="Int64"),
        beyond=[
            sum(mark[1] > len(text) or mark[0] >= mark[1] for mark in row)
            for row, text in zip(marks, texts, strict=True)
        ],
        unknown=[sum(not 0 <= mark[2] < len(labels) for mark in row) if is_entities else 0 for row in marks],
    )
    suite.expect("a label in every row", gxe.ExpectColumnValuesToNotBeNull(column="label"))
    suite.expect("places within the text", gxe.ExpectColumnMaxToBeBetween(column="beyond", max_value=0))
    if is_entities:
        suite.expect("words in every row", gxe.ExpectColumnMinToBeBetween(column="label", min_value=1))
        suite.expect("tags of the set", gxe.ExpectColumnMaxToBeBetween(column="unknown", max_value=0))


def _expect_numbers(suite: Suite, params: Validate) -> None:
    low, high = params.target or (-FINITE, FINITE)
    within = "finite numbers" if params.target is None else "numbers within validate.target"
    suite.expect(
        within,
        gxe.ExpectColumnValuesToBeBetween(column="label", min_value=low, max_value=high),
        "correct these rows, or widen validate.target",
    )
    different = gxe.ExpectColumnUniqueValueCountToBeBetween(column="label", min_value=2)
    suite.expect("different numbers", different, "give rows of other numbers")


def _class_suite(name: str, frame: pd.DataFrame, labels: Sequence[str], params: Validate, task: TaskKind) -> Suite:
    form = KINDS[task].form
    counts = Counter(_names(frame, labels, task))
    if form == "entities":
        labels = types_named(labels)
    rows = [counts[label] for label in labels]
    # Shares of entities are those of the types in all rows, since nearly every row may have an entity.
    total = max(1, sum(rows) if form == "entities" else len(frame))
    classes = pd.DataFrame({"label": list(labels), "rows": rows, "share": [count / total for count in rows]})
    smallest = labels[rows.index(min(rows))]
    largest = labels[rows.index(max(rows))]
    suite = Suite(f"{name}-classes", classes)
    suite.expect("classes", gxe.ExpectTableRowCountToEqual(value=len(labels)))
    if params.min_per_class is not None:
        suite.expect(
            f"rows of the smallest class, {smallest!r}",
            gxe.ExpectColumnMinToBeBetween(column="rows", min_value=params.min_per_class),
            f"{_below(classes, params.min_per_class)}: give more rows, or lower validate.min_per_class",
        )
    if params.max_class_share is not None and len(labels) > 1:
        suite.expect(
            f"share of the largest class, {largest!r}",
            gxe.ExpectColumnMaxToBeBetween(column="share", max_value=params.max_class_share),
            "give more rows of the others, or raise validate.max_class_share",
        )
    return suite


def _below(classes: pd.DataFrame, limit: int) -> str:
    """List every class with fewer rows than the limit."""
    few = classes[classes["rows"] < limit]
    shown = ", ".join(f"{label!r} {rows}" for label, rows in zip(few["label"], few["rows"], strict=True))
    return f"below it {'is' if len(few) == 1 else 'are'} {shown}"


def _leakage_suite(keys: Mapping[str, Sequence[str]]) -> Suite:
    sets = {name: set(values) for name, values in keys.items()}
    pairs = {f"{a} and {b}": len(sets[a] & sets[b]) for a, b in combinations(sets, 2)}
    suite = Suite("leakage", pd.DataFrame([pairs]))
    for pair in pairs:
        no_text = gxe.ExpectColumnMaxToBeBetween(column=pair, max_value=0)
        suite.expect(f"texts in both {pair}", no_text, "remove them from one of the two")
    return suite


def _drift_suite(distances: Mapping[str, float], params: Validate) -> Suite:
    suite = Suite("change", pd.DataFrame([distances]))
    for name in distances:
        suite.expect(
            f"population stability index of {name} against the last accepted data",
            gxe.ExpectColumnMaxToBeBetween(column=name, max_value=params.max_psi),
            "look at the new data; `potstill accept` compares with it from now on, validate.max_psi is the limit",
        )
    return suite


# --- run ------------------------------------------------------------------------------------------------------------


def run_suites(suites: Sequence[Suite], docs: Path | None, run_name: str) -> Verdict:
    """Run all suites and write the Data Docs.

    Args:
        suites: the suites to run.
        docs: folder of the site, whose first page is `index.html`; None: write no site.
        run_name: identifies the data. The docs show it instead of a time.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("prepared")
    run = RunIdentifier(run_name=run_name, run_time=_NO_TIME)
    result: dict[str, Any] = {}
    failures: list[str] = []
    for suite in suites:
        batch = source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all")
        expectations = gx.ExpectationSuite(suite.name, expectations=[check.expectation for check in suite.checks])
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(expectations))
        )
        outcome = definition.run(batch_parameters={"dataframe": suite.frame}, run_id=run, result_format="SUMMARY")
        # The order of the results differs from that of the checks. The notes identify their expectations.
        by_what = {item["expectation_config"]["notes"]: item for item in outcome.to_json_dict()["results"]}
        outcomes = [_outcome(check.what, by_what[check.what]) for check in suite.checks]
        failures += [
            f"{suite.name}: {_sentence(item, check.remedy)}"
            for item, check in zip(outcomes, suite.checks, strict=True)
            if not item["success"]
        ]
        result[suite.name] = outcomes
    if docs is not None:
        _write_docs(context, docs)
    total = sum(len(suite.checks) for suite in suites)
    summary = {"success": not failures, "expectations": total, "failed": len(failures), "suites": result}
    return Verdict(summary, tuple(failures))


def _write_docs(context: Any, docs: Path) -> None:
    context.delete_data_docs_site("local_site")  # The default site, in the temporary folder.
    context.add_data_docs_site(
        "potstill",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    context.build_data_docs(site_names=["potstill"])
    make_reproducible(docs)


def _outcome(what: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the result of an expectation, without identifiers, which differ from run to run."""
    config = item["expectation_config"]
    kwargs = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    error = (item.get("exception_info") or {}).get("exception_message")
    outcome = {
        "what": what,
        "type": config["type"],
        "kwargs": kwargs,
        "success": item["success"],
        "result": item["result"],
    }
    return outcome | ({"error": error} if error else {})


def _sentence(outcome: Mapping[str, Any], remedy: str) -> str:
    """Say what was expected and observed, and what to do."""
    result = outcome["result"]
    expected = outcome["kwargs"]
    if "error" in outcome:
        observed = f"could not be computed ({' '.join(str(outcome['error']).split())[:200]})"
    elif result.get("observed_value") is not None:
        observed = f"observed {_short(result['observed_value'])}"
    else:
        examples = ", ".join(repr(str(value)[:60]) for value in (result.get("partial_unexpected_list") or [])[:2])
        observed = (
            f"observed {result.get('unexpected_count', 0):,} of {result.get('element_count', 0):,} rows that fail"
        )
        observed += f", such as {examples}" if examples else ""
    limits = [f"{words} {_short(expected[key])}" for key, words in _LIMITS.items() if expected.get(key) is not None]
    limits = limits or [f"at most {1 - expected.get('mostly', 1.0):.2%} of rows"]
    return f"{outcome['what']}: {observed}, wanted {' and '.join(limits)} ({remedy})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)[:120]
