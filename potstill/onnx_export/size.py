"""Estimate the size of the exported file from the student's shape, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from potstill.config.params import Params
from potstill.config.student_params import Prune, StudentKind
from potstill.config.tokenize_params import FileBudget
from potstill.errors import ParamsError
from potstill.pretrained.families import FAMILIES
from potstill.progress import say

# Bytes of an output channel's scale and zero point.
_SCALE_BYTES = 5
_FP32_BYTES = 4
# Bytes of a 4-bit weight, including its share of a block's scale and zero point.
_FOUR_BIT_BYTES = 0.5 + (4 + 0.5) / 32
# Bytes of nodes and names: of the whole graph, and of each layer.
_GRAPH_BYTES = 20_000
_LAYER_BYTES = 12_000
# Relative error of the estimate; only a student that is certainly too large is refused.
TOLERANCE = 0.05
# A vocabulary with fewer tokens is too small for most languages.
_SMALLEST_VOCABULARY = 4_000


class StudentPlan(Protocol):
    """What params say about a student's shape: the section `distill`, or a `FileBudget`."""

    @property
    def layers(self) -> list[int]:
        """The layers that it starts from."""

    @property
    def student(self) -> StudentKind:
        """What it is made of."""

    @property
    def prune(self) -> Prune | None:
        """The widths that it keeps; None: all."""


