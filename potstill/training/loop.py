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

from potstill.config import Training
from potstill.data.batches import Batch, Ints, TokenDataset, shuffled_batches
from potstill.distillation.objective import Objective, Terms, Window
from potstill.distillation.outputs import observe
from potstill.errors import TrainingError
from potstill.progress import Bar, progress
from potstill.training import checkpoints
from potstill.training.average import Average
from potstill.training.hotpath import keep_freed_memory, training_attention
from potstill.training.precision import Precision, autocast
from potstill.training.predict import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights that decay does not apply to: biases and normalisations (one-dimensional).
_DECAYED_DIMENSIONS = 2
# What a checkpoint calls the objective's parameters.
_OBJECTIVE = "objective"
# Steps between two recorded losses; the first and the last are always recorded.
_RECORD_EVERY = 20


@dataclass
class Outcome:
    """How a training run ended.

    Attributes:
        score: the best dev score; the model holds the weights that had it.
        scores: dev score after each evaluation, the starting point first when it was asked for.
        history: (step, name, value) of losses, terms and scores.
        rows: training rows seen, repeats counted.
        resumed_at: the step an interrupted run went on from, 0 for a fresh one.
    """

    score: float = -math.inf
    scores: list[float] = field(default_factory=list)
    history: list[tuple[int, str, float]] = field(default_factory=list)
    rows: int = 0
    resumed_at: int = 0


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
    # Told every dev score; what it raises ends the run.
    watch: Callable[[float], None] | None = None


