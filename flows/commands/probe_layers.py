"""`potstill probe`: trains short runs from several choices of layers, and prints a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yaml import YAMLError

from potstill.compute.processes import hold
from potstill.config.params_file import load_params
from potstill.config.yaml_file import load_yaml
from potstill.errors import ParamsError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.paths import PARAMS, RUN_LOCK
from potstill.progress import say
from potstill.studies.layer_probe import ranked

if TYPE_CHECKING:
    from potstill.studies.layer_probe import Probed


def show(workspace: Path, layer_lists: Sequence[str], rows: int) -> None:
    """Probe the layers and print the results; nothing in the workspace changes.

    Args:
        workspace: the current folder.
        layer_lists: candidates as YAML lists; the usual ones where it is empty.
        rows: training rows for each candidate.

    Raises:
        ParamsError: a candidate is not a list of layers.
    """
    from tasks.probe import probe

    params = load_params(workspace / PARAMS)
    candidates = [_parse_layers(text) for text in layer_lists]
    with hold(workspace / RUN_LOCK, what="a run"):
        results = ranked(probe(params, candidates, rows, lambda probed: say(f"probe: {_progress_line(probed)}")))
    width = max(len(_layers_text(probed.layers)) for probed in results)
    kind = KINDS[params.prepare.task]
    score_title = kind.scoring.words
    agreement_title, distance_title = ("correlation", "RMSE") if kind.form == "number" else ("agreement", "KL")
    print(f"\n{'layers':<{width}}  {agreement_title:>11}  {distance_title:>6}  {score_title:>9}  seconds")
    for probed in results:
        print(
            f"{_layers_text(probed.layers):<{width}}  {probed.agreement:>11.1%}  {probed.distance:>6.4f}  "
            f"{probed.score:>9.1%}  {probed.seconds:>7.0f}"
        )
    print(f"\nbest: potstill run --set 'distill.layers={_layers_text(results[0].layers)}'")


def _parse_layers(text: str) -> list[int]:
    try:
        value = load_yaml(text)
    except YAMLError:
        value = None
    if not isinstance(value, list) or not value or not all(type(layer) is int and layer >= 0 for layer in value):
        raise ParamsError(f"--layers {text}: give a list of layers counted from 0, as [0, 2, 4]")
    return value


def _layers_text(layers: Sequence[int]) -> str:
    return f"[{', '.join(map(str, layers))}]"


def _progress_line(probed: Probed) -> str:
    return f"{_layers_text(probed.layers)} agrees with the teacher by {probed.agreement:.1%} on dev"