@dataclass(frozen=True)
class StudentShape:
    """The numbers of weights that determine the size of a student's INT8 file.

    Attributes:
        vocabulary: rows of the table of token embeddings.
        width: columns of the table.
        rank: rank of a factorized table; None for a full one.
        layers: number of layers.
        other_weights: 8-bit weights outside the table.
        fp32: weights that stay in fp32: biases, norms, and others that are not quantized.
        channels: output channels of quantized matrices, each with a scale.
    """

    vocabulary: int
    width: int
    rank: int | None
    layers: int
    other_weights: int
    fp32: int
    channels: int

    @property
    def table(self) -> int:
        """The number of weights of the table of token embeddings."""
        return self.vocabulary * self._columns

    @property
    def _columns(self) -> int:
        return self.width if self.rank is None else self.rank

    def table_bytes(self, embedding_bits: int) -> float:
        """Compute the bytes of the table in the file."""
        factor = 0 if self.rank is None else self.rank * self.width
        return self.table * (_FOUR_BIT_BYTES if embedding_bits == 4 else 1) + factor

    def file_bytes(self, embedding_bits: int = 8) -> float:
        """Estimate the bytes of the INT8 file, with a relative error of at most `TOLERANCE`."""
        other_bytes = self.other_weights + _FP32_BYTES * self.fp32 + _SCALE_BYTES * self.channels
        return self.table_bytes(embedding_bits) + other_bytes + _GRAPH_BYTES + _LAYER_BYTES * self.layers

    def fits(self, megabytes: float, embedding_bits: int = 8) -> bool:
        """Whether the INT8 file certainly has at most that size."""
        return self.file_bytes(embedding_bits) * (1 + TOLERANCE) <= 1e6 * megabytes

    def fitting_tokens(self, megabytes: float, embedding_bits: int = 8) -> int:
        """Compute how many tokens make a file that certainly has at most that size, in thousands; below 0 if none."""
        outside = self.file_bytes(embedding_bits) - self.table_bytes(embedding_bits)
        a_token = self.table_bytes(embedding_bits) / self.vocabulary
        return int((1e6 * megabytes / (1 + TOLERANCE) - outside) / a_token // 1000) * 1000


def student_shape(
    config: Mapping[str, Any],
    plan: StudentPlan,
    *,
    labels: int,
    vocabulary: int | None = None,
    rank: int | None = None,
) -> StudentShape | None:
    """Compute the shape of the student that a plan describes.

    Args:
        config: config.json of the teacher, or of the checkpoint that the student starts from.
        plan: layers, kind and pruning of the student.
        labels: outputs of the head.
        vocabulary: tokens of a trimmed vocabulary; None for the model's own.
        rank: `tokenize.vocabulary.rank`.

    Returns:
        The shape, or None if the model's class is not supported.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    student = plan.student
    if family is None:
        return None
    tokens = vocabulary or int(config["vocab_size"])
    hidden = int(config[family.hidden_key])
    if student.kind == "static":
        return StudentShape(tokens, student.dimensions, None, 0, student.dimensions * labels, labels, labels)
    inner = int(config[family.intermediate_key])
    if student.kind == "config":
        hidden = student.hidden_size or hidden
        inner = student.intermediate_size or inner
    if plan.prune is not None:
        hidden = plan.prune.width or hidden
        inner = plan.prune.ffn or inner
    layers = len(plan.layers)
    width = int(config.get("embedding_size") or hidden)
    layer_weights = (3 if family.gated else 2) * hidden * inner + 4 * hidden * hidden
    outside = _weights_outside_layers(config, width, hidden, labels)
    unquantized = 2 * hidden * hidden if "rel_embeddings" in outside else 0
    channels = layers * (5 * hidden + (2 if family.gated else 1) * inner) + hidden + labels
    fp32 = layers * (9 * hidden + inner + unquantized) + 3 * hidden + outside.pop("rel_embeddings", 0)
    other_weights = layers * (layer_weights - unquantized) + sum(outside.values())
    return StudentShape(tokens, width, rank, layers, other_weights, fp32, channels)


def check_file_size(params: Params, shape: StudentShape) -> None:
    """Refuse a student whose file is certainly larger than `gate.max_file_mb`.

    Raises:
        ParamsError: the file is too large; the message names settings that make it smaller, and the resulting size.
    """
    limit = params.gate.max_file_mb
    bits = params.export.embedding_bits
    megabytes = shape.file_bytes(bits) / 1e6
    if limit is None or megabytes <= limit * (1 + TOLERANCE):
        return
    raise ParamsError(
        f"the student's INT8 file will have about {megabytes:.1f} MB, over gate.max_file_mb = {limit:g}: "
        f"{shape.table_bytes(bits) / 1e6:.1f} MB of it are {shape.vocabulary:,} token embeddings of {shape.width}; "
        f"{', or '.join([*_remedies(shape, limit, bits), f'raise gate.max_file_mb to {_above(megabytes)}'])}"
    )


def fitting_vocabulary(config: Mapping[str, Any], budget: FileBudget, labels: int) -> int | None:
    """Choose how many tokens a student's vocabulary may have so that its INT8 file fits a budget, and say so.

    Args:
        config: config.json of the teacher, or of the checkpoint that the student starts from.
        budget: the limit, and what else the file holds.
        labels: outputs of the head.

    Returns:
        The number of tokens; None if the whole vocabulary fits.

    Raises:
        ParamsError: the file is too large with any vocabulary.
    """
    limit, bits = budget.max_file_mb, budget.embedding_bits
    shape = student_shape(config, budget, labels=labels)
    assert shape is not None  # ingest refuses other classes
    megabytes = shape.file_bytes(bits) / 1e6
    size = f"with all {shape.vocabulary:,} tokens the student's INT8 file would have about {megabytes:.1f} MB"
    if shape.fits(limit, bits):
        say(f"tokenize: the whole vocabulary stays: {size}, within gate.max_file_mb = {limit:g}")
        return None
    tokens = shape.fitting_tokens(limit, bits)
    if tokens < _SMALLEST_VOCABULARY:
        remedies = [*_remedies(shape, limit, bits), "raise gate.max_file_mb"]
        raise ParamsError(
            f"tokenize.vocabulary.max_tokens is auto, but even with {_SMALLEST_VOCABULARY:,} tokens the student's INT8 "
            f"file may be over gate.max_file_mb = {limit:g}; {', or '.join(remedies)}"
        )
    say(f"tokenize: {size}; at most {tokens:,} tokens stay, which fit gate.max_file_mb = {limit:g}")
    return tokens


def _weights_outside_layers(config: Mapping[str, Any], width: int, hidden: int, labels: int) -> dict[str, int]:
    """Count the weights outside the layers and the table of token embeddings, by their purpose."""
    family = FAMILIES[str(config["model_type"])]
    weights = {"head": hidden * hidden + hidden * labels}
    if width != hidden:
        weights["projection"] = width * hidden
    positions = config.get("max_position_embeddings") or 0
    if family.position_embeddings is not None and config.get("position_biased_input", True):
        weights["positions"] = int(positions) * width
    if family.token_types is not None:
        weights["token_types"] = int(config.get("type_vocab_size") or 0) * width
    if config.get("relative_attention"):
        buckets = int(config.get("position_buckets") or -1)
        weights["rel_embeddings"] = 2 * (buckets if buckets > 0 else int(positions)) * hidden
    return weights


def _remedies(shape: StudentShape, limit: float, bits: int) -> list[str]:
    """List settings that make the file smaller, with their keys."""
    max_tokens = shape.fitting_tokens(limit, bits)
    remedies = []
    if max_tokens >= _SMALLEST_VOCABULARY:
        remedies.append(f"trim the vocabulary (tokenize.vocabulary: {{max_tokens: {max_tokens}}} fits)")
    if bits == 8 and shape.rank is None:
        remedies.append(f"set export.embedding_bits to 4 (about {shape.file_bytes(4) / 1e6:.1f} MB)")
    if shape.layers > 1:
        remedies.append("name fewer distill.layers")
    return remedies


def _above(megabytes: float) -> int:
    """A limit that the file certainly meets."""
    return int(megabytes * (1 + TOLERANCE)) + 1