def train(
    model: PreTrainedModel,
    dataset: TokenDataset,
    objective: Objective,
    score: Callable[[PreTrainedModel], float],
    setting: Setting,
) -> Outcome:
    """Train `model` in place, and the objective's projections with it; leave it with the weights of its best dev score.

    A run that finds a checkpoint of its own in `setting.checkpoints` goes on from it and ends with the same weights as
    an undisturbed run (to the bit on CPU).

    Raises:
        TrainingError: the loss became NaN or infinite; the message names step and term.
    """
    torch.manual_seed(setting.seed)
    keep_freed_memory()
    with training_attention(model, setting.device):
        return _Run(model.to(setting.device), dataset, objective.to(setting.device), score, setting).go()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: PreTrainedModel,
        dataset: TokenDataset,
        objective: Objective,
        score: Callable[[PreTrainedModel], float],
        setting: Setting,
    ) -> None:
        self.model, self.dataset, self.objective, self.score, self.setting = model, dataset, objective, score, setting
        plan = setting.plan
        _adapt(model, plan)
        epochs = [self._windows(epoch) for epoch in range(plan.epochs)]
        self.steps = sum(map(len, epochs))
        self.total_rows = len(dataset) * plan.epochs
        self.evaluate_at = _evaluation_steps([len(windows) for windows in epochs], plan.evaluations_per_epoch)
        self.trained = dict(model.named_parameters())
        self.trained |= {f"{_OBJECTIVE}/{name}": weight for name, weight in objective.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            _groups(self.trained.values(), plan.weight_decay), lr=plan.learning_rate, fused=_fused(setting.device)
        )
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
        self.step, self.without_gain = 0, 0
        self.outcome = Outcome()
        self.best: dict[str, Tensor] = {}
        self.average = Average(model, plan.average_decay) if plan.average_decay is not None else None
        self.saved_at = time.monotonic()

    def go(self) -> Outcome:
        found = checkpoints.newest(self.setting.checkpoints)
        if found is not None:
            self._restore(*found)
        elif self.setting.keep_start:
            self._evaluate()
        with progress(self.setting.name, self.total_rows, "rows", done=self.outcome.rows) as bar:
            self._epochs(bar)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.outcome

    def _windows(self, epoch: int) -> list[list[Ints]]:
        """The rows of each batch of each optimizer step of an epoch; the last step may have fewer batches."""
        plan = self.setting.plan
        batches = shuffled_batches(self.dataset.lengths, plan.batch_tokens, seed=self.setting.seed, epoch=epoch)
        return [batches[start : start + plan.accumulate] for start in range(0, len(batches), plan.accumulate)]

    def _epochs(self, bar: Bar) -> None:
        self.model.train()
        passed = 0
        for epoch in range(self.setting.plan.epochs):
            windows = self._windows(epoch)
            for rows in windows[max(self.step - passed, 0) :]:
                if self._stopped():
                    return
                note = self._step(rows)
                bar.advance(sum(map(len, rows)), note)
                self._after_step()
            passed += len(windows)

    def _stopped(self) -> bool:
        return self.setting.plan.patience is not None and self.without_gain >= self.setting.plan.patience

    def _step(self, rows: list[Ints]) -> str:
        """One optimiser step; the running state for the progress bar."""
        batches = [self.dataset.batch(part) for part in rows]
        window = Window.of(batches, self.step, self.steps)
        terms: Terms = {}
        for batch in batches:
            for name, term in self._backward(batch, window).items():
                terms[name] = terms[name] + term if name in terms else term
        self._update()
        self.step += 1
        if self.average is not None:
            self.average.update()
        self.outcome.rows += window.rows
        return self._record(terms)

    def _backward(self, batch: Batch, window: Window) -> Terms:
        """Add a batch's gradients to those of its step; its terms."""
        needs = self.objective.needs(window.step, window.total)
        with autocast(self.setting.device, self.setting.precision):
            outputs = observe(self.model, model_inputs(batch, self.setting.device), needs)
        terms: Terms = self.objective(outputs, batch, window)
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return {name: term.detach() for name, term in terms.items()}

    def _update(self) -> None:
        """Apply the gradients of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.setting.plan.learning_rate * _factor(self.step, self.steps, self.setting.plan.warmup)
        self.scaler.unscale_(self.optimizer)
        _clip(list(self.trained.values()), self.setting.plan.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _record(self, terms: Terms) -> str:
        value = torch.stack(list(terms.values())).sum().item()
        if not math.isfinite(value):
            bad = next((name for name, term in terms.items() if not math.isfinite(term.item())), "sum")
            raise TrainingError(
                f"the {bad} loss became {value} at step {self.step} of {self.steps} in {self.setting.name}; "
                f"lower {self.setting.name}.learning_rate or set project.precision to fp32"
            )
        if self.step % _RECORD_EVERY == 1 or self.step == self.steps:
            self.outcome.history.append((self.step, "loss", value))
            self.outcome.history += [(self.step, f"loss_{name}", term.item()) for name, term in terms.items()]
        dev = f"  dev {self.outcome.scores[-1]:.4f}" if self.outcome.scores else ""
        return f"loss {value:.4f}{dev}"

    def _after_step(self) -> None:
        if self.step in self.evaluate_at:
            self._evaluate()
        if time.monotonic() - self.saved_at >= self.setting.plan.checkpoint_seconds and self.step < self.steps:
            self._save()

    def _evaluate(self) -> None:
        with nullcontext() if self.average is None else self.average.in_place():
            value = self.score(self.model)
            self.model.train()
            self.outcome.scores.append(value)
            self.outcome.history.append((self.step, "dev", value))
            if self.setting.watch is not None:
                self.setting.watch(value)
            self.without_gain += 1
            if value > self.outcome.score:
                self.outcome.score, self.without_gain = value, 0
                self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _save(self) -> None:
        moments: dict[str, Tensor] = {}
        for name, parameter in self.trained.items():
            for kind, tensor in self.optimizer.state.get(parameter, {}).items():
                moments[f"{kind}/{name}"] = tensor
        state: dict[str, Any] = {
            "step": self.step,
            "without_gain": self.without_gain,
            "score": self.outcome.score if self.best else None,
            "scores": self.outcome.scores,
            "history": self.outcome.history,
            "rows": self.outcome.rows,
            "scaler": self.scaler.state_dict(),
            "precision": self.setting.precision,
        }
        tensors = {
            "model": self.model.state_dict(),
            _OBJECTIVE: self.objective.state_dict(),
            "moments": moments,
            "random": checkpoints.random_state(self.setting.device),
        }
        if self.best:
            tensors["best"] = self.best
        if self.average is not None:
            tensors["average"] = self.average.weights
        checkpoints.save(self.setting.checkpoints, self.step, tensors, state)
        self.saved_at = time.monotonic()

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
        self.step, self.without_gain = state["step"], state["without_gain"]
        self.scaler.load_state_dict(state["scaler"])
        history = [(int(step), str(name), float(value)) for step, name, value in state["history"]]
        score = -math.inf if state["score"] is None else state["score"]
        self.outcome = Outcome(score, state["scores"], history, state["rows"], resumed_at=self.step)
        checkpoints.set_random_state(tensors["random"], self.setting.device)


def _adapt(model: PreTrainedModel, plan: Training) -> None:
    """Dropout and frozen embeddings, for training alone: what is saved with the model stays as it was."""
    model.get_input_embeddings().requires_grad_(not plan.freeze_embeddings)
    if plan.dropout is None:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = plan.dropout


def _clip(parameters: list[Tensor], limit: float) -> None:
    """Scale the gradients of all trainable parameters down to the limit, over their common norm."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
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
