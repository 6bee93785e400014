"""Each method of distillation against the default, at a fixed cheap budget: dev accuracy, KL to the teacher, CPU time.

`python benchmarks/methods.py --setting gap [--methods mixup lora] [--seeds 17 18 19]`, in a workspace after `make run`.
Every run is a line of `--results`, and a run that has its line is not repeated, so a measurement that was interrupted
goes on where it was. `--table` trains nothing and prints the table of a setting; `--write` also puts it into
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill import environment

environment.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from methods_table import Budget, Run, section  # noqa: E402
from results import machine, publish, today, versions  # noqa: E402

from potstill.artifacts import whole_folder  # noqa: E402
from potstill.config.distill_params import Distill, General  # noqa: E402
from potstill.config.params_file import load_params, parse_distill  # noqa: E402
from potstill.config.yaml_file import parse_section  # noqa: E402
from potstill.data.tokens.batches import TokenDataset  # noqa: E402
from potstill.data.tokens.token_folder import TokenFolder  # noqa: E402
from potstill.distillation.teachers.mean_answers import Floats  # noqa: E402
from potstill.distillation.teachers.predict import predict_logits  # noqa: E402
from potstill.distillation.teachers.signal_store import StoredSignals  # noqa: E402
from potstill.evaluation.summary import Answers, fidelity  # noqa: E402
from potstill.models.loading import load_classifier, save_model  # noqa: E402
from potstill.progress import say  # noqa: E402
from potstill.training.distillation_job import (  # noqa: E402
    ChooseSetting,
    DistillationData,
    DistillationJob,
    TeacherAnswers,
    TokenRows,
)
from potstill.training.general_distillation import load_base, prepare_general  # noqa: E402
from potstill.training.settings import choose_setting  # noqa: E402
from potstill.training.student_builder import StudentBuilder  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEEDS = (17, 18, 19)
ROWS = 3_000
# A quarter of the default: few rows give enough steps then.
BATCH_TOKENS = 512
RESULTS = Path(".work/methods.jsonl")


@dataclass(frozen=True)
class Depth:
    """How deep the student is, with the other models that methods need at that depth.

    Attributes:
        layers: of the teacher that the student starts from.
        assistant: layers of the assistant between the two.
        peer: layers of the second student of mutual distillation.
    """

    layers: list[int]
    assistant: list[int]
    peer: list[int]


SETTINGS = {
    "default": Depth([0, 2, 4], [0, 2, 4, 5], [1, 3, 5]),
    "gap": Depth([0, 3], [0, 1, 3, 4], [1, 4]),
    "one-layer": Depth([0], [0, 2, 4], [3]),
}


def _term(kind: str, **keys: Any) -> Callable[[Depth], dict[str, Any]]:
    return lambda _: {"terms": [{"kind": kind, **keys}]}


# What each method changes in the section `distill` of params.yaml. `general` adds a training before it.
METHODS: dict[str, Callable[[Depth], dict[str, Any]]] = {
    "default": lambda _: {},
    "mse": _term("mse"),
    "dist": _term("dist"),
    "cosine": _term("cosine"),
    "hidden": _term("hidden"),
    "attention": _term("attention"),
    "attention, kl": _term("attention", loss="kl"),
    "relations": _term("relations"),
    "pkd": _term("pkd"),
    "rkd": _term("rkd"),
    "contrastive": _term("contrastive"),
    "contrastive, weight 0.1": _term("contrastive", weight=0.1),
    "mixup": lambda _: {"mixup": {}},
    "adversarial": lambda _: {"adversarial": {}},
    "adversarial, epsilon 0.1": lambda _: {"adversarial": {"epsilon": 0.1}},
    "assistants": lambda depth: {"assistants": [depth.assistant]},
    "mutual": lambda depth: {"mutual": {"students": [depth.layers, depth.peer]}},
    "lora": lambda _: {"lora": {}, "learning_rate": 1e-3},
    "prune": lambda _: {"prune": {"ffn": 768}},
    "freeze_embeddings": lambda _: {"freeze_embeddings": True},
    "general": lambda _: {},
}
# As params/general.yaml has it, with the section's own terms.
GENERAL = {"epochs": 2, "learning_rate": 2e-4, "average_decay": 0.99, "dropout": 0.0, "checkpoint_seconds": 1e9}


class Workspace:
    """The data and the teacher of `potstill run` in the working directory, opened once for all runs."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root
        self.params = load_params(root / "params.yaml")
        self.tokens = TokenFolder.open(root / "data/tokens")
        self.train = self.tokens.split(*(["train", "transfer"] if self.params.distill.transfer else ["train"]))
        self.dev = self.tokens.split("dev")

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The fine-tuned teacher."""
        return load_classifier(self.root / "data/teacher")

    @cached_property
    def teacher_dev_logits(self) -> Floats:
        """The teacher's logits on dev."""
        return predict_logits(self.teacher, self.dev)

    def data(self, rows: int, seed: int) -> DistillationData:
        """Draw the training rows of a seed."""
        drawn = np.random.default_rng(seed).permutation(len(self.train))[:rows]
        train = self.train.select(np.sort(drawn))
        view = TokenRows(train, self.dev, self.dev.whole_labels)
        return DistillationData(self.tokens.task, view, view)

    def signals(self, rows: TokenDataset) -> StoredSignals:
        """Open the stored signals of some rows."""
        return StoredSignals.open(self.root / "data/signals", rows, self.root / "data/teacher")

    def distill(self, method: str, budget: Budget) -> Distill:
        """The section `distill` of a method, for one epoch without checkpoints."""
        depth = SETTINGS[budget.setting]
        values = {"epochs": 1, "checkpoint_seconds": 1e9, "batch_tokens": budget.batch_tokens, "layers": depth.layers}
        return parse_distill(self.params.distill.model_dump() | values | METHODS[method](depth))


