"""`potstill probe`: short runs from several choices of layers, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.compute.processes import hold
from potstill.config.params_file import load_params
from potstill.config.yaml_file import load_yaml
from potstill.errors import ParamsError
from potstill.progress import say
from potstill.scores.scoring import SCORINGS
from potstill.studies.layer_probe import ranked

if TYPE_CHECKING:
    from potstill.studies.layer_probe import Probed


def show(workspace: Path, given: Sequence[str], rows: int) -> None:
    """Probe and print; nothing in the workspace changes.

    Args:
        workspace: the current folder.
        given: candidates as YAML lists; none: the usual ones.
        rows: training rows for each.

    Raises:
        ParamsError: a candidate is not a list of layers.
    """
    from tasks.probe import probe
    from tasks.stage import RUN_LOCK

    params = load_params(workspace / "params.yaml")
    candidates = [_layers(text) for text in given]
    with hold(workspace / RUN_LOCK, what="a run"):
        found = ranked(probe(params, candidates, rows, lambda one: say(f"probe: {_line(one)}")))
    width = max(len(_named(one.layers)) for one in found)
    scoring, numbers = SCORINGS[params.prepare.task], params.prepare.task == "regression"
    alike, apart = ("correlation", "RMSE") if numbers else ("agreement", "KL")
    print(f"\n{'layers':<{width}}  {alike:>11}  {apart:>6}  {scoring.words:>9}  seconds")
    for one in found:
        print(
            f"{_named(one.layers):<{width}}  {one.agreement:>11.1%}  {one.distance:>6.4f}  {one.score:>9.1%}  "
            f"{one.seconds:>7.0f}"
        )
    print(f"\nbest: potstill run --set 'distill.layers={_named(found[0].layers)}'")


def _layers(text: str) -> list[int]:
    value = load_yaml(text)
    if not isinstance(value, list) or not value or not all(type(layer) is int and layer >= 0 for layer in value):
        raise ParamsError(f"--layers {text}: give a list of layers counted from 0, as [0, 2, 4]")
    return value


def _named(layers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, layers))}]"


def _line(one: Probed) -> str:
    return f"{_named(one.layers)} agrees with the teacher by {one.agreement:.1%} on dev"
