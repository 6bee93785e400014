"""Gates: whether a candidate may be promoted. Pure and fail-closed: a missing, NaN or infinite number fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from potstill.config.promotion_params import Gate
from potstill.evaluation.naming import candidate_of
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.scoring import Scoring

# Accuracies are ratios of counts: a difference that equals its limit must not fail by the last bit of a float.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One check of the candidate, mostly against a limit.

    Attributes:
        name: key under `gate` in params.yaml, or the name of a check that has no limit.
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
    """All checks of one candidate. A verdict without checks is no pass.

    Attributes:
        checks: in the order in which they were made.
        proof: the comparison with the controls in words, from `proof_in_words`. It is no check.
    """

    checks: tuple[Check, ...]
    proof: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence: the gates that failed and by how much, or how many passed."""
        failed = [check.sentence for check in self.checks if not check.passed]
        if failed or not self.checks:
            return f"refused: {'; '.join(failed) or 'nothing was checked'}"
        return f"passed: all {len(self.checks)} gates" + (f"; {self.proof}" if self.proof else "")

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain values, none of them NaN."""
        return {"passed": self.passed, "sentence": self.sentence, "checks": [asdict(check) for check in self.checks]}


def failed(name: str, sentence: str) -> Check:
    """Return a check that failed for a reason that is not a number."""
    return Check(name, None, None, False, sentence)


@dataclass(frozen=True)
class _Limit:
    """A number with a limit in params: its name in words, its raw value, and its unit."""

    words: str
    value: Any
    unit: str = ""


def _limits(scoring: Scoring, model: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, _Limit]:
    """Return key under `gate` -> what it limits, in the order in which they are judged.

    Args:
        scoring: the task's score.
        model: the candidate's numbers.
        comparison: the candidate compared with other models.
    """
    upper_gain = _mapping(comparison.get("control")).get("high")
    return {
        "min_score": _Limit(scoring.words, model.get(scoring.key)),
        "min_accuracy": _Limit("accuracy", model.get("accuracy")),
        "min_macro_f1": _Limit("macro F1", model.get("macro_f1")),
        "min_micro_f1": _Limit("micro F1", model.get("micro_f1")),
        "min_subset_accuracy": _Limit("subset accuracy", model.get("subset_accuracy")),
        "max_mse": _Limit("mean squared error", model.get("mse")),
        "max_mae": _Limit("mean absolute error", model.get("mae")),
        "min_pearson": _Limit("Pearson correlation", model.get("pearson")),
        "min_spearman": _Limit("Spearman correlation", model.get("spearman")),
        "min_teacher_ratio": _Limit(f"share of the teacher's {scoring.words}", comparison.get("teacher_ratio")),
        "min_gain_over_control": _Limit("gain over the pretrained control", comparison.get("gain_over_control")),
        "min_gain_over_control_upper": _Limit("upper bound of the gain over the pretrained control", upper_gain),
        "max_ece": _Limit("calibration error", model.get("ece")),
        "max_file_mb": _Limit("model file", model.get("megabytes"), " MB"),
        "max_p99_ms": _Limit("p99 latency", model.get("p99_ms"), " ms"),
        "min_speedup": _Limit("speed-up over the teacher", comparison.get("speedup"), "x"),
    }


def judge(
    metrics: Mapping[str, Any],
    gate: Gate,
    champion: Mapping[str, Any] | None,
    task: TaskKind = "single_label",
) -> Verdict:
    """Judge the candidate.

    Args:
        metrics: the content of reports/metrics.json. It may be anything; what does not fit fails.
        gate: the limits; one that is null in params is not checked.
        champion: None without a champion; else its score on the same test split under the score's name (`accuracy`),
            or a `problem` (a sentence) that kept it from being scored, which fails.
        task: decides which score is judged.
    """
    scoring = KINDS[task].scoring
    models = _mapping(metrics.get("models"))
    candidate = _mapping(models.get(candidate_of(metrics) or ""))
    comparison = _mapping(metrics.get("comparison"))
    checks = [_check_score(candidate, scoring)]
    for name, limit in _limits(scoring, candidate, comparison).items():
        bound = getattr(gate, name)
        if bound is not None:
            checks.append(_check_limit(name, limit, bound))
    checks += [_check_control(control, _mapping(metrics.get("proof"))) for control in gate.must_beat]
    if champion is not None and gate.max_loss_to_champion is not None:
        checks.append(_check_champion(candidate, champion, gate.max_loss_to_champion, scoring))
    return Verdict(tuple(checks), proof_in_words(metrics))


def proof_in_words(metrics: Mapping[str, Any]) -> str:
    """Return the proof's verdicts, such as `NO DIFFERENCE to the pretrained control (-0.4 to +1.1 points)`.

    Empty where metrics.json has none.
    """
    sentences = []
    for control, verdict in _mapping(_mapping(metrics.get("proof")).get("verdicts")).items():
        outcome = _mapping(verdict).get("outcome")
        low = _finite(_mapping(verdict).get("low"))
        high = _finite(_mapping(verdict).get("high"))
        if isinstance(outcome, str) and low is not None and high is not None:
            to = " to" if outcome == "NO DIFFERENCE" else ""
            sentences.append(f"{outcome}{to} the {control} control ({100 * low:+.1f} to {100 * high:+.1f} points)")
    return ", ".join(sentences)


def _check_score(candidate: Mapping[str, Any], scoring: Scoring) -> Check:
    """Check that there is a score, even where every limit is null: a candidate without one is never promoted."""
    score = _finite(candidate.get(scoring.key))
    if score is None:
        return failed("scored", f"the candidate has no finite {scoring.words} in metrics.json")
    return Check("scored", score, None, True, "the candidate was scored")


def _check_control(control: str, proof: Mapping[str, Any]) -> Check:
    """Check that the proof's verdict against a control is BEATS; the value is the lower end of its interval."""
    name = "must_beat"
    verdict = _mapping(_mapping(proof.get("verdicts")).get(control))
    difference, low, high = (_finite(verdict.get(part)) for part in ("difference", "low", "high"))
    if difference is None or low is None or high is None:
        return failed(name, f"the verdict against the {control} control is missing, which fails gate.{name}")
    gain = f"gain over the {control} control {_number(difference)} ({_number(low)} to {_number(high)})"
    if verdict.get("outcome") == "BEATS" and low > 0:
        return Check(name, low, 0.0, True, f"{gain} is above 0")
    return Check(name, low, 0.0, False, f"{gain} is not above 0 beyond noise (gate.{name})")


