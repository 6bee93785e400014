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
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.errors import TrainingError
from potstill.models.cohort import Cohort
from potstill.models.mixup import mix, mixed_embeddings
from potstill.progress import Bar, progress, say
from potstill.training import checkpoints
from potstill.training.adversarial import captured_embeddings, perturbation, perturbed_embeddings
from potstill.training.average import WeightAverage
from potstill.training.dropout import set_dropout
from potstill.training.failures import write_failure
from potstill.training.freezing import freeze
from potstill.training.hotpath import keep_freed_memory, training_attention
from potstill.training.lora import low_rank
from potstill.training.packing import choose_packing, packed
from potstill.training.plan import few_steps
from potstill.training.selection import Score, Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weight decay applies to tensors of at least this many dimensions, not to biases and norms.
_DECAYED_DIMENSIONS = 2
# The name of the objective's parameters in a checkpoint.
_OBJECTIVE = "objective"
# The name of the norm of the gradients among the values of a step.
_NORM = "norm"
# fp16 gradients that are not finite even at this scale of the loss are an error, not an overflow.
_SMALLEST_SCALE = 2.0**-10


@dataclass
class Outcome:
    """The result of a training run.

    Attributes:
        score: the best dev score; the model has the weights with this score.
        scores: the dev score of each evaluation, starting with that of the initial weights if they were evaluated.
        history: (step, name, value) of the loss and its terms at every step, and of dev scores.
        rows: training rows seen, repetitions included.
        resumed_at: the step from which an interrupted run resumed; 0 for a new run.
        steps: optimizer steps of the whole plan; 0 if there was nothing to train.
    """

    score: float = -math.inf
    scores: list[float] = field(default_factory=list)
    history: list[tuple[int, str, float]] = field(default_factory=list)
    rows: int = 0
    resumed_at: int = 0
    steps: int = 0

    @property
    def choices(self) -> int:
        """The number of models among which dev chose."""
        return max(1, len(self.scores))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """Read an outcome back from its fields in a JSON file."""
        return cls(**values | {"history": [(step, name, value) for step, name, value in values["history"]]})


@dataclass(frozen=True)
class Setting:
    """How and where to train.

    Attributes:
        name: name of the stage, for messages and keys of params.
        plan: the training plan of params.
        seed: seed of the run.
        device: device of the run.
        precision: number format of the forward passes.
        checkpoints: folder of the run's checkpoints.
        keep_start: whether to keep the initial weights if no evaluation is better than theirs.
        work: folder for failed steps and measurements; None writes failed steps to a temporary folder.
        watch: called with every dev score, in a resumed run first with those before the interruption; an exception
            from it ends the run.
    """

    name: str
    plan: Training
    seed: int
    device: torch.device
    precision: Precision
    checkpoints: Path
    keep_start: bool = False
    work: Path | None = None
    watch: Callable[[float], None] | None = None


def train(
    model: PreTrainedModel,
    dataset: TokenDataset,
    objective: Objective,
    score: Callable[[PreTrainedModel], Score],
    setting: Setting,
) -> Outcome:
    """Train a model and the objective's projections in place; the model ends with the weights of the best dev score.

    No weight is frozen afterwards. A run resumes from its checkpoint in `setting.checkpoints`, and ends with the same
    weights as an uninterrupted run (to the bit on CPU). Under `torchrun` the processes share each step and end with the
    same weights; the first process evaluates and writes.

    Args:
        model: the model to train.
        dataset: the training rows.
        objective: what to minimise.
        score: returns the dev score of a model, higher is better; optionally with the agreement with the teacher, which
            breaks ties.
        setting: how and where to train.

    Raises:
        TrainingError: a loss or a gradient is NaN or infinite (the message names step, term and the folder with a
            record of the step), or a batch does not fit in memory.
    """
    world = current_world()
    plan = setting.plan
    device = setting.device
    # Each process has its own rows, and therefore its own dropout.
    torch.manual_seed(setting.seed + world.rank)
    keep_freed_memory()
    packing = choose_packing(plan.packing, model, plan, device, setting.precision)
    if packing:
        say(f"{setting.name}: rows are packed, without padding")
    model = model.to(device)
    adapt(model, plan, setting.name)
    with training_attention(model, device, packing=packing), low_rank(model, plan.lora, setting.name):
        outcome = _Run(model, dataset, objective.to(device), score, setting, world, packing).run()
    model.requires_grad_(True)
    return outcome


def adapt(model: PreTrainedModel, plan: Training, name: str) -> None:
    """Freeze weights and set dropout as a plan asks for it, in place; see `freeze` for the arguments and errors."""
    freeze(model, plan, name)
    if plan.dropout is not None:
        set_dropout(model, plan.dropout)