def run_method(workspace: Workspace, budget: Budget, method: str, seed: int) -> Run:
    """Train the student of one method and seed, and score it on dev."""
    data = workspace.data(budget.rows, seed)
    teacher = TeacherAnswers(workspace.teacher, workspace.signals(data.teacher.train), lambda: dev_logits)
    params, dev_logits = workspace.distill(method, budget), workspace.teacher_dev_logits
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        setting = partial(choose_setting, method, seed, "cpu", "fp32", Path(scratch))
        seconds, cpu_seconds = time.perf_counter(), time.process_time()
        general_dir = _general(workspace, data, budget, setting, Path(scratch)) if method == "general" else None
        builder = StudentBuilder(
            params, seed, workspace.tokens.pair, workspace.tokens.load_tokenizer, name=method, general_dir=general_dir
        )
        trained = DistillationJob(data, teacher, builder, setting).prepare().train()
        seconds, cpu_seconds = time.perf_counter() - seconds, time.process_time() - cpu_seconds
    logits = predict_logits(trained.model, workspace.dev)
    alike = fidelity(*(Answers(part, 1.0, 0, 0, data.task) for part in (dev_logits, logits)))
    right = logits.argmax(axis=1) == workspace.dev.labels
    return Run(
        **asdict(budget), method=method, seed=seed, steps=trained.outcome.steps,
        agreement=alike["agreement"], kl=alike["kl"],
        right="".join(map(str, right.astype(int))), seconds=seconds, cpu_seconds=cpu_seconds,
        parameters=trained.model.num_parameters(), date=today(), machine=machine(),
        versions=versions("torch", "transformers"),
    )  # fmt: skip


def _general(
    workspace: Workspace, data: DistillationData, budget: Budget, choose: ChooseSetting, scratch: Path
) -> Path:
    """Have layers of the base learn its states on the same rows, and return the folder of the result."""
    changes = {"layers": SETTINGS[budget.setting].layers, "batch_tokens": budget.batch_tokens}
    params = parse_section("general", General, GENERAL | changes)
    base = load_base(workspace.root / "data/base", params)
    # Its checkpoints are not those of the distillation that follows.
    general_setting = replace(choose(params, base), checkpoints=scratch / "general-checkpoints")
    tokenizer = workspace.tokens.tokenizer_dir
    torch.manual_seed(general_setting.seed)
    work = prepare_general(base, data.teacher.train, params, tokenizer, general_setting)
    work.train(general_setting)
    with whole_folder(scratch / "general") as folder:
        save_model(work.trained(params), folder, tokenizer)
    return scratch / "general"


def measure(budget: Budget, methods: Sequence[str], seeds: Iterable[int], results: Path) -> None:
    """Run all methods with the first seed, then with the next, and add a line to `results` after each run."""
    workspace = Workspace()
    known = {(run.method, run.seed) for run in read_runs(results, budget)}
    missing = [(method, seed) for seed in seeds for method in methods if (method, seed) not in known]
    results.parent.mkdir(parents=True, exist_ok=True)
    for number, (method, seed) in enumerate(missing, start=1):
        run = run_method(workspace, budget, method, seed)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        say(
            f"{number} of {len(missing)}: {budget.setting}, {method}, seed {seed}: dev {run.accuracy:.4f}, "
            f"KL {run.kl:.4f}, {run.cpu_seconds:.0f} s of CPU time, {run.seconds:.0f} s"
        )


def read_runs(results: Path, budget: Budget) -> list[Run]:
    """Read the runs with that budget."""
    if not results.exists():
        return []
    runs = [Run(**json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()]
    return [run for run in runs if run.budget == budget]


def main() -> None:
    """Measure what is missing, then print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--setting", choices=list(SETTINGS), default="default")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows of each run")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS, help="size of their batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines, one a run")
    parser.add_argument("--table", action="store_true", help="train nothing, only print the table")
    parser.add_argument("--write", action="store_true", help="replace the setting's section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    budget = Budget(arguments.setting, arguments.rows, arguments.batch_tokens)
    # The default comes first: the others are compared with it.
    methods = ["default", *(method for method in arguments.methods if method != "default")]
    if not arguments.table:
        measure(budget, methods, arguments.seeds, arguments.results)
    text = section(read_runs(arguments.results, budget), methods, SETTINGS[arguments.setting].layers)
    publish(f"<!-- methods {arguments.setting} -->", text, write=arguments.write)


if __name__ == "__main__":
    main()
