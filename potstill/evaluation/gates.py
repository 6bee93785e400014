"""Gates: may this candidate be promoted? Pure and fail-closed: what is missing, NaN or infinite fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from potstill.config.base import TaskKind
from potstill.config.promotion_params import Gate
from potstill.evaluation.naming import candidate_of
from potstill.scores.scoring import SCORINGS, Scoring

# Accuracies are ratios of counts: a difference that equals its limit must not fail by the last bit of a float.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One limit and how the candidate stands to it.

    Attributes:
        name: key under `gate` in params.yaml, or what was checked beside the limits.
        value: the number judged; None where there is no finite one.
        limit: None for a check that is not a limit.
        passed: False for everything that is not certainly within the limit.
        sentence: the check in words, with the distance to the limit where it failed.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate. No check at all is not a pass.

    Attributes:
        checks: in the order in which they were made.
        proof: the comparison with the controls in words, from `proof_in_words`; no check by itself.
    """

    checks: tuple[Check, ...]
    proof: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence: which gates failed by how much, or how many passed."""
        failed = [check.sentence for check in self.checks if not check.passed]
        if failed or not self.checks:
            return f"refused: {'; '.join(failed) or 'nothing was checked'}"
        return f"passed: all {len(self.checks)} gates" + (f"; {self.proof}" if self.proof else "")

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain values, none of them NaN."""
        return {"passed": self.passed, "sentence": self.sentence, "checks": [asdict(check) for check in self.checks]}


def failed(name: str, sentence: str) -> Check:
    """A check that failed for a reason that is not a number."""
    return Check(name, None, None, False, sentence)


@dataclass(frozen=True)
class _Limit:
    words: str
    kind: Literal["minimum", "maximum"]
    # From (candidate's metrics, comparison) to the raw value.
    value: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
    unit: str = ""


def _own(key: str, words: str, kind: Literal["minimum", "maximum"] = "minimum", unit: str = "") -> _Limit:
    """A limit on a number of the candidate's."""
    return _Limit(words, kind, lambda model, _: model.get(key), unit)


def _of_pair(key: str, words: str, unit: str = "") -> _Limit:
    """A minimum of a number of the comparison."""
    return _Limit(words, "minimum", lambda _, pair: pair.get(key), unit)


def _limits(scoring: Scoring) -> dict[str, _Limit]:
    """Every limit, in the order in which they are judged."""
    return {
        "min_score": _own(scoring.key, scoring.words),
        "min_accuracy": _own("accuracy", "accuracy"),
        "min_macro_f1": _own("macro_f1", "macro F1"),
        "min_micro_f1": _own("micro_f1", "micro F1"),
        "min_subset_accuracy": _own("subset_accuracy", "subset accuracy"),
        "max_mse": _own("mse", "mean squared error", "maximum"),
        "max_mae": _own("mae", "mean absolute error", "maximum"),
        "min_pearson": _own("pearson", "Pearson correlation"),
        "min_spearman": _own("spearman", "Spearman correlation"),
        "min_teacher_ratio": _of_pair("teacher_ratio", f"share of the teacher's {scoring.words}"),
        "min_gain_over_control": _of_pair("gain_over_control", "gain over the pretrained control"),
        "min_gain_over_control_upper": _Limit(
            "upper bound of the gain over the pretrained control",
            "minimum",
            lambda _, pair: _mapping(pair.get("control")).get("high"),
        ),
        "max_ece": _own("ece", "calibration error", "maximum"),
        "max_file_mb": _own("megabytes", "model file", "maximum", " MB"),
        "max_p99_ms": _own("p99_ms", "p99 latency", "maximum", " ms"),
        "min_speedup": _of_pair("speedup", "speed-up over the teacher", "x"),
    }


def judge(
    metrics: Mapping[str, Any],
    gate: Gate,
    champion: Mapping[str, Any] | None,
    task: TaskKind = "single_label",
) -> Verdict:
    """Judge the candidate.

    Args:
        metrics: the content of reports/metrics.json; it may be anything, what does not fit fails.
        gate: the limits; one that is null in params is not checked.
        champion: None where there is none yet; else its score on the same test split, under the score's name
            (`accuracy`), or a `problem` (a sentence) that kept it from being scored there, which fails.
        task: decides which score is the candidate's.
    """
    scoring = SCORINGS[task]
    models = _mapping(metrics.get("models"))
    candidate = _mapping(models.get(candidate_of(metrics) or ""))
    comparison = _mapping(metrics.get("comparison"))
    checks = [_scored(candidate, scoring)]
    for name, limit in _limits(scoring).items():
        bound = getattr(gate, name)
        if bound is not None:
            checks.append(_check(name, limit, limit.value(candidate, comparison), bound))
    checks += [_beats(control, _mapping(metrics.get("proof"))) for control in gate.must_beat]
    if champion is not None and gate.max_loss_to_champion is not None:
        checks.append(_against(candidate, champion, gate.max_loss_to_champion, scoring))
    return Verdict(tuple(checks), proof_in_words(metrics))


