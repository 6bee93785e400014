"""The choice between the two exported variants."""

from __future__ import annotations

from potstill.config.evaluation_params import Export
from potstill.onnx_export.logit_parity import Parity
from potstill.scores.scoring import Scoring


def choose_variant(int8: Parity, limits: Export, scoring: Scoring) -> tuple[str, str]:
    """Choose the variant that ships, and say why: fp32 only where INT8 breaks a limit beyond noise.

    Dev has few rows on which INT8 and fp32 differ, so a point estimate would let chance decide.
    """
    drop = int8.drop
    level = f"{100 * limits.confidence:g}% interval"
    loss = (
        f"{100 * drop.difference:.2f} points of dev {scoring.words} ({level} {100 * drop.low:.2f} to "
        f"{100 * drop.high:.2f})"
    )
    if drop.low > limits.int8_max_accuracy_drop:
        return "fp32", (
            f"INT8 loses {loss}, beyond noise more than the limit of "
            f"{100 * limits.int8_max_accuracy_drop:.2f} (export.int8_max_accuracy_drop)"
        )
    likeness = "correlates with the student at" if scoring.key == "r2" else "agrees with the student on"
    agreement = f"{100 * int8.agreement:.2f}%"
    if int8.agreement_high < limits.int8_min_agreement:
        return "fp32", (
            f"INT8 {likeness} {agreement} of dev ({level} up to {100 * int8.agreement_high:.2f}%), beyond noise less "
            f"than the limit of {100 * limits.int8_min_agreement:.2f}% (export.int8_min_agreement)"
        )
    return "int8", f"it {likeness} {agreement} of dev and loses {loss}"
