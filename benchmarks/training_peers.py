"""The contenders of benchmarks/training.py, each in a process of its own that waits for its turn.

Each has a process of its own, because one of Potstill's optimisations (`hotpath.keep_freed_memory`) holds for a whole
process and would help the others too. The process reads one JSON request a line and answers with one.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from potstill import environment

environment.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matrices import matrix_rate, model_shapes, step_flops  # noqa: E402

from potstill.artifacts import read_json  # noqa: E402
from potstill.compute.distributed import current_world  # noqa: E402
from potstill.compute.precision import Precision  # noqa: E402
from potstill.config.params import Params  # noqa: E402
from potstill.config.params_file import load_params  # noqa: E402
from potstill.config.training_params import Training  # noqa: E402
from potstill.data.tokens.batches import Ints, TokenDataset, shuffled_batches  # noqa: E402
from potstill.distillation.objective.composition import Blend, Distillation  # noqa: E402
from potstill.distillation.teachers.predict import model_inputs, predict_logits  # noqa: E402
from potstill.distillation.teachers.providers import LiveTeacher  # noqa: E402
from potstill.distillation.teachers.signal_store import StoredSignals, extract  # noqa: E402
from potstill.models.loading import load_classifier  # noqa: E402
from potstill.models.students.student import student_from_layers  # noqa: E402
from potstill.scores.metrics import accuracy  # noqa: E402
from potstill.training.hotpath import keep_freed_memory, training_attention  # noqa: E402
from potstill.training.loop import Setting, _groups, _Run, adapt, train  # noqa: E402

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, Trainer

CPU = torch.device("cpu")
# Steps at the start of a turn that are not counted: they create the optimiser's state and fill caches.
WARM_UP_STEPS = 3
# The fixed length of TextBrewer's examples.
FIXED_LENGTH = 128


@dataclass(frozen=True)
class Variation:
    """The configuration of a contender. The defaults are the pipeline's own step.

    Attributes:
        kind: which program trains.
        precision: number format of the products.
        signals: stored, or from the teacher in the step.
        batches: rows of similar length under the token budget, or the same number of rows at random.
        attention: plain products, or torch's fused kernel ("sdpa").
        optimizer: fused AdamW, or torch's default, a loop over the tensors.
        memory: whether the process keeps the memory that it frees, or returns it by the C library's rules.
        labelled: whether only the labelled rows are learnt, or the rows that params name.
        plan: changes of the training plan.
    """

    kind: Literal["potstill", "trainer", "textbrewer"] = "potstill"
    precision: Precision = "fp32"
    signals: Literal["stored", "live"] = "stored"
    batches: Literal["bucketed", "random"] = "bucketed"
    attention: Literal["plain", "sdpa"] = "plain"
    optimizer: Literal["fused", "default"] = "fused"
    memory: Literal["kept", "returned"] = "kept"
    labelled: bool = False
    plan: dict[str, Any] = field(default_factory=dict)

    def command(self) -> str:
        """Return the argument of a worker process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Reading:
    """The measurement of one turn of a contender.

    Attributes:
        rows: rows of all steps.
        steps: optimiser steps.
        seconds: time of all steps.
        flops: FLOPs of the products on real tokens, forward and backward; 0 where they are not counted.
    """

    rows: int
    steps: int
    seconds: float
    flops: float = 0.0

    @property
    def rate(self) -> float:
        """Rows/s."""
        return self.rows / self.seconds


