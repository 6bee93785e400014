"""How often a threshold of `evaluate.abstention` misses its target: over redrawn calibration rows, against the truth.

`python benchmarks/abstention.py --write` writes the section of RESULTS.md. With `--predictions FILE` it also resamples
the rows of a run's `data/evaluation/predictions.parquet` (a task of classes). The answers of INT8 are then the whole
population, with a temperature of 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from results import publish, today

from potstill.scores.calibration import fit_temperature
from potstill.scores.metrics import Doubles, Flags, log_softmax
from potstill.scores.selective import find_threshold

TARGET = 0.95
DELTA = 0.05
RESAMPLES = 500
# Rows of a resample.
SIZES = (500, 1000, 3000)
POPULATION = 200_000
# Models from which the rows choose one, and the number of these rows.
CHOICES = 40
CHOSEN_SIZE = 1000
# Log-odds of the confidence -> log-odds of being right.
SIMULATED: dict[str, Callable[[Doubles], Doubles]] = {
    "calibrated": lambda odds: odds,
    "overconfident (log-odds halved)": lambda odds: odds / 2,
    "underconfident (log-odds doubled)": lambda odds: 2 * odds,
    "wrong where surest (above 0.99)": lambda odds: np.where(odds > 4.6, 1.5, odds),
    "right on 95.0% at every confidence": lambda odds: np.full_like(odds, np.log(19) - 1e-3),
    "right on 94.5% at every confidence": lambda odds: np.full_like(odds, np.log(0.945 / 0.055)),
}

# The populations in which a model is also measured that the rows have chosen.
CHOSEN = ("calibrated", "overconfident (log-odds halved)", "right on 95.0% at every confidence")


def simulate(right_odds: Callable[[Doubles], Doubles]) -> tuple[Doubles, Flags]:
    """Simulate the confidence and rightness of a population of two classes."""
    random = np.random.default_rng(0)
    odds = random.gamma(1.5, 2.0, size=POPULATION)
    right = random.random(POPULATION) < 1 / (1 + np.exp(-right_odds(odds)))
    return 1 / (1 + np.exp(-odds)), right


def read_predictions(path: Path) -> tuple[Doubles, Flags]:
    """Read the confidence and rightness of the INT8 student on the test rows of a run."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["label", "int8"])
    logits = np.array(rows.column("int8").to_pylist(), dtype=np.float64)
    return np.exp(log_softmax(logits)).max(axis=1), logits.argmax(axis=1) == rows.column("label").to_numpy()


def measure(confidence: Doubles, right: Flags, size: int) -> tuple[float, float, float]:
    """Measure the share of resamples whose threshold misses the target, that without one, and the mean coverage."""
    random = np.random.default_rng(1)
    broken = 0
    coverages = []
    for _ in range(RESAMPLES):
        rows = random.integers(len(right), size=size)
        threshold = find_threshold(confidence[rows], right[rows], target=TARGET, delta=DELTA)
        if threshold is not None:
            answered = confidence >= threshold.confidence
            broken += bool(right[answered].mean() < TARGET)
            coverages.append(float(answered.mean()))
    return broken / RESAMPLES, 1 - len(coverages) / RESAMPLES, float(np.mean(coverages)) if coverages else 0.0


def measure_chosen(confidence: Doubles, right: Flags) -> list[tuple[float, float]]:
    """Measure a model that the rows themselves chose from several, with a temperature that they fitted.

    All models are equally good and their answers independent, so that the choice is one of noise alone.

    Returns:
        Without payment for the choice, and with it: share of resamples whose threshold misses the target, and share
        with a threshold.
    """
    random = np.random.default_rng(2)
    order = np.argsort(confidence)
    odds = np.log(confidence / (1 - confidence))[order]
    right = right[order]
    wrong_from = np.cumsum(~right[::-1])[::-1]
    outcomes: dict[int, list[bool]] = {1: [], CHOICES: []}
    for _ in range(RESAMPLES):
        models = random.integers(len(right), size=(CHOICES, CHOSEN_SIZE))
        rows = models[right[models].sum(axis=1).argmax()]
        logits = np.stack([odds[rows], np.zeros(len(rows))], axis=1)
        temperature = fit_temperature(logits, (~right[rows]).astype(np.int64))
        scaled = 1 / (1 + np.exp(-odds[rows] / temperature))
        for choices, broken in outcomes.items():
            threshold = find_threshold(scaled, right[rows], target=TARGET, delta=DELTA, choices=choices)
            if threshold is not None:
                lowest = temperature * np.log(threshold.confidence / (1 - threshold.confidence))
                first = int(np.searchsorted(odds, lowest))
                broken.append(bool(wrong_from[first] > (1 - TARGET) * (len(odds) - first)))
    return [(sum(broken) / RESAMPLES, len(broken) / RESAMPLES) for broken in outcomes.values()]


def main() -> None:
    """Measure every population, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    populations = {name: simulate(right_odds) for name, right_odds in SIMULATED.items()}
    if options.predictions is not None:
        real = read_predictions(options.predictions)
        populations[f"a run's student INT8 on {len(real[1]):,} test rows"] = real
    lines = [
        f"Target: right on {TARGET:.0%}; delta {DELTA}; {RESAMPLES} resamples each; {today()}.",
        "",
        "| scores | right of all | " + " | ".join(f"{size:,} rows: broken, none, coverage" for size in SIZES) + " |",
        "|---|---|" + "---|" * len(SIZES),
    ]
    for name, (confidence, right) in populations.items():
        cells = ["{:.1%}, {:.1%}, {:.1%}".format(*measure(confidence, right, size)) for size in SIZES]
        lines.append(f"| {name} | {right.mean():.1%} | {' | '.join(cells)} |")
    lines += [
        "",
        f"The best of {CHOICES} equally good models on the same {CHOSEN_SIZE:,} rows, which also fit the temperature:",
        "",
        f"| scores | `choices` 1: broken, none | `choices` {CHOICES}: broken, none |",
        "|---|---|---|",
    ]
    for name in CHOSEN:
        cells = [f"{broken:.1%}, {1 - proven:.1%}" for broken, proven in measure_chosen(*populations[name])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    section = "\n".join(lines)
    publish("<!-- abstention -->", section, write=options.write)


if __name__ == "__main__":
    main()