@dataclass
class _Run:
    """The state of one training run; see `train` for the attributes."""

    model: PreTrainedModel
    dataset: TokenDataset
    objective: Objective
    score: Callable[[PreTrainedModel], Score]
    setting: Setting
    world: World
    packing: bool

    def __post_init__(self) -> None:
        model, setting, plan = self.model, self.setting, self.setting.plan
        self.mixup = plan.mixup if isinstance(plan, Distill) else None
        epochs = [self._epoch_steps(epoch) for epoch in range(plan.epochs)]
        self.steps = sum(map(len, epochs))
        self.evaluate_at = _evaluation_steps([len(steps) for steps in epochs], plan.evaluations_per_epoch)
        self.trained = dict(model.named_parameters())
        self.trained |= {f"{_OBJECTIVE}/{name}": weight for name, weight in self.objective.named_parameters()}
        self.world.broadcast([*model.state_dict().values(), *self.objective.state_dict().values()])
        self.optimizer = torch.optim.AdamW(
            _groups(self.trained.values(), plan.weight_decay),
            lr=plan.learning_rate,
            fused=setting.device.type in ("cpu", "cuda"),
        )
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
        self.budget = TokenBudget(plan.batch_tokens, f"{setting.name}.batch_tokens")
        self.selection = Selection(plan.patience, plan.patience_window)
        self.step = 0
        self.epoch = 0
        self.outcome = Outcome(scores=self.selection.scores, steps=self.steps)
        self.best: dict[str, Tensor] = {}
        # The model, or its compiled form.
        self.runner: Any = self._choose_runner(epochs[0])
        self.average = WeightAverage(model, plan.average_decay) if plan.average_decay is not None else None
        self.saved_at = time.monotonic()

    def run(self) -> Outcome:
        checkpoint = checkpoints.newest(self.setting.checkpoints)
        if checkpoint is not None and self._can_resume(checkpoint[1]):
            self._restore(*checkpoint)
            say(f"{self.setting.name}: resumes at step {self.outcome.resumed_at} of {self.steps}")
        elif self.setting.keep_start:
            self._evaluate()
        if (warning := few_steps(self.setting.name, self.steps, len(self.dataset))) is not None:
            say(warning)
        # A barrier: no checkpoint is removed while another process reads it.
        self.world.gather(None)
        total_rows = len(self.dataset) * self.setting.plan.epochs
        with progress(self.setting.name, total_rows, "rows", done=self.outcome.rows) as bar:
            self._epochs(bar)
        self.model.load_state_dict(self.best, strict=False)
        self.model.eval()
        return self.outcome

    def _can_resume(self, state: dict[str, Any]) -> bool:
        """Whether resuming from a checkpoint ends with the same weights as an uninterrupted run of this setting.

        The checkpoint of another number of processes has another number of random states. Another precision gives other
        gradients; `auto` may choose it on another machine.
        """
        current = {"processes": self.world.size, "precision": self.setting.precision}
        changed = next((name for name in current if state[name] != current[name]), None)
        if changed is not None:
            say(
                f"{self.setting.name}: the checkpoint of step {state['step']} is of another run ({changed} "
                f"{state[changed]}, now {current[changed]}); training starts from the beginning"
            )
        return changed is None

    def _choose_runner(self, steps: list[list[Ints]]) -> torch.nn.Module:
        """Choose between the model and its compiled form, by params and a measurement on the first batch."""
        plan = self.setting.plan
        hindrance = None
        if self.packing or plan.adversarial is not None or self.mixup is not None:
            hindrance = "packing, adversarial steps and mixup change the model's passes"
        elif isinstance(self.model, Cohort):
            hindrance = "students that teach each other run one after the other"
        elif self.objective.needs(0, self.steps) or type(self.objective).observe is not Objective.observe:
            hindrance = "terms of the loss look into the model's layers"

        def try_out(runner: torch.nn.Module) -> None:
            self.model.train()
            batch = self._batch(steps[0][0])
            before = checkpoints.random_state(self.setting.device)
            self._pass(batch, OptimizerStep.of([batch], 0, self.steps), runner)
            self.optimizer.zero_grad(set_to_none=True)
            checkpoints.set_random_state(before, self.setting.device)

        remembered = None if self.setting.work is None else self.setting.work / "compile.json"
        return choose_compiled(
            plan.compile, self.model, self.setting.device,
            obstacle=hindrance, steps=self.steps, trial_step=try_out, measurements=remembered,
        )  # fmt: skip

    def _epoch_steps(self, epoch: int) -> list[list[Ints]]:
        """List the optimizer steps of an epoch, each as the rows of its batches; the last can have fewer batches."""
        plan = self.setting.plan
        batches = shuffled_batches(self.dataset.lengths, plan.batch_tokens, seed=self.setting.seed, epoch=epoch)
        return [batches[start : start + plan.accumulate] for start in range(0, len(batches), plan.accumulate)]

    def _epochs(self, bar: Bar) -> None:
        self.model.train()
        passed = 0
        for epoch in range(self.setting.plan.epochs):
            self.epoch = epoch
            steps = self._epoch_steps(epoch)
            for rows in steps[max(self.step - passed, 0) :]:
                if self.selection.stopped:
                    return
                note = self._step(rows)
                bar.advance(sum(map(len, rows)), note)
                self._after_step()
            passed += len(steps)

    def _step(self, rows: list[Ints]) -> str:
        """Take one optimizer step, and return a note for the progress bar."""
        batches = [self._batch(part) for part in rows]
        step = OptimizerStep.of(batches, self.step, self.steps)
        terms = self.budget.run(lambda: self._gradients(rows, batches, step), self.optimizer.zero_grad)
        self.world.sum_gradients(self.trained.values())
        self.scaler.unscale_(self.optimizer)
        gradients = [weight.grad for weight in self.trained.values() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = self._read(terms, norm)
        self._check(values, batches)
        self._update(norm)
        self.step += 1
        if self.average is not None:
            self.average.update()
        self.outcome.rows += step.rows
        return self._record(values)

    def _batch(self, rows: Ints) -> Batch:
        """Build the batch of some rows as the model sees it in this epoch."""
        return self.objective.view(self.dataset.batch(rows), self.epoch)

    def _gradients(self, rows: list[Ints], batches: list[Batch], step: OptimizerStep) -> Terms:
        """Accumulate the gradients of this process's share of a step, and return its terms."""
        own_batches: Iterable[Batch] = batches
        if self.budget.halved or not self.world.is_single:
            parts = self.budget.fit(self.world.shard(rows), self.dataset.lengths)
            own_batches = (self._batch(part) for part in parts)
        terms: Terms = {}
        for batch in own_batches:
            for name, term in self._backward(batch, step).items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def _backward(self, batch: Batch, step: OptimizerStep) -> Terms:
        """Accumulate a batch's gradients, including those of adversarial and mixup passes, and return its terms."""
        adversarial = self.setting.plan.adversarial
        if adversarial is None:
            terms = self._pass(batch, step, self.runner)
        else:
            with captured_embeddings(self.model) as captured:
                terms = self._pass(batch, step, self.model)
            mask = torch.from_numpy(batch.attention_mask).to(self.setting.device)
            gradient = captured[-1].grad
            assert gradient is not None  # after the backward pass
            added = perturbation(gradient, mask, adversarial.epsilon)
            with perturbed_embeddings(self.model, added):
                further = self._pass(batch, step, self.model, adversarial.weight)
            terms["adversarial"] = torch.stack(list(further.values())).sum()
        if self.mixup is not None:
            mixed = mix(batch, self.mixup.alpha, self.setting.seed, step.index)
            with mixed_embeddings(self.model, mixed):
                further = self._pass(mixed, step, self.model, self.mixup.weight)
            terms["mixup"] = torch.stack(list(further.values())).sum()
        return terms

    def _pass(self, batch: Batch, step: OptimizerStep, runner: Any, weight: float = 1.0) -> Terms:
        """Run one forward and backward pass of a batch, and return its weighted terms."""
        device = self.setting.device
        needs = self.objective.needs(step.index, step.total)
        # Terms on layers need the states of every row in the padded layout.
        packing = packed(self.model, batch, device) if self.packing and not needs else nullcontext()
        with autocast(device, self.setting.precision), packing:
            outputs = self.objective.observe(runner, batch, device, needs)
        terms: Terms = {name: weight * term for name, term in self.objective(outputs, batch, step).items()}
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return {name: term.detach() for name, term in terms.items()}

    def _read(self, terms: Terms, norm: Tensor) -> dict[str, float]:
        """Read the step's terms, summed over the processes, and the norm of its gradients as numbers."""
        # All at once, because each read from a GPU waits for its queue.
        numbers = torch.stack([*(term.float() for term in terms.values()), norm.float()]).tolist()
        total: dict[str, float] = {}
        for part in self.world.gather(dict(zip(terms, numbers, strict=False))):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total | {_NORM: numbers[-1]}

    def _check(self, values: dict[str, float], batches: list[Batch]) -> None:
        """Stop before the weights are updated if a value is not finite; a scaler skips gradients that overflow."""
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if bad == _NORM and self.scaler.is_enabled() and self.scaler.get_scale() > _SMALLEST_SCALE:
            return
        if bad is None:
            return
        facts = {
            "stage": self.setting.name,
            "step": self.step + 1,
            "steps": self.steps,
            "seed": self.setting.seed,
            "precision": self.setting.precision,
            "processes": self.world.size,
            "learning_rate": self._rate(),
        }
        folder = None if self.setting.work is None else self.setting.work / "failures" / self.setting.name
        record = self.world.run_on_first(
            lambda: write_failure(folder, self.model, self.objective, batches, values, facts)
        )
        what = "norm of the gradients" if bad == _NORM else f"{bad} loss"
        exact = "" if self.setting.precision == "fp32" else " or set project.precision to fp32"
        raise TrainingError(
            f"the {what} became {values[bad]} at step {self.step + 1} of {self.steps} in {self.setting.name}; "
            f"lower {self.setting.name}.learning_rate{exact} (rows, terms and weights of the step are in {record})"
        )

    def _rate(self) -> float:
        return self.setting.plan.learning_rate * _factor(self.step, self.steps, self.setting.plan.warmup)

    def _update(self, norm: Tensor) -> None:
        """Update the weights with the gradients of a step."""
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
        with nullcontext() if self.average is None else self.average.applied():
            score = self.world.run_on_first(lambda: self.score(self.model))
            self.model.train()
            better = self.selection.add(score)
            self.outcome.history.append((self.step, "dev", self.selection.scores[-1]))
            self._report(self.selection.scores[-1])
            if better:
                self.outcome.score = self.selection.scores[-1]
                self.best = {name: tensor.detach().clone() for name, tensor in self._changing().items()}

    def _changing(self) -> dict[str, Tensor]:
        """Return the model's state without frozen weights, which can be most of it and never change."""
        frozen = {name for name, weight in self.model.named_parameters() if not weight.requires_grad}
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in frozen}

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
            "model": self._changing(),
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
        self.model.load_state_dict(tensors["model"], strict=False)
        self.objective.load_state_dict(tensors[_OBJECTIVE])
        self._restore_moments(tensors["moments"])
        self.best = {name: value.to(self.setting.device) for name, value in tensors.get("best", {}).items()}
        if self.average is not None:
            self.average.restore(tensors["average"], updates=state["step"])
        self.step = state["step"]
        self.budget.halved = state["halved"]
        self.selection.restore(state["selection"])
        self.scaler.load_state_dict(state["scaler"])
        history = [(int(step), str(name), float(value)) for step, name, value in state["history"]]
        score = -math.inf if self.selection.best is None else self.selection.best[0]
        self.outcome = Outcome(score, self.selection.scores, history, state["rows"], self.step, self.steps)
        checkpoints.set_random_state(tensors[f"random-{self.world.rank}"], self.setting.device)
        for value in self.selection.scores:
            self._report(value)

    def _restore_moments(self, moments: dict[str, Tensor]) -> None:
        """Restore the optimizer's state by its own rules for the device of each tensor.

        A fused optimizer counts its steps on the device of the weight, any other on the CPU.
        """
        names = {id(parameter): name for name, parameter in self.trained.items()}
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        numbers = {names[id(parameter)]: number for number, parameter in enumerate(parameters)}
        state = self.optimizer.state_dict()
        for key, tensor in moments.items():
            kind, name = key.split("/", 1)
            state["state"].setdefault(numbers[name], {})[kind] = tensor
        self.optimizer.load_state_dict(state)

    def _report(self, score: float) -> None:
        if self.setting.watch is not None:
            self.setting.watch(score)


def _clip(parameters: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients of all trainable parameters down to a limit of their common norm."""
    # On the CPU reading the norm is free and saves a pass over all gradients. On a GPU reading it would wait.
    if norm.device.type != "cpu" or not norm <= limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def _groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= _DECAYED_DIMENSIONS], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < _DECAYED_DIMENSIONS], "weight_decay": 0.0},
    ]


def _factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up to 1 and linear decay to 0; `step` counts from 0."""
    rising = max(int(steps * warmup), 1)
    return min((step + 1) / rising, (steps - step) / max(steps - rising, 1), 1.0)


def _evaluation_steps(epoch_lengths: list[int], per_epoch: int) -> set[int]:
    """Steps of the run after which dev is scored: the last step of each epoch, and others evenly spaced in it."""
    steps = set()
    passed = 0
    for length in epoch_lengths:
        steps |= {passed + max(length * part // per_epoch, 1) for part in range(1, per_epoch + 1)}
        passed += length
    return steps