class Clock:
    """Counts steps after the warm-up, and tells when the time is over."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._warm_up_steps = 0
        self._started = 0.0
        self.reading = Reading(0, 0, 0.0)

    def step(self, rows: int, flops: float = 0.0) -> bool:
        """Count one finished step; returns whether the time is over."""
        now = time.perf_counter()
        if self._warm_up_steps < WARM_UP_STEPS:
            self._warm_up_steps += 1
            self._started = now
            return False
        before = self.reading
        self.reading = Reading(before.rows + rows, before.steps + 1, now - self._started, before.flops + flops)
        return self.reading.seconds >= self._limit


class Contender(Protocol):
    """The contender in a worker process."""

    def turn(self, seconds: float) -> Reading:
        """Train for about that long."""
        ...


class Workspace:
    """The outs of `potstill run` in the working directory, as every contender receives them."""

    def __init__(self, root: Path = Path(), *, labelled: bool = False) -> None:
        self.root = root
        self._labelled = labelled
        self.params: Params = load_params(root / "params.yaml")
        self._pad = read_json(root / "data/tokens/info.json")["pad_token_id"]

    def split(self, name: str) -> TokenDataset:
        """Open the token ids of one split."""
        return TokenDataset.open(self.root / f"data/tokens/{name}.arrow", self._pad)

    @cached_property
    def dataset(self) -> TokenDataset:
        """The rows of the distill stage."""
        names = ["train", "transfer"] if self.params.distill.transfer and not self._labelled else ["train"]
        return TokenDataset.concatenate([self.split(name) for name in names])

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The fine-tuned teacher, in evaluation mode."""
        return load_classifier(self.root / "data/teacher")

    @cached_property
    def stored(self) -> StoredSignals:
        """The signals of all rows."""
        return StoredSignals.open(self.root / "data/signals", self.dataset, self.root / "data/teacher")

    def student(self) -> PreTrainedModel:
        """Make the default student before its first step."""
        return student_from_layers(self.teacher, self.params.distill.layers)

    def plan(self, **changes: Any) -> Training:
        """Return the distill stage's training plan with changes."""
        values = {name: getattr(self.params.distill, name) for name in Training.model_fields}
        return Training(**(values | changes))

    def rows_per_step(self) -> int:
        """Return the median number of rows in Potstill's steps, which is the batch size of the peers."""
        batches = shuffled_batches(
            self.dataset.lengths, self.plan().batch_tokens, seed=self.params.project.seed, epoch=0
        )
        return int(statistics.median(map(len, batches)))

    def tokens_per_step(self) -> int:
        """Return the real tokens of a median step of Potstill."""
        return round(self.rows_per_step() * float(self.dataset.lengths.mean()))

    def dev_accuracy(self, precision: Precision) -> Callable[[PreTrainedModel], float]:
        """Return a function that scores a model on the dev split."""
        dev = self.split("dev")

        def score(model: PreTrainedModel) -> float:
            return accuracy(dev.labels, predict_logits(model, dev, precision=precision).argmax(axis=1))

        return score


class Potstill:
    """The training step of potstill.training.loop, with or without each of its optimisations."""

    def __init__(self, workspace: Workspace, variation: Variation, stack: ExitStack) -> None:
        self._workspace = workspace
        self._variation = variation
        torch.manual_seed(workspace.params.project.seed)
        if variation.memory == "kept":
            keep_freed_memory()
        student = workspace.student()
        if variation.attention == "plain":
            stack.enter_context(training_attention(student, CPU))
        plan = workspace.plan(**variation.plan)
        adapt(student, plan, "benchmark")
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        setting = Setting("benchmark", plan, workspace.params.project.seed, CPU, variation.precision, scratch)
        score = workspace.dev_accuracy("fp32")
        self._run = _Run(student, workspace.dataset, self._objective(), score, setting, current_world(), packing=False)
        if variation.optimizer == "default":
            self._run.optimizer = torch.optim.AdamW(
                _groups(student.parameters(), plan.weight_decay), lr=plan.learning_rate
            )
        self._batches = self._endless_batches()

    def turn(self, seconds: float) -> Reading:
        """Take steps as `train` does, without the evaluations and checkpoints between them."""
        clock = Clock(seconds)
        run = self._run
        run.model.train()
        while True:
            micro_batches = next(self._batches)
            if run.step >= run.steps:
                run.step = 0  # the schedule starts again
            run._step(micro_batches)
            rows = np.concatenate(micro_batches)
            if clock.step(len(rows), step_flops(run.model.config, self._workspace.dataset.lengths[rows])):
                return clock.reading

    def rates(self) -> dict[str, float]:
        """Measure FLOP/s of the model's products in each number format."""
        shapes = model_shapes(self._workspace.tokens_per_step(), self._run.model.config)
        return {
            "fp32": matrix_rate(shapes, torch.float32, CPU),
            "bf16": matrix_rate(shapes, torch.bfloat16, CPU),
        }

    def reach(self, target: float, changes: dict[str, Any]) -> dict[str, Any]:
        """Time a run until dev reaches the target, by the default plan with changes, and the extraction of signals."""
        workspace = self._workspace
        precision = self._variation.precision
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            live = LiveTeacher(workspace.teacher, CPU, precision)
            extract(live, workspace.dataset, workspace.params.signals, identity={}, work=Path(scratch))
        signals = time.perf_counter() - started
        plan = workspace.plan(**changes)
        score = workspace.dev_accuracy(precision)
        scores: list[float] = []

        def stop_at_target(model: PreTrainedModel) -> float:
            scores.append(score(model))
            if scores[-1] >= target:
                raise _ReachedError
            return scores[-1]

        with tempfile.TemporaryDirectory() as scratch:
            setting = Setting("benchmark", plan, workspace.params.project.seed, CPU, precision, Path(scratch))
            started = time.perf_counter()
            with suppress(_ReachedError):
                train(workspace.student(), workspace.dataset, self._objective(), stop_at_target, setting)
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "signals": signals, "best": max(scores), "reached": scores[-1] >= target}

    def _objective(self) -> Distillation:
        distill = self._workspace.params.distill
        stored = self._variation.signals == "stored"
        live = LiveTeacher(self._workspace.teacher, CPU, self._variation.precision)
        return Distillation(self._workspace.stored if stored else live, Blend(distill.temperature, distill.alpha))

    def _endless_batches(self) -> Iterator[list[Ints]]:
        bucketed = self._variation.batches == "bucketed"
        for epoch in itertools.count():
            yield from self._run._epoch_steps(epoch) if bucketed else _random_batches(self._workspace, epoch)


