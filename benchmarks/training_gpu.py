"""Compares padding-free with padded training on a GPU: a BERT-base student of 6 layers learns a teacher's signals.

It needs only torch (2.10 or newer, for `torch.nn.attention.varlen`) and transformers. Weights and rows are random,
which does not change the time. Signals are given, as in Potstill's distill stage, so no teacher runs in the step.
"""

from __future__ import annotations

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matrices import Integers, matrix_rate, model_shapes, step_flops
from results import spread, today, versions
from torch import Tensor, nn

LAYERS = 6
ROWS = 256
# Tokens of a row.
SHORTEST = 16
LONGEST = 256
TEMPERATURE = 2.0
CLIP_NORM = 1.0
WARM_UP_STEPS = 5
# Largest difference of a logit that bf16 explains; a larger one means that the two are not the same step.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Rows:
    """One batch on the device.

    Attributes:
        ids: [tokens] token ids of all rows, one after the other.
        lengths: [rows] tokens of each row, on the host.
        signals: [rows, 2] logits of the teacher.
    """

    ids: Tensor
    lengths: Integers
    signals: Tensor


def batches(vocabulary: int, device: torch.device, count: int = 8) -> list[Rows]:
    """Draw batches with log-uniform lengths: many short rows, some long ones."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        lengths = np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST), ROWS)).round().astype(np.int64)
        ids = torch.from_numpy(random.integers(1000, vocabulary, int(lengths.sum()))).to(device)
        drawn.append(Rows(ids, lengths, torch.from_numpy(random.normal(size=(ROWS, 2))).float().to(device)))
    return drawn


def padded(model: Any, rows: Rows) -> Tensor:
    """Return [rows, 2] logits, with every row padded to the longest."""
    device = rows.ids.device
    lengths = torch.from_numpy(rows.lengths).to(device)
    mask = torch.arange(int(rows.lengths.max()), device=device)[None, :] < lengths[:, None]
    ids = torch.zeros(mask.shape, dtype=torch.int64, device=device)
    ids[mask] = rows.ids
    logits: Tensor = model(input_ids=ids, attention_mask=mask.long()).logits
    return logits


def padding_free(model: Any, rows: Rows) -> Tensor:
    """Return [rows, 2] logits, with the rows end to end and attention within each row (see `_varlen`)."""
    device = rows.ids.device
    ends = np.concatenate([[0], np.cumsum(rows.lengths)])
    positions = np.arange(ends[-1]) - np.repeat(ends[:-1], rows.lengths)
    hidden = model.bert(
        input_ids=rows.ids[None],
        position_ids=torch.from_numpy(positions).to(device)[None],
        bounds=torch.from_numpy(ends.astype(np.int32)).to(device),
        longest=int(rows.lengths.max()),
    ).last_hidden_state[0]
    first = hidden[torch.from_numpy(ends[:-1]).to(device)]
    logits: Tensor = model.classifier(model.dropout(model.bert.pooler(first[:, None])))
    return logits


def _varlen(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute attention for transformers: [1, heads, tokens, size] in, [1, tokens, heads, size] out."""
    from torch.nn.attention.varlen import varlen_attn

    bounds = options["bounds"]
    longest = options["longest"]
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest)
    assert isinstance(out, Tensor)
    return out[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Build no mask: the bounds of the rows take its place."""


def student(device: torch.device) -> Any:
    """Make a BERT-base of 6 layers with random weights, no dropout and frozen token embeddings, as by default."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=LAYERS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = BertForSequenceClassification(config).to(device).train()
    model.get_input_embeddings().requires_grad_(False)
    return model


class Contender:
    """One way to run a batch through a student of its own."""

    def __init__(self, model: Any, forward: Callable[[Any, Rows], Tensor]) -> None:
        self.model = model
        self._forward = forward
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-5, fused=True)

    def logits(self, rows: Rows) -> Tensor:
        """Return [rows, 2] logits in fp32, computed in bf16."""
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return self._forward(self.model, rows).float()

    def step(self, rows: Rows) -> None:
        """Take one optimiser step on T^2 * KL."""
        student = self.logits(rows) / TEMPERATURE
        teacher = rows.signals / TEMPERATURE
        loss = nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
        (TEMPERATURE**2 * loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def turn(self, batches: list[Rows], seconds: float) -> tuple[float, float]:
        """Measure rows/s and FLOP/s of products on real tokens, for about that long."""
        source = cycle(batches)
        for _ in range(WARM_UP_STEPS):
            self.step(next(source))
        torch.cuda.synchronize()
        started = time.perf_counter()
        rows = 0
        flops = 0.0
        while time.perf_counter() - started < seconds:
            batch = next(source)
            self.step(batch)
            # Without this the host would run ahead of the device and misread the time.
            torch.cuda.synchronize()
            rows += len(batch.lengths)
            flops += step_flops(self.model.config, batch.lengths)
        elapsed = time.perf_counter() - started
        return rows / elapsed, flops / elapsed


def contenders(device: torch.device) -> dict[str, Contender]:
    """Make the same student twice: for padded rows with torch's fused attention, and for rows end to end."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("varlen", _varlen)
    AttentionMaskInterface.register("varlen", _no_mask)
    padded_student = student(device)
    padding_free_student = copy.deepcopy(padded_student)
    padded_student.set_attn_implementation("sdpa")
    padding_free_student.set_attn_implementation("varlen")
    return {
        "padded": Contender(padded_student, padded),
        "padding-free": Contender(padding_free_student, padding_free),
    }


def check_same(models: dict[str, Contender], rows: Rows) -> float:
    """Return the largest difference of a logit between the two; ends the benchmark if rounding does not explain it."""
    with torch.no_grad():
        first, second = (model.logits(rows) for model in models.values())
    difference = float((first - second).abs().max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"padding-free and padded logits differ by {difference:.3f}: nothing was measured")
    return difference


def measure(rounds: int, seconds: float) -> str:
    """Measure both contenders, and return the section for RESULTS.md.

    Raises:
        SystemExit: there is no GPU, or torch is too old.
    """
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU on this machine: nothing was measured and nothing is recorded")
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        raise SystemExit(f"torch {torch.__version__} has no torch.nn.attention.varlen; install 2.10 or newer")
    device = torch.device("cuda")
    models = contenders(device)
    data = batches(models["padded"].model.config.vocab_size, device)
    difference = check_same(models, data[0])
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    rates = []
    for _ in range(rounds):
        for name, model in models.items():
            readings[name].append(model.turn(data, seconds))
        tokens = round(statistics.mean(int(rows.lengths.sum()) for rows in data))
        rates.append(matrix_rate(model_shapes(tokens, models["padded"].model.config), torch.bfloat16, device))
    return "\n".join(_section(readings, rates, data, difference, rounds, seconds))


def _section(
    readings: dict[str, list[tuple[float, float]]],
    rates: list[float],
    data: list[Rows],
    difference: float,
    rounds: int,
    seconds: float,
) -> list[str]:
    """Return machine and setup, then a line for each contender."""
    mean = statistics.mean(float(rows.lengths.mean()) for rows in data)
    lines = [
        f"{torch.cuda.get_device_name()}, {today()}; {versions('torch', 'transformers')}, CUDA {torch.version.cuda}; "
        f"BERT-base, {LAYERS} of 12 layers, bf16, {ROWS} rows a step of {SHORTEST} to {LONGEST} tokens "
        f"(mean {mean:.0f}), signals given; {rounds} alternating rounds of {seconds:g} s; "
        f"logits of the two differ by at most {difference:.3f}; "
        f"bare bf16 products of these shapes {statistics.median(rates) / 1e12:.0f} TFLOP/s.",
        "",
        "| | rows/s (median) | to padded (min–max) | share of the bf16 matrix rate |",
        "|---|---|---|---|",
    ]
    for name, turns in readings.items():
        ratios = [turn[0] / base[0] for turn, base in zip(turns, readings["padded"], strict=True)]
        shares = [100 * turn[1] / rate for turn, rate in zip(turns, rates, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(turn[0] for turn in turns):,.0f} | {spread(ratios, 2)} "
            f"| {statistics.median(shares):.0f}% ({min(shares):.0f}–{max(shares):.0f}) |"
        )
    return lines
