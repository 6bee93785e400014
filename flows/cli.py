"""The command line. Imports nothing heavy: each command loads what it needs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from potstill import __version__, environment
from potstill.errors import INTERRUPTED, PotstillError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil a fine-tuned encoder into a small, fast student that is proven, registered, packaged and served.",
)
# Options of several commands.
ParamsFile = Annotated[
    Path | None, typer.Option("--params", help="A file whose top-level sections replace those of params.yaml.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value: distill.temperature=4, search.trials=40."),
]
Json = Annotated[bool, typer.Option("--json", help="Print plain JSON.")]
ExpectChampion = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="The champion's number as the decision assumes it, or none; another champion is refused."
    ),
]
WatchFolder = Annotated[
    str | None,
    typer.Option("--folder", help="Where services write, a path or a URL; watch.folder of params.yaml by default."),
]


def main() -> None:
    """Run `potstill`. Every user error is one sentence with an exit code of its own, never a traceback."""
    environment.prepare()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except SystemExit as request:
        if request.code == INTERRUPTED:
            print("potstill: interrupted; run again to go on where it stopped", file=sys.stderr)
        raise
    except PotstillError as error:
        from flows.engine.flow_errors import StageError

        # A stage has printed its sentence itself.
        _end("" if isinstance(error, StageError) else str(error), error.exit_code)
    except Exception as error:
        from potstill.causes import unexpected
        from potstill.paths import LOGS

        _end(*unexpected(error, LOGS / "potstill.txt"))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    if message:
        print(f"potstill: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _show_version(value: bool) -> None:
    if value:
        print(f"potstill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    from potstill.config.server_urls import use_servers

    use_servers(Path.cwd())


@app.command()
def run(params: ParamsFile = None, settings: Settings = None) -> None:
    """Run what is not current, from the data to the promoted, packaged champion."""
    from flows.commands.run_workspace import execute

    execute(Path.cwd(), params, settings or [])


@app.command()
def join() -> None:
    """Have this machine take part in the stages that runs share among nodes (compute.nodes), until Ctrl-C."""
    from flows.commands.join_runs import join

    join(Path.cwd())


@app.command()
def search(
    cheapest: Annotated[
        bool, typer.Option("--cheapest", help="Name the cheapest student that passes the gates; exit code 7 if none.")
    ] = False,
    params: ParamsFile = None,
    settings: Settings = None,
) -> None:
    """Try students of many kinds on the teacher's signals, and show what accuracy costs."""
    from flows.commands.search_students import execute

    execute(Path.cwd(), params, settings or [], cheapest=cheapest)


@app.command()
def status(json_: Json = False) -> None:
    """Show which stages are current, and the versions in the registry."""
    from flows.commands.show_status import show

    show(Path.cwd(), as_json=json_)


@app.command("params")
def params_(
    key: Annotated[
        str | None, typer.Argument(help="A section or a key, as distill.temperature; all by default.")
    ] = None,
) -> None:
    """Explain a section or a key of params.yaml: what it sets, its default and limits, and who receives it."""
    from flows.commands.explain_params import show

    show(Path.cwd(), key)


@app.command()
def probe(
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="A choice to try, as [0, 2, 4]; repeatable. The usual ones by default."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Training rows for each choice.")] = 8000,
) -> None:
    """Try choices of a student's layers in short runs on the cached signals; change nothing."""
    from flows.commands.probe_layers import show

    show(Path.cwd(), layers or [], rows)


@app.command()
def serve(
    tag: Annotated[str | None, typer.Option(help="A Bento's tag; the champion's if it is not given.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; serve.host of params.yaml by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to bind; serve.port of params.yaml by default.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Switch to each new champion, without losing a request.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at the registry with --follow.")] = 10.0,
) -> None:
    """Serve the champion's Bento."""
    if follow:
        if tag is not None:
            raise typer.BadParameter("a fixed tag cannot be followed; leave out --tag or --follow")
        from flows.commands.follow_champion import follow as serve_following

        serve_following(Path.cwd(), host, port, every)
        return
    from flows.commands.serve_champion import serve

    serve(Path.cwd(), tag, host, port)


