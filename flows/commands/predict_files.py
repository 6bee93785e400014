"""`potstill predict`: answers for every row of files, from the champion or another version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.serve_champion import require_signature
from flows.engine.champions import no_champion, open_registry
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ParamsError, RegistryError
from potstill.paths import PARAMS
from potstill.progress import say

if TYPE_CHECKING:
    from potstill.prediction.explained_rows import ExplanationPlan
    from potstill.prediction.file_prediction import ChosenModel, Predicted
    from potstill.prediction.window_tally import Facts

# Labels that the summary lists.
_MAX_LABELS = 20


def predict(
    workspace: Path,
    inputs: Sequence[str],
    output: str,
    text: Sequence[str] | None,
    version: str,
    columns: Sequence[str] | None,
    explain: int = 0,
    alarm: str | None = None,
) -> None:
    """Answer every row of files, and print what came out.

    Args:
        workspace: the current folder.
        inputs: paths, folders, patterns and URLs.
        output: the file to write, or its URL.
        text: the column of the text, or the two of a pair; `prepare.text` when None.
        version: number or alias of a registered version.
        columns: the columns of the input to pass on; all when None.
        explain: number of the least certain, and of the most alarming, answers to explain.
        alarm: the label whose probability alarms; `predict.alarm` when None.

    Raises:
        RegistryError: there is no such version.
        PotstillError: see `potstill.prediction.file_prediction.predict_files`.
    """
    from potstill.prediction.file_prediction import predict_files

    params = load_params(workspace / PARAMS)
    model = chosen_model(workspace, params, version)
    texts = text_columns(params, model, text)
    chosen = None if columns is None else tuple(columns)
    plan = _explanation_plan(params, model, explain, alarm)
    target = output if "://" in output else Path(output)
    predicted = predict_files(inputs, target, model, texts, chosen, params.predict, plan)
    _show(output, model, predicted, params)
    if plan is not None:
        say(f"explained answers are in {output}.explained.jsonl")


def chosen_model(workspace: Path, params: Params, version: str) -> ChosenModel:
    """Bring a version's Bento here if it is not here yet, verify it, and return its model.

    Raises:
        RegistryError: there is no such version, or its Bento is not with the registry.
        ChecksumError: a file is not what was registered.
        SignatureError: params require a signature, and that of the Bento is missing or does not verify.
    """
    from potstill.prediction.file_prediction import ChosenModel
    from potstill.serving.launch import bento_path
    from potstill.serving.release import load_release

    registry = open_registry(workspace, params, read_only=True)
    registered = registry.champion() if version == "champion" else registry.get(version)
    if registered is None:
        raise no_champion(params)
    bento = bento_path(registry.bento_of(registered))
    if not bento.exists():
        from tasks.package import fetch

        fetch(params, workspace, registered.version)
    require_signature(bento, params, workspace)
    release = load_release(bento / "src")
    if release.candidate != registered.candidate:
        raise RegistryError(
            f"the Bento of version {registered.version} ({bento}) holds another model than the registry; delete it "
            "(bentoml delete) and run again to fetch it"
        )
    if release.profile is None:
        raise RegistryError(f"version {registered.version} has no profile in its Bento; `potstill run` packages it")
    return ChosenModel(
        serving=release.folder,
        card=release.card,
        profile=release.profile,
        candidate=release.candidate,
        number=registered.version,
        name=release.model_version,
        abstain_below=release.settings.abstain_below,
        explained_words=release.settings.serve.explained_words,
    )


def text_columns(params: Params, model: ChosenModel, text: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns of the text, as many as the model reads.

    Raises:
        ParamsError: there are more or less.
    """
    names = text if text is not None else params.prepare.text
    columns = (names,) if isinstance(names, str) else tuple(names)
    expected = 2 if model.card.pair else 1
    if len(columns) != expected:
        advice = "--text first,second" if model.card.pair else "--text COLUMN"
        raise ParamsError(
            f"the model reads {expected} text{'s' if model.card.pair else ''} a row, but {len(columns)} columns are "
            f"named ({', '.join(columns)}); give {advice}"
        )
    return columns


def _explanation_plan(params: Params, model: ChosenModel, count: int, alarm: str | None) -> ExplanationPlan | None:
    """Return what is explained; None: nothing."""
    from potstill.prediction.explained_rows import plan_explanations

    if not count:
        if alarm is not None:
            raise ParamsError("--alarm names whose answers are explained; say how many with --explain N")
        return None
    label = params.predict.alarm if alarm is None else alarm
    return plan_explanations(model.card, count, None if label is None else str(label), model.explained_words)


def _show(output: str, model: ChosenModel, predicted: Predicted, params: Params) -> None:
    if predicted.rows:
        rate = predicted.rows / max(predicted.seconds, 1e-9)
        say(f"computed  {predicted.rows:,} rows in {predicted.seconds:,.1f} s, {rate:,.0f} rows/s")
    else:
        say(f"{output} is complete; nothing was computed")
    show_answers(model, predicted.summary, f"rows, listed in {output}.rejected.jsonl", params)


def show_answers(model: ChosenModel, summary: Facts, rejected: str, params: Params) -> None:
    """Print what came out.

    Args:
        model: the model.
        summary: from `WindowTally.to_json`.
        rejected: says where the rows are that were put aside.
        params: all params.
    """
    from potstill.evaluation.drift import judge_counts
    from potstill.inference.profile import Counts
    from potstill.prediction.window_tally import label_counts

    counts = Counts(model.profile)
    counts.merge(summary["counts"])
    say(f"version   {model.number} ({model.name})")
    say(f"rows      {summary['rows']:,} with an answer")
    if summary["rejected"]:
        say(f"rejected  {summary['rejected']:,} {rejected}")
    if counts.truncated:
        say(f"truncated {counts.truncated:,} texts of more than {model.card.max_length} tokens")
    if model.abstain_below is not None:
        say(f"abstained {summary['abstained']:,} answers of a confidence below {model.abstain_below:.3f}")
    labels = sorted(label_counts(counts, model.card, model.profile).items(), key=lambda pair: -pair[1])
    if labels:
        say(f"labels    {', '.join(f'{name} {count:,}' for name, count in labels[:_MAX_LABELS])}")
    say(f"drift     {judge_counts(counts, model.profile, params.watch).sentence}")