def proof_in_words(metrics: Mapping[str, Any]) -> str:
    """The proof's verdicts, such as `NO DIFFERENCE to the pretrained control (-0.4 to +1.1 points)`.

    Empty where metrics.json has none.
    """
    sentences = []
    for control, verdict in _mapping(_mapping(metrics.get("proof")).get("verdicts")).items():
        outcome, low, high = (_mapping(verdict).get(part) for part in ("outcome", "low", "high"))
        low, high = _finite(low), _finite(high)
        if isinstance(outcome, str) and low is not None and high is not None:
            to = " to" if outcome == "NO DIFFERENCE" else ""
            sentences.append(f"{outcome}{to} the {control} control ({100 * low:+.1f} to {100 * high:+.1f} points)")
    return ", ".join(sentences)


def _scored(candidate: Mapping[str, Any], scoring: Scoring) -> Check:
    """Holds even where every limit is null: a candidate without a score is never promoted."""
    score = _finite(candidate.get(scoring.key))
    missing = f"the candidate has no finite {scoring.words} in metrics.json"
    words = "the candidate was scored" if score is not None else missing
    return Check("scored", score, None, score is not None, words)


def _beats(control: str, proof: Mapping[str, Any]) -> Check:
    """Whether the proof's verdict against a control is BEATS; the value is the lower end of its interval."""
    name, verdict = "must_beat", _mapping(_mapping(proof.get("verdicts")).get(control))
    difference, low, high = (_finite(verdict.get(part)) for part in ("difference", "low", "high"))
    if difference is None or low is None or high is None:
        return failed(name, f"the verdict against the {control} control is missing, which fails gate.{name}")
    said = f"gain over the {control} control {_number(difference)} ({_number(low)} to {_number(high)})"
    if verdict.get("outcome") == "BEATS" and low > 0:
        return Check(name, low, 0.0, True, f"{said} is above 0")
    return Check(name, low, 0.0, False, f"{said} is not above 0 beyond noise (gate.{name})")


def _against(candidate: Mapping[str, Any], champion: Mapping[str, Any], bound: float, scoring: Scoring) -> Check:
    name = "max_loss_to_champion"
    if champion.get("problem") is not None:
        return failed(name, f"the champion cannot be compared: {champion['problem']}")
    ours, theirs = _finite(candidate.get(scoring.key)), _finite(champion.get(scoring.key))
    if ours is None or theirs is None:
        who = "candidate" if ours is None else "champion"
        lost = f"the {who}'s {scoring.words} is missing or not finite, so the loss to the champion is unknown"
        return failed(name, lost)
    return _check(
        name, _Limit(f"{scoring.words} lost to the champion", "maximum", lambda *_: None), theirs - ours, bound
    )


def _check(name: str, limit: _Limit, raw: Any, bound: float) -> Check:
    value = _finite(raw)
    if value is None:
        state = "missing" if raw is None else f"{raw!r}"[:40]
        return Check(name, None, bound, False, f"{limit.words} is {state}, which fails gate.{name}")
    beyond = bound - value if limit.kind == "minimum" else value - bound
    said = f"{limit.words} {_number(value)}{limit.unit}"
    if beyond <= ROUNDING:
        return Check(name, value, bound, True, f"{said} meets its {limit.kind} of {_number(bound)}{limit.unit}")
    distance = f"{_number(beyond)}{limit.unit} {'below' if limit.kind == 'minimum' else 'above'}"
    sentence = f"{said} is {distance} its {limit.kind} of {_number(bound)}{limit.unit} (gate.{name})"
    return Check(name, value, bound, False, sentence)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any) -> float | None:
    """A finite number as float; None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(value: float) -> str:
    """Four decimals, or two significant digits where those would read as zero."""
    return f"{value:.2g}" if 0 < abs(value) < 5e-5 else f"{value:.4f}".rstrip("0").rstrip(".")
