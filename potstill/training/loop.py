"""The one training loop: every stage that learns calls `train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.compute.compiling import choose_compiled
from potstill.compute.distributed import World, current_world
from potstill.compute.precision import Precision, autocast
from potstill.config.distill_params import Distill
from potstill.config.training_params import Training
from potstill.data.tokens.batches import Batch, Ints, TokenDataset, shuffled_batches
from potstill.data.tokens.token_budget import TokenBudget
from potstill.distillation.objective.gold_labels import Objective, Terms, Window
from potstill.errors import TrainingError
from potstill.models.cohort import Cohort
from potstill.models.mixup import mix, mixed_embeddings
from potstill.progress import Bar, progress, say
from potstill.training import checkpoints
from potstill.training.adversarial import caught_embeddings, moved_embeddings
from potstill.training.average import Average
from potstill.training.dropout import set_dropout
from potstill.training.failures import keep_failure
from potstill.training.hotpath import keep_freed_memory, training_attention
from potstill.training.lora import low_rank
from potstill.training.packing import choose_packing, packed
from potstill.training.plan import few_steps
from potstill.training.selection import Score, Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights that decay does not apply to: biases and normalisations (one-dimensional).
_DECAYED_DIMENSIONS = 2
# What a checkpoint calls the objective's parameters.
_OBJECTIVE = "objective"
# Beside the terms of a step: the norm of its gradients.
_NORM = "norm"
# fp16 gradients that overflow even at this scale of the loss are no overflow.
_SMALLEST_SCALE = 2.0**-10


@dataclass
class Outcome:
    """How a training run ended.

    Attributes:
        score: the best dev score; the model holds the weights that had it.
        scores: dev score after each evaluation, the starting point first when it was asked for.
        history: (step, name, value) of the loss and its terms at every step, and of scores.
        rows: training rows seen, repeats counted.
        resumed_at: the step an interrupted run went on from, 0 for a fresh one.
        steps: optimiser steps of the whole plan; 0 where nothing was to be trained.
    """

    score: float = -math.inf
    scores: list[float] = field(default_factory=list)
    history: list[tuple[int, str, float]] = field(default_factory=list)
    rows: int = 0
    resumed_at: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Setting:
    """Where and how to train: everything beside the model, the data and the objective."""

    name: str
    plan: Training
    seed: int
    device: torch.device
    precision: Precision
    checkpoints: Path
    # Keep the starting weights if no evaluation is better than theirs.
    keep_start: bool = False
    # Where failed steps and measurements are kept; None: a folder for temporary files, and nowhere.
    work: Path | None = None
    # Told every dev score; what it raises ends the run.
    watch: Callable[[float], None] | None = None


def train(
    model: PreTrainedModel,
    dataset: TokenDataset,
    objective: Objective,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Outcome:
    """Train `model` in place, and the objective's projections with it; leave it with the weights of its best dev score.

    A run that finds a checkpoint of its own in `setting.checkpoints` goes on from it and ends with the same weights as
    an undisturbed run (to the bit on CPU). Under `torchrun` the processes share each step, and all end with the same
    weights; the first alone evaluates and writes.

    Args:
        model: learns.
        dataset: the training rows.
        objective: what the model's outputs are compared with.
        score: of a model on dev, higher is better; with the agreement with a teacher where that decides between equals.
        setting: everything else.

    Raises:
        TrainingError: a loss or a gradient became NaN or infinite, the message names step, term and the folder with
            what to look at; or memory does not hold a batch.
    """
    world, plan, device = current_world(), setting.plan, setting.device
    # Other rows on each process, so other dropout.
    torch.manual_seed(setting.seed + world.rank)
    keep_freed_memory()
    packing = choose_packing(plan.packing, model, plan, device, setting.precision)
    if packing:
        say(f"{setting.name}: rows end to end, without padding")
    model = model.to(device)
    _adapt(model, plan)
    with training_attention(model, device, packing=packing), low_rank(model, plan.lora, setting.name):
        return _Run(model, dataset, objective.to(device), score, setting, world, packing=packing).go()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: PreTrainedModel,
        dataset: TokenDataset,
        objective: Objective,
        score: Callable[[PreTrainedModel], Score],
        setting: Setting,
        world: World,
        *,
        packing: bool,
    ) -> None:
        self.model, self.dataset, self.objective, self.score, self.setting = model, dataset, objective, score, setting
        self.world, self.packing = world, packing
        plan = setting.plan
        self.mixup = plan.mixup if isinstance(plan, Distill) else None
        epochs = [self._windows(epoch) for epoch in range(plan.epochs)]
        self.steps = sum(map(len, epochs))
        self.total_rows = len(dataset) * plan.epochs
        self.evaluate_at = _evaluation_steps([len(windows) for windows in epochs], plan.evaluations_per_epoch)
        self.trained = dict(model.named_parameters())
        self.trained |= {f"{_OBJECTIVE}/{name}": weight for name, weight in objective.named_parameters()}
        world.broadcast([*model.state_dict().values(), *objective.state_dict().values()])
        self.optimizer = torch.optim.AdamW(
            _groups(self.trained.values(), plan.weight_decay), lr=plan.learning_rate, fused=_fused(setting.device)
        )
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
        self.budget = TokenBudget(plan.batch_tokens, f"{setting.name}.batch_tokens")
        self.selection = Selection(plan.patience, plan.patience_window)
        self.step, self.epoch = 0, 0
        self.outcome = Outcome(scores=self.selection.scores, steps=self.steps)
        self.best: dict[str, Tensor] = {}
        # What runs on a batch: the model, or a compiled form of it.
        self.runner: Any = self._choose_runner(epochs[0])
        self.average = Average(model, plan.average_decay) if plan.average_decay is not None else None
        self.saved_at = time.monotonic()

    def go(self) -> Outcome:
        found = checkpoints.newest(self.setting.checkpoints)
        if found is not None and self._continues(found[1]):
            self._restore(*found)
        elif self.setting.keep_start:
            self._evaluate()
        if (warning := few_steps(self.setting.name, self.steps, len(self.dataset))) is not None:
            say(warning)
        # No checkpoint is removed while another process reads it.
        self.world.gather(None)
        with progress(self.setting.name, self.total_rows, "rows", done=self.outcome.rows) as bar:
            self._epochs(bar)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.outcome

    def _continues(self, state: dict[str, Any]) -> bool:
        """Whether a run of this setting that goes on from a checkpoint ends as one that was never interrupted.

        One of another number of processes lacks random states, or has too many. One of another precision took its steps
        with other products: `auto` may choose otherwise on another machine.
        """
        wanted = {"processes": self.world.size, "precision": self.setting.precision}
        other = next((name for name in wanted if state[name] != wanted[name]), None)
        if other is not None:
            say(
                f"{self.setting.name}: the checkpoint of step {state['step']} is of another run ({other} "
                f"{state[other]}, now {wanted[other]}); training starts from the beginning"
            )
        return other is None

    def _choose_runner(self, windows: list[list[Ints]]) -> torch.nn.Module:
        """The model or a compiled form, as params and a measurement on the first batch say."""
        plan, hindrance = self.setting.plan, None
        if self.packing or plan.adversarial is not None or self.mixup is not None:
            hindrance = "packing, adversarial steps and mixup change the model's passes"
        elif isinstance(self.model, Cohort):
            hindrance = "students that teach each other run one after the other"
        elif self.objective.needs(0, self.steps) or type(self.objective).observe is not Objective.observe:
            hindrance = "terms of the loss look into the model's layers"

        def try_out(runner: torch.nn.Module) -> None:
            self.model.train()
            batch = self._batch(windows[0][0])
            before = checkpoints.random_state(self.setting.device)
            self._pass(batch, Window.of([batch], 0, self.steps), runner)
            self.optimizer.zero_grad(set_to_none=True)
            checkpoints.set_random_state(before, self.setting.device)

        remembered = None if self.setting.work is None else self.setting.work / "compile.json"
        return choose_compiled(
            plan.compile, self.model, self.setting.device,
            obstacle=hindrance, steps=self.steps, trial_step=try_out, measurements=remembered,
        )  # fmt: skip

    def _windows(self, epoch: int) -> list[list[Ints]]:
        """The rows of each batch of each optimizer step of an epoch; the last step may have fewer batches."""
        plan = self.setting.plan
        batches = shuffled_batches(self.dataset.lengths, plan.batch_tokens, seed=self.setting.seed, epoch=epoch)
        return [batches[start : start + plan.accumulate] for start in range(0, len(batches), plan.accumulate)]

    def _epochs(self, bar: Bar) -> None:
        self.model.train()
        passed = 0
        for epoch in range(self.setting.plan.epochs):
            windows, self.epoch = self._windows(epoch), epoch
            for rows in windows[max(self.step - passed, 0) :]:
                if self.selection.stopped:
                    return
                note = self._step(rows)
                bar.advance(sum(map(len, rows)), note)
                self._after_step()
            passed += len(windows)

    def _step(self, rows: list[Ints]) -> str:
        """One optimiser step; the running state for the progress bar."""
        batches = [self._batch(part) for part in rows]
        window = Window.of(batches, self.step, self.steps)
        terms = self.budget.within(lambda: self._gradients(rows, batches, window), self.optimizer.zero_grad)
        self.world.sum_gradients(self.trained.values())
        self.scaler.unscale_(self.optimizer)
        norm = _norm(self.trained.values())
        values = self._read(terms, norm)
        self._check(values, batches)
        self._update(norm)
        self.step += 1
        if self.average is not None:
            self.average.update()
        self.outcome.rows += window.rows
        return self._record(values)

    def _batch(self, rows: Ints) -> Batch:
        """Rows as the objective shows them in this epoch."""
        return self.objective.view(self.dataset.batch(rows), self.epoch)

    def _gradients(self, rows: list[Ints], batches: list[Batch], window: Window) -> Terms:
        """Add up the gradients of this process's part of a step; its terms."""
        mine: Iterable[Batch] = batches
        if self.budget.halved or not self.world.is_single:
            parts = self.budget.fit(self.world.shard(rows), self.dataset.lengths)
            mine = (self._batch(part) for part in parts)
        terms: Terms = {}
        for batch in mine:
            for name, term in self._backward(batch, window).items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def _backward(self, batch: Batch, window: Window) -> Terms:
        """Add a batch's gradients to those of its step, those of its further passes too; its terms."""
        adversarial, mixup = self.setting.plan.adversarial, self.mixup
        if adversarial is None:
            terms = self._pass(batch, window, self.runner)
        else:
            with caught_embeddings(self.model) as caught:
                terms = self._pass(batch, window, self.model)
            with moved_embeddings(self.model, caught.steepest(batch, adversarial.epsilon)):
                further = self._pass(batch, window, self.model, adversarial.weight)
            terms["adversarial"] = torch.stack(list(further.values())).sum()
        if mixup is not None:
            mixed = mix(batch, mixup.alpha, self.setting.seed, window.step)
            with mixed_embeddings(self.model, mixed):
                further = self._pass(mixed, window, self.model, mixup.weight)
            terms["mixup"] = torch.stack(list(further.values())).sum()
        return terms

    def _pass(self, batch: Batch, window: Window, runner: Any, weight: float = 1.0) -> Terms:
        """Add a batch's gradients to those of its step; its weighted terms."""
        needs, device = self.objective.needs(window.step, window.total), self.setting.device
        # Who looks into a layer wants every row's states in their place.
        tight = packed(self.model, batch, device) if self.packing and not needs else nullcontext()
        with autocast(device, self.setting.precision), tight:
            outputs = self.objective.observe(runner, batch, device, needs)
        terms: Terms = {name: weight * term for name, term in self.objective(outputs, batch, window).items()}
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return {name: term.detach() for name, term in terms.items()}

    def _read(self, terms: Terms, norm: Tensor) -> dict[str, float]:
        """The step's terms, added up over the processes, and the norm of its gradients, as numbers."""
        # At once: each look at a GPU's number waits for all that was asked of it before.
        numbers = torch.stack([*(term.float() for term in terms.values()), norm.float()]).tolist()
        total: dict[str, float] = {}
        for part in self.world.gather(dict(zip(terms, numbers, strict=False))):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total | {_NORM: numbers[-1]}

    def _check(self, values: dict[str, float], batches: list[Batch]) -> None:
        """Stop before the weights take in what is no number. A scaler passes over gradients that overflow."""
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if bad == _NORM and self.scaler.is_enabled() and self.scaler.get_scale() > _SMALLEST_SCALE:
            return
        if bad is None:
            return
        about = {
            "stage": self.setting.name,
            "step": self.step + 1,
            "steps": self.steps,
            "seed": self.setting.seed,
            "precision": self.setting.precision,
            "processes": self.world.size,
            "learning_rate": self._rate(),
        }
        folder = None if self.setting.work is None else self.setting.work / "failures" / self.setting.name
        where = self.world.run_on_first(
            lambda: keep_failure(folder, self.model, self.objective, batches, values, about)
        )
        what = "norm of the gradients" if bad == _NORM else f"{bad} loss"
        raise TrainingError(
            f"the {what} became {values[bad]} at step {self.step + 1} of {self.steps} in {self.setting.name}; "
            f"lower {self.setting.name}.learning_rate or set project.precision to fp32 "
            f"(rows, terms and weights of the step are in {where})"
        )

    def _rate(self) -> float:
        return self.setting.plan.learning_rate * _factor(self.step, self.steps, self.setting.plan.warmup)

    def _update(self, norm: Tensor) -> None:
        """Apply the gradients of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        _clip(list(self.trained.values()), norm, self.setting.plan.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _record(self, values: dict[str, float]) -> str:
        loss = sum(value for name, value in values.items() if name != _NORM)
        self.outcome.history.append((self.step, "loss", loss))
        self.outcome.history += [(self.step, f"loss_{name}", v) for name, v in values.items() if name != _NORM]
        dev = f"  dev {self.outcome.scores[-1]:.4f}" if self.outcome.scores else ""
        return f"loss {loss:.4f}{dev}"

    def _after_step(self) -> None:
        if self.step in self.evaluate_at:
            self._evaluate()
        due = time.monotonic() - self.saved_at >= self.setting.plan.checkpoint_seconds
        if self.step < self.steps and self.world.run_on_first(lambda: due):
            self._save()

    def _evaluate(self) -> None:
        with nullcontext() if self.average is None else self.average.in_place():
            found = self.world.run_on_first(lambda: self.score(self.model))
            self.model.train()
            better = self.selection.take(found)
            self.outcome.history.append((self.step, "dev", self.selection.scores[-1]))
            if self.setting.watch is not None:
                self.setting.watch(self.selection.scores[-1])
            if better:
                self.outcome.score = self.selection.scores[-1]
                self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _save(self) -> None:
        randoms = self.world.gather(checkpoints.random_state(self.setting.device))
        self.saved_at = time.monotonic()
        if not self.world.is_first:
            return
        moments: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            for kind, tensor in self.optimizer.state.get(parameter, {}).items():
                moments[f"{kind}/{name}"] = tensor
        state: dict[str, Any] = {
            "step": self.step,
            "selection": self.selection.state(),
            "history": self.outcome.history,
            "rows": self.outcome.rows,
            "scaler": self.scaler.state_dict(),
            "precision": self.setting.precision,
            "processes": self.world.size,
            "halved": self.budget.halved,
        }
        tensors = {
            "model": self.model.state_dict(),
            _OBJECTIVE: self.objective.state_dict(),
            "moments": moments,
        }
        tensors |= {f"random-{rank}": random for rank, random in enumerate(randoms)}
        if self.best:
            tensors["best"] = self.best
        if self.average is not None:
            tensors["average"] = self.average.weights
        checkpoints.save(self.setting.checkpoints, self.step, tensors, state)

    def _restore(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        self.model.load_state_dict(tensors["model"])
        self.objective.load_state_dict(tensors[_OBJECTIVE])
        for name, parameter in self.trained.items():
            moments = {
                key.split("/", 1)[0]: value for key, value in tensors["moments"].items() if key.split("/", 1)[1] == name
            }
            self.optimizer.state[parameter] = {
                kind: value.clone() if kind == "step" else value.to(parameter.device) for kind, value in moments.items()
            }
        self.best = {name: value.to(self.setting.device) for name, value in tensors.get("best", {}).items()}
        if self.average is not None:
            self.average.restore(tensors["average"], updates=state["step"])
        self.step, self.budget.halved = state["step"], state["halved"]
        self.selection.restore(state["selection"])
        self.scaler.load_state_dict(state["scaler"])
        history = [(int(step), str(name), float(value)) for step, name, value in state["history"]]
        score = -math.inf if self.selection.best is None else self.selection.best[0]
        self.outcome = Outcome(score, self.selection.scores, history, state["rows"], self.step, self.steps)
        checkpoints.set_random_state(tensors[f"random-{self.world.rank}"], self.setting.device)


def _adapt(model: PreTrainedModel, plan: Training) -> None:
    """Dropout and frozen embeddings, for training alone: what is saved with the model stays as it was."""
    model.get_input_embeddings().requires_grad_(not plan.freeze_embeddings)
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    """The common norm of all gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    return norm


def _clip(parameters: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients of all trainable parameters down to the limit, over their common norm."""
    # Reading the norm is free on the CPU, where a needless pass over every gradient is not; a GPU would have to wait.
    if norm.device.type != "cpu" or not norm <= limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def _groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= _DECAYED_DIMENSIONS], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < _DECAYED_DIMENSIONS], "weight_decay": 0.0},
    ]


def _fused(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda")


def _factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up to 1, then linear decay to 0; `step` counts from 0."""
    rising = max(int(steps * warmup), 1)
    return min((step + 1) / rising, (steps - step) / max(steps - rising, 1), 1.0)


def _evaluation_steps(epoch_lengths: list[int], per_epoch: int) -> set[int]:
    """Global steps after which dev is scored: the last of each epoch, and evenly before it."""
    steps, passed = set(), 0
    for length in epoch_lengths:
        steps |= {passed + max(length * part // per_epoch, 1) for part in range(1, per_epoch + 1)}
        passed += length
    return steps