class _ReachedError(Exception):
    """Ends a run that has reached its target accuracy."""


class HuggingFace:
    """transformers' Trainer as it is used to distil: a live teacher in `compute_loss`, dynamic padding, defaults."""

    def __init__(self, workspace: Workspace, variation: Variation) -> None:
        self._workspace = workspace
        self._bf16 = variation.precision == "bf16"
        self._student = workspace.student()
        self._rows = _as_lists(workspace.dataset)

    def turn(self, seconds: float) -> Reading:
        """Train with a new Trainer, which a callback stops when the time is over."""
        clock = Clock(seconds)
        stop = _stop_at(clock, self._workspace.rows_per_step())
        with tempfile.TemporaryDirectory() as scratch:
            self._trainer(self._student, scratch, max_steps=1_000_000, callbacks=[stop]).train()
        return clock.reading

    def learn(self, epochs: int) -> dict[str, Any]:
        """Return seconds and final dev accuracy of a whole run, with the linear schedule that Trainer has."""
        student = self._workspace.student()
        with tempfile.TemporaryDirectory() as scratch:
            trainer = self._trainer(student, scratch, num_train_epochs=epochs)
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "accuracy": self._workspace.dev_accuracy("fp32")(student)}

    def _trainer(self, student: PreTrainedModel, scratch: str, callbacks: Sequence[Any] = (), **length: Any) -> Trainer:
        from transformers import AutoTokenizer, DataCollatorWithPadding, TrainingArguments

        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=self._workspace.rows_per_step(),
            learning_rate=self._workspace.plan().learning_rate,
            warmup_steps=self._workspace.plan().warmup,
            bf16=self._bf16,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **length,
        )
        return _trainer_class(self._workspace)(
            model=student,
            args=arguments,
            train_dataset=self._rows,
            data_collator=DataCollatorWithPadding(
                AutoTokenizer.from_pretrained(self._workspace.root / "data/teacher", local_files_only=True)
            ),
            callbacks=[*callbacks],
        )


def _trainer_class(workspace: Workspace) -> type[Trainer]:
    from transformers import Trainer

    distill = workspace.params.distill
    functional = torch.nn.functional

    class Distiller(Trainer):  # type: ignore[misc]
        """KL * T^2 + CE against a teacher that runs in the step, in the same number format as the student."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            with torch.no_grad(), self.accelerator.autocast():
                teacher = workspace.teacher(**inputs).logits.float()
            outputs = model(**inputs)
            logits = outputs.logits.float()
            T = distill.temperature
            soft = functional.kl_div(
                functional.log_softmax(logits / T, -1), functional.softmax(teacher / T, -1), reduction="batchmean"
            )
            # Transfer rows have no gold label (-1); the sum over rows is finite in a batch without one.
            hard = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / len(labels)
            loss = distill.alpha * T**2 * soft + (1 - distill.alpha) * hard
            return (loss, outputs) if return_outputs else loss

    return Distiller


def _stop_at(clock: Clock, rows: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        """Counts the steps, and stops the training when the time is over."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = clock.step(rows)

    return Stop()