@app.command()
def export(
    target: Annotated[Literal["web", "openvino"], typer.Option(help="The runtime: transformers.js or OpenVINO.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write; exports/TARGET by default.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Number, alias or Bento tag; the workspace's candidate by default.")
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Round no weight: a larger file, the same answers.")] = False,
) -> None:
    """Write the student for browsers and phones or for OpenVINO, if it answers there as it does in fp32."""
    from flows.commands.export_target import export

    export(Path.cwd(), target, out, version, exact=fp32)


@app.command()
def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...", help="CSV, TSV, JSONL or Parquet, also .gz or .zst: files, folders, patterns, URLs."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="The file to write: .parquet, .jsonl or .csv.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Instead of files, a stream: redis://host:port/db/stream."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="The stream that the answers to --from are written to.")
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            "--watch", metavar="FOLDER", help="Instead of files, a folder: files as they arrive; --out is a folder too."
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column with the text, or `first,second` of a pair; prepare.text by default."
        ),
    ] = None,
    version: Annotated[
        str, typer.Option(metavar="N|champion", help="Number, alias or Bento tag of a registered version.")
    ] = "champion",
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Columns to pass on, as `first,second`; all by default.")
    ] = None,
    explain: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also say which words the N least certain answers rest on.")
    ] = 0,
    alarm: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Also explain the N answers where this label is most probable.")
    ] = None,
) -> None:
    """Answer every row of files of any size, or what arrives in a stream or a folder; run again, it goes on."""
    names = [None if value is None else [name for name in value.split(",") if name] for value in (text, columns)]
    if (explain or alarm) and not inputs:
        raise typer.BadParameter("--explain and --alarm are for files: give INPUT... and --out")
    if inputs and out and not (source or target or watch):
        from flows.commands.predict_files import predict

        predict(Path.cwd(), inputs, out, names[0], version, names[1], explain, alarm)
    elif source and target and not (inputs or out or watch):
        from flows.commands.predict_arrivals import predict_stream

        predict_stream(Path.cwd(), source, target, names[0], version, names[1])
    elif watch and out and not (inputs or source or target):
        from flows.commands.predict_arrivals import predict_folder

        predict_folder(Path.cwd(), watch, out, names[0], version, names[1])
    else:
        raise typer.BadParameter("give INPUT... and --out, --from and --to, or --watch and --out")


@app.command()
def drift(
    folder: WatchFolder = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Where it drifts, run the pipeline.")] = False,
) -> None:
    """Judge whether what the champion's service reads is still like the test texts; exit code 54 if not."""
    from flows.commands.judge_answers import drift

    drift(Path.cwd(), folder, retrain=retrain)


@app.command()
def feedback(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSONL or Parquet: label, and request_id, text or text_sha256.")
    ],
    folder: WatchFolder = None,
) -> None:
    """Measure how right the champion's service was, by labels that arrived later."""
    from flows.commands.judge_answers import feedback

    feedback(Path.cwd(), file, folder)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; it is in the access log.")],
    file: Annotated[
        Path | None, typer.Option(help="A file of keys to add it to (POTSTILL_API_KEYS_FILE of the service).")
    ] = None,
) -> None:
    """Make an API key of the service, and show it this once."""
    from potstill.serving.keys import VARIABLE, add_to_file, key_entry, new_key

    api_key = new_key()
    stored = key_entry(name, api_key)
    if file is not None:
        add_to_file(file, stored)
    print(api_key)
    where = f"its sum is in {file}" if file is not None else f"{VARIABLE}={stored}"
    print(f"keep it: only its sha256 is stored; {where}", file=sys.stderr)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The new workspace; it must be empty or not exist.")],
    data: Annotated[Path, typer.Option(help="A file (CSV, TSV, JSON, JSONL, Parquet, CoNLL), or a folder of them.")],
    text: Annotated[
        str | None, typer.Option(help="Column with the text; two columns of a pair as `first,second`.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with the label; several columns of 0 and 1 as `first,second,third`.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Folder of the teacher, a hub id with its commit (id@commit), or scratch: train one."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="single_label, multi_label, regression, entities, answers or pairs.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Column that names each row's split; draw: put given splits together, draw anew.")
    ] = None,
    sep: Annotated[str | None, typer.Option(help="Character between the cells of a CSV file; \\t is a tab.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="All labels, as `first,second`: names of integer tags in order, or the set.")
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="What happens to rows without a label: transfer or leave_out.")
    ] = None,
) -> None:
    """Make a workspace for data of your own: what you leave out is read from the data, and shown."""
    from flows.commands.create_workspace import create
    from potstill.data.proposals.proposal import DataOptions

    separator = None if sep is None else sep.replace("\\t", "\t")
    names = [tuple(value.split(",")) if value else () for value in (text, label, labels)]
    create(folder, data, DataOptions(names[0], names[1], task, split, separator, names[2], unlabelled), teacher)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Folder of a model, or a hub id with its commit: id@commit.")],
) -> None:
    """Show what a model is, and whether it can be a teacher."""
    from flows.commands.inspect_model import show

    show(model)


@app.command()
def doctor() -> None:
    """Check this machine and workspace; say what to do where something is missing."""
    from flows.commands.check_machine import examine

    raise typer.Exit(0 if examine(Path.cwd()) else 60)


@app.command()
def relocate() -> None:
    """After the workspace was moved: correct MLflow's names of its artifacts, as the next run would."""
    from flows.commands.keep_registry import relocate

    print(relocate(Path.cwd()))


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="The tar file to write; it must not exist.")]) -> None:
    """Write the workspace's registry to one verified file: versions, ledger, artifacts, params, dvc.lock."""
    from flows.commands.keep_registry import back_up

    print(back_up(Path.cwd(), file))


@app.command()
def restore(file: Annotated[Path, typer.Argument(help="A file that `potstill backup` wrote.")]) -> None:
    """Verify a backup and restore it into a workspace without a registry."""
    from flows.commands.keep_registry import restore

    print(restore(Path.cwd(), file))


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions are kept.")] = 5,
    days: Annotated[float, typer.Option(min=0, help="Days for which the ledger protects what a line names.")] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, only show it.")] = False,
) -> None:
    """Show what old versions hold in MLflow, BentoML, DVC's cache and here, and what removing it frees."""
    from flows.commands.collect_garbage import collect

    collect(Path.cwd(), keep, days, remove=yes)