def _check_champion(candidate: Mapping[str, Any], champion: Mapping[str, Any], bound: float, scoring: Scoring) -> Check:
    name = "max_loss_to_champion"
    if champion.get("problem") is not None:
        return failed(name, f"the champion cannot be compared: {champion['problem']}")
    candidate_score = _finite(candidate.get(scoring.key))
    champion_score = _finite(champion.get(scoring.key))
    if candidate_score is None or champion_score is None:
        model = "candidate" if candidate_score is None else "champion"
        return failed(
            name, f"the {model}'s {scoring.words} is missing or not finite, so the loss to the champion is unknown"
        )
    loss = _Limit(f"{scoring.words} lost to the champion", champion_score - candidate_score)
    return _check_limit(name, loss, bound)


def _check_limit(name: str, limit: _Limit, bound: float) -> Check:
    """Check a number against its limit, which is a minimum or a maximum by the beginning of its name."""
    value = _finite(limit.value)
    if value is None:
        state = "missing" if limit.value is None else f"{limit.value!r}"[:40]
        return Check(name, None, bound, False, f"{limit.words} is {state}, which fails gate.{name}")
    is_minimum = name.startswith("min_")
    kind = "minimum" if is_minimum else "maximum"
    excess = bound - value if is_minimum else value - bound
    number = f"{limit.words} {_number(value)}{limit.unit}"
    if excess <= ROUNDING:
        return Check(name, value, bound, True, f"{number} meets its {kind} of {_number(bound)}{limit.unit}")
    distance = f"{_number(excess)}{limit.unit} {'below' if is_minimum else 'above'}"
    sentence = f"{number} is {distance} its {kind} of {_number(bound)}{limit.unit} (gate.{name})"
    return Check(name, value, bound, False, sentence)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _finite(value: Any) -> float | None:
    """Return a finite number as float; None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(value: float) -> str:
    """Format with four decimals, or with two significant digits where four decimals would read as zero."""
    return f"{value:.2g}" if 0 < abs(value) < 5e-5 else f"{value:.4f}".rstrip("0").rstrip(".")