class TextBrewer:
    """TextBrewer's GeneralDistiller as in its examples: rows of a fixed length, in fp32."""

    def __init__(self, workspace: Workspace, variation: Variation) -> None:
        self._workspace = workspace
        self._rows = _padded_rows(workspace.dataset, FIXED_LENGTH)

    def turn(self, seconds: float) -> Reading:
        """Train for an epoch of a loader that ends when the time is over."""
        clock = Clock(seconds)
        self._train(self._student, _TimedLoader(self._loader(), clock), epochs=1)
        return clock.reading

    def learn(self, epochs: int) -> dict[str, Any]:
        """Return seconds and final dev accuracy of a whole run, with the linear schedule of its examples."""
        from transformers import get_linear_schedule_with_warmup

        student = self._workspace.student()
        loader = self._loader()
        steps = len(loader) * epochs
        schedule = {
            "num_warmup_steps": int(steps * self._workspace.plan().warmup),
            "num_training_steps": steps,
        }
        started = time.perf_counter()
        self._train(student, loader, epochs, scheduler_class=get_linear_schedule_with_warmup, scheduler_args=schedule)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "accuracy": self._workspace.dev_accuracy("fp32")(student)}

    @cached_property
    def _student(self) -> PreTrainedModel:
        return self._workspace.student()

    def _loader(self) -> DataLoader[Any]:
        from torch.utils.data import DataLoader

        return DataLoader(self._rows, batch_size=self._workspace.rows_per_step(), shuffle=True)  # type: ignore[arg-type]

    def _train(self, student: PreTrainedModel, loader: Any, epochs: int, **schedule: Any) -> None:
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig  # type: ignore[import-not-found]

        plan = self._workspace.plan()
        optimizer = torch.optim.AdamW(_groups(student.parameters(), plan.weight_decay), lr=plan.learning_rate)
        with tempfile.TemporaryDirectory() as scratch:
            distiller = GeneralDistiller(
                train_config=TrainingConfig(output_dir=scratch, device="cpu"),
                distill_config=DistillationConfig(temperature=self._workspace.params.distill.temperature),
                model_T=self._workspace.teacher,
                model_S=student,
                adaptor_T=_adaptor,
                adaptor_S=_adaptor,
            )
            with distiller:
                distiller.train(optimizer, loader, num_epochs=epochs, max_grad_norm=plan.clip_norm, **schedule)


def _adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
    """Pass on the logits alone, like the simple adaptor of TextBrewer's examples."""
    return {"logits": outputs.logits}


class _TimedLoader:
    """A loader that repeats its batches until the time is over."""

    def __init__(self, loader: DataLoader[Any], clock: Clock) -> None:
        self._loader = loader
        self._clock = clock

    def __len__(self) -> int:
        return sys.maxsize  # the distiller saves a model after that many steps

    def __iter__(self) -> Iterator[Any]:
        while True:
            for batch in self._loader:
                yield batch
                if self._clock.step(len(batch["input_ids"])):
                    return


def _random_batches(workspace: Workspace, epoch: int) -> list[list[Ints]]:
    """Draw batches with as many rows as Potstill's steps have, whatever their lengths."""
    order = np.random.default_rng([workspace.params.project.seed, epoch]).permutation(len(workspace.dataset))
    size = workspace.rows_per_step()
    return [[order[start : start + size].astype(np.int64)] for start in range(0, len(order), size)]


def _as_lists(dataset: TokenDataset) -> list[dict[str, Any]]:
    """Return rows as a tokenizer does: lists without padding."""
    rows = []
    for index in range(len(dataset)):
        batch = dataset.batch(np.array([index]))
        types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids[0].tolist()}
        ids = batch.input_ids[0].tolist()
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(batch.labels[0])} | types)
    return rows


def _padded_rows(dataset: TokenDataset, length: int) -> list[dict[str, torch.Tensor]]:
    """Return rows padded to a fixed length."""
    rows = []
    for index in range(len(dataset)):
        inputs = model_inputs(dataset.batch(np.array([index])), CPU)
        rows.append(
            {name: torch.nn.functional.pad(tensor[0], (0, length - len(tensor[0]))) for name, tensor in inputs.items()}
        )
    return rows


def serve(command: str) -> None:
    """Run one contender: answer the requests on standard input until it closes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    sys.stdout = sys.stderr  # the libraries print their losses there
    variation = Variation(**json.loads(command))
    workspace = Workspace(labelled=variation.labelled)
    with ExitStack() as stack:
        contender = _contender(workspace, variation, stack)
        for line in sys.stdin:
            request = json.loads(line)
            result = getattr(contender, request.pop("do"))(**request)
            answers.write(json.dumps(asdict(result) if isinstance(result, Reading) else result) + "\n")


def _contender(workspace: Workspace, variation: Variation, stack: ExitStack) -> Contender:
    if variation.kind == "trainer":
        return HuggingFace(workspace, variation)
    if variation.kind == "textbrewer":
        return TextBrewer(workspace, variation)
    return Potstill(workspace, variation, stack)
