"""Gates: whether a candidate may be promoted. Pure and fail-closed: a missing, NaN or infinite number fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from potstill.config.promotion_params import Gate
from potstill.evaluation.evidence_gates import check_champion, evidence_checks
from potstill.evaluation.gate_checks import Check, Limit, check_limit, failed, number
from potstill.evaluation.metrics_reading import finite, mapping, read_difference, signed_interval, with_bounds
from potstill.evaluation.naming import BASELINE, TITLES, candidate_of
from potstill.evaluation.teacher_forms import check_advantage, quantized_in_words
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.scoring import Scoring


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate. A verdict without checks is no pass.

    Attributes:
        checks: in the order in which they were made.
        proof: the comparison with the quantized teacher and the controls in words, from `proof_in_words`. It is no
            check.
        wear: the warning that the test split is worn out, from `wear_in_words`. It is no check.
    """

    checks: tuple[Check, ...]
    proof: str = ""
    wear: str = ""

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
        return "; ".join(filter(None, [f"passed: all {len(self.checks)} gates", self.proof, self.wear]))

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain values, none of them NaN."""
        return {"passed": self.passed, "sentence": self.sentence, "checks": [asdict(check) for check in self.checks]}


def _limits(scoring: Scoring, model: Mapping[str, Any], comparison: Mapping[str, Any], rows: Any) -> dict[str, Limit]:
    """Return key under `gate` -> what it limits, in the order in which they are judged.

    Args:
        scoring: the task's score.
        model: the candidate's numbers.
        comparison: the candidate compared with other models.
        rows: of the test split.
    """
    control = mapping(comparison.get("control"))
    gain = {"low": control.get("low"), "high": control.get("high"), "rows": rows}
    ratio = {"low": comparison.get("teacher_ratio_low"), "high": comparison.get("teacher_ratio_high"), "rows": rows}

    def score(words: str, key: str) -> Limit:
        value, low, high = (model.get(name) for name in with_bounds(key))
        return Limit(words, value, low=low, high=high, rows=rows)

    return {
        "min_score": score(scoring.words, scoring.key),
        "min_accuracy": score("accuracy", "accuracy"),
        "min_macro_f1": score("macro F1", "macro_f1"),
        "min_micro_f1": score("micro F1", "micro_f1"),
        "min_subset_accuracy": score("subset accuracy", "subset_accuracy"),
        "max_mse": score("mean squared error", "mse"),
        "max_mae": score("mean absolute error", "mae"),
        "min_pearson": score("Pearson correlation", "pearson"),
        "min_spearman": score("Spearman correlation", "spearman"),
        "min_teacher_ratio": Limit(f"share of the teacher's {scoring.words}", comparison.get("teacher_ratio"), **ratio),
        "min_teacher_ratio_lower": Limit(
            f"lower bound of the share of the teacher's {scoring.words}", ratio["low"], **ratio
        ),
        "min_gain_over_control": Limit("gain over the pretrained control", comparison.get("gain_over_control"), **gain),
        "min_gain_over_control_upper": Limit(
            "upper bound of the gain over the pretrained control", control.get("high"), **gain
        ),
        "max_ece": Limit("calibration error", model.get("ece"), rows=rows),
        "max_file_mb": Limit("model file", model.get("megabytes"), " MB"),
        "max_p99_ms": Limit("p99 latency", model.get("p99_ms"), " ms"),
        "min_speedup": Limit("speed-up over the teacher's fastest form", comparison.get("speedup"), "x"),
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
            where params judge by intervals its `comparison` with the candidate and `slices`; or a `problem` (a
            sentence) that kept it from being scored, which fails.
        task: decides which score is judged.
    """
    scoring = KINDS[task].scoring
    models = mapping(metrics.get("models"))
    candidate = mapping(models.get(candidate_of(metrics) or ""))
    comparison = mapping(metrics.get("comparison"))
    checks = [_check_score(candidate, scoring)]
    for name, limit in _limits(scoring, candidate, comparison, metrics.get("rows")).items():
        bound = getattr(gate, name)
        if bound is not None:
            checks.append(check_limit(name, limit, bound))
    advantage = check_advantage(metrics, gate, scoring)
    checks += [] if advantage is None else [advantage]
    checks += [_check_control(control, metrics) for control in gate.must_beat]
    checks += evidence_checks(metrics, gate, champion, candidate_of(metrics) or "", scoring)
    if champion is not None and gate.max_loss_to_champion is not None:
        checks.append(check_champion(candidate, champion, gate, scoring))
    return Verdict(tuple(checks), proof_in_words(metrics))


def proof_in_words(metrics: Mapping[str, Any]) -> str:
    """Return the proof's verdicts, such as `NO DIFFERENCE to the pretrained control (-0.4 to +1.1 points)`.

    The comparison with the quantized teacher comes first. Empty where metrics.json has none of them.
    """
    quantized = quantized_in_words(metrics)
    sentences = [quantized] if quantized else []
    for control, verdict in mapping(mapping(metrics.get("proof")).get("verdicts")).items():
        outcome = mapping(verdict).get("outcome")
        low = finite(mapping(verdict).get("low"))
        high = finite(mapping(verdict).get("high"))
        if isinstance(outcome, str) and low is not None and high is not None:
            to = " to" if outcome == "NO DIFFERENCE" else ""
            sentences.append(f"{outcome}{to} the {control} control ({signed_interval(low, high)} points)")
    return ", ".join(sentences)


def wear_in_words(test_uses: int | None, gate: Gate) -> str:
    """Return the warning that a test split has judged so often that the best of its scores flatters; empty if not.

    Args:
        test_uses: evaluations on this test split; None where that is not known.
        gate: from how many on to warn.
    """
    if test_uses is None or gate.warn_test_uses is None or test_uses < gate.warn_test_uses:
        return ""
    return (
        f"the test split has judged {test_uses} times, so the best of these scores flatters (gate.warn_test_uses = "
        f"{gate.warn_test_uses}); draw another one (prepare.split.seed) or label new rows"
    )


def _check_score(candidate: Mapping[str, Any], scoring: Scoring) -> Check:
    """Check that there is a score, even where every limit is null: a candidate without one is never promoted."""
    score = finite(candidate.get(scoring.key))
    if score is None:
        return failed("scored", f"the candidate has no finite {scoring.words} in metrics.json")
    return Check("scored", score, None, True, "the candidate was scored")


def _check_control(control: str, metrics: Mapping[str, Any]) -> Check:
    """Check that the verdict against a control or TF-IDF is BEATS; the value is the lower end of its interval."""
    name = "must_beat"
    words = TITLES[BASELINE] if control == BASELINE else f"the {control} control"
    verdicts = metrics.get("comparison") if control == BASELINE else mapping(metrics.get("proof")).get("verdicts")
    verdict = mapping(mapping(verdicts).get(control))
    numbers = read_difference(verdict)
    if numbers is None:
        return failed(name, f"the verdict against {words} is missing, which fails gate.{name}")
    difference, low, high = numbers
    gain = f"gain over {words} {number(difference)} ({number(low)} to {number(high)})"
    if verdict.get("outcome") == "BEATS" and low > 0:
        return Check(name, low, 0.0, True, f"{gain} is above 0", low, high)
    return Check(name, low, 0.0, False, f"{gain} is not above 0 beyond noise (gate.{name})", low, high)