@app.command()
def schedule() -> None:
    """Run on the schedule of params.yaml for as long as this command runs."""
    from flows.commands.schedule_runs import serve_schedule

    serve_schedule(Path.cwd())


@app.command()
def up(
    status: Annotated[bool, typer.Option("--status", help="Only show them; exit code 60 if one is not ready.")] = False,
) -> None:
    """Start what a machine needs: the schedule with Prefect's server, MLflow's pages, the champion's service."""
    from flows.commands import local_servers

    if not status:
        local_servers.up(Path.cwd())
    elif not local_servers.status(Path.cwd()):
        raise typer.Exit(60)


@app.command()
def down() -> None:
    """End what `potstill up` has started, and nothing else."""
    from flows.commands import local_servers

    local_servers.down(Path.cwd())


@app.command()
def notify() -> None:
    """Send a test message to every receiver of params.yaml."""
    from flows.commands.notify_receivers import send_test

    send_test(Path.cwd())


@app.command()
def review(
    version: Annotated[
        str | None, typer.Argument(help="Number, alias or Bento tag; by default the challenger, else the champion.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    json_: Json = False,
) -> None:
    """Show what decides about a version: verdict, differences to the champion with intervals, and what got worse."""
    from flows.commands.review_version import show

    show(Path.cwd(), version, as_json=json_, open_report=open_)


@app.command()
def trace(
    what: Annotated[
        str,
        typer.Argument(help="A version, a Bento's tag, a request id, or an answer's X-Lineage-Sum or X-Model-Version."),
    ],
    folder: WatchFolder = None,
    json_: Json = False,
) -> None:
    """Verify every hop from an answer to the commit: Bento, version, run, params, signals, teacher, data."""
    from flows.commands.trace_answer import show

    show(Path.cwd(), what, folder, as_json=json_)


@app.command()
def score(json_: Json = False) -> None:
    """Show the ML Test Score of the pipeline: 28 practices, the points for each, and what proves them."""
    from flows.commands.score_pipeline import show

    show(as_json=json_)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Number, alias or Bento tag of a registered version.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    expect_champion: ExpectChampion = None,
    json_: Json = False,
) -> None:
    """Make a version that passed its gates the champion, by a person's decision."""
    from flows.commands.decide_versions import approve

    approve(Path.cwd(), version, reason, expect_champion, as_json=json_)


@app.command()
def approve(
    version: Annotated[str, typer.Argument(help="Number, alias or Bento tag of a registered version.")],
    reason: Annotated[str | None, typer.Option(help="Why; kept in the ledger.")] = None,
    expect_champion: ExpectChampion = None,
    json_: Json = False,
) -> None:
    """Make a version that passed its gates the champion, as `promote` does; the reason may be left out."""
    from flows.commands.decide_versions import approve

    approve(Path.cwd(), version, reason, expect_champion, as_json=json_)


@app.command()
def veto(
    version: Annotated[str, typer.Argument(help="Number of a registered version.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the version.")],
    json_: Json = False,
) -> None:
    """Refuse a version for good; if it is the champion, an older one takes its place."""
    from flows.commands.decide_versions import veto

    veto(Path.cwd(), version, reason, as_json=json_)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    version: Annotated[
        str | None, typer.Argument(help="Number, alias or Bento tag; the champion before by default.")
    ] = None,
    json_: Json = False,
) -> None:
    """Return to an older version; what came after it stays back until somebody approves it."""
    from flows.commands.decide_versions import roll_back

    roll_back(Path.cwd(), version, reason, as_json=json_)


@app.command()
def freeze(reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")]) -> None:
    """Let no version become champion by itself, until `potstill unfreeze`."""
    from flows.commands.decide_versions import freeze

    print(freeze(Path.cwd(), reason))


@app.command()
def unfreeze(reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "") -> None:
    """Let candidates that pass become champion by themselves again."""
    from flows.commands.decide_versions import unfreeze

    print(unfreeze(Path.cwd(), reason))


@app.command()
def history(
    lines: Annotated[int, typer.Option(min=1, help="How many of the newest lines.")] = 20, json_: Json = False
) -> None:
    """Verify the registry's ledger and show it: what was registered, promoted and decided, when, by whom and why."""
    from flows.commands.decide_versions import history

    history(Path.cwd(), lines, as_json=json_)


@app.command()
def fetch(
    version: Annotated[str, typer.Argument(help="Number, alias or Bento tag of a registered version.")] = "champion",
) -> None:
    """Bring a version's Bento here from the registry; register and promote nothing."""
    from flows.commands.decide_versions import fetch

    print(fetch(Path.cwd(), version))


@app.command()
def accept() -> None:
    """Take the present data's profile as the one that later data is compared with."""
    from flows.commands.show_status import accept_data

    print(accept_data(Path.cwd()))


if __name__ == "__main__":
    main()
