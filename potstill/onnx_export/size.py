"""How large the exported file will be, from the student's shape alone: before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from potstill.config.distill_params import Distill
from potstill.config.params import Params
from potstill.errors import ParamsError
from potstill.pretrained.families import FAMILIES

# Of a weight of the file: of the whole, a scale and a zero point for each output channel and the fp32 rest.
_SCALE_BYTES = 5
_FP32_BYTES = 4
# Of a weight in 4 bits, its part of a scale and a zero point for 32 of them.
_FOUR_BITS = 0.5 + (4 + 0.5) / 32
# The graph's nodes and names.
_GRAPH_BYTES, _LAYER_BYTES = 20_000, 12_000
# How far the estimate may be off: refused is only what is certainly too large.
TOLERANCE = 0.05
# Fewer tokens than that are no vocabulary for most languages.
_SMALLEST_VOCABULARY = 4_000


@dataclass(frozen=True)
class StudentShape:
    """What decides about the size of a student's INT8 file, in weights.

    Attributes:
        vocabulary: rows of its table of token embeddings.
        width: columns of that table.
        rank: of a factorized table; None: a full one.
        layers: how many.
        rest: weights in 8 bits outside the table of token embeddings.
        fp32: weights that stay in fp32: biases, norms, and what the quantizer does not take.
        channels: output channels of the quantized matrices, each with a scale.
    """

    vocabulary: int
    width: int
    rank: int | None
    layers: int
    rest: int
    fp32: int
    channels: int

    @property
    def table(self) -> int:
        """Weights of the table of token embeddings."""
        return self.vocabulary * self._columns

    @property
    def _columns(self) -> int:
        return self.width if self.rank is None else self.rank

    def table_bytes(self, embedding_bits: int) -> float:
        """Bytes of that table in the file."""
        factor = 0 if self.rank is None else self.rank * self.width
        return self.table * (_FOUR_BITS if embedding_bits == 4 else 1) + factor

    def file_bytes(self, embedding_bits: int = 8) -> float:
        """Bytes of the INT8 file; of real ones within `TOLERANCE`."""
        rest = self.rest + _FP32_BYTES * self.fp32 + _SCALE_BYTES * self.channels
        return self.table_bytes(embedding_bits) + rest + _GRAPH_BYTES + _LAYER_BYTES * self.layers


def student_shape(
    config: Mapping[str, Any],
    distill: Distill,
    *,
    labels: int,
    vocabulary: int | None = None,
    rank: int | None = None,
) -> StudentShape | None:
    """The shape of the student that `distill` makes of a model.

    Args:
        config: config.json of the teacher, or of the checkpoint that the student starts from.
        distill: the section of params.
        labels: outputs of the head.
        vocabulary: tokens of a trimmed vocabulary; None: the model's own.
        rank: `tokenize.vocabulary.rank`.

    Returns:
        None for a class of models that is not known.
    """
    family, student = FAMILIES.get(str(config.get("model_type"))), distill.student
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
    if distill.prune is not None:
        hidden, inner = distill.prune.width or hidden, distill.prune.ffn or inner
    layers = len(distill.layers)
    width = int(config.get("embedding_size") or hidden)
    own = (3 if family.gated else 2) * hidden * inner + 4 * hidden * hidden
    around = _around(config, width, hidden, labels)
    unquantized = 2 * hidden * hidden if "rel_embeddings" in around else 0
    channels = layers * (5 * hidden + (2 if family.gated else 1) * inner) + hidden + labels
    fp32 = layers * (9 * hidden + inner + unquantized) + 3 * hidden + around.pop("rel_embeddings", 0)
    rest = layers * (own - unquantized) + sum(around.values())
    return StudentShape(tokens, width, rank, layers, rest, fp32, channels)


def check_file_size(params: Params, shape: StudentShape) -> None:
    """Refuse a student whose file is certainly over `gate.max_file_mb`.

    Raises:
        ParamsError: it is; the message names what makes it smaller, with the size that would give.
    """
    limit, bits = params.gate.max_file_mb, params.export.embedding_bits
    megabytes = shape.file_bytes(bits) / 1e6
    if limit is None or megabytes <= limit * (1 + TOLERANCE):
        return
    raise ParamsError(
        f"the student's INT8 file will have about {megabytes:.1f} MB, over gate.max_file_mb = {limit:g}: "
        f"{shape.table_bytes(bits) / 1e6:.1f} MB of it are {shape.vocabulary:,} token embeddings of {shape.width}; "
        f"{', or '.join([*_remedies(shape, limit, bits), f'raise gate.max_file_mb to {_above(megabytes)}'])}"
    )


def _around(config: Mapping[str, Any], width: int, hidden: int, labels: int) -> dict[str, int]:
    """Weights outside the layers and the table of token embeddings, by what they are."""
    family = FAMILIES[str(config["model_type"])]
    found = {"head": hidden * hidden + hidden * labels}
    if width != hidden:
        found["projection"] = width * hidden
    positions = config.get("max_position_embeddings") or 0
    if family.position_embeddings is not None and config.get("position_biased_input", True):
        found["positions"] = int(positions) * width
    if family.token_types is not None:
        found["token_types"] = int(config.get("type_vocab_size") or 0) * width
    if config.get("relative_attention"):
        buckets = int(config.get("position_buckets") or -1)
        found["rel_embeddings"] = 2 * (buckets if buckets > 0 else int(positions)) * hidden
    return found


def _remedies(shape: StudentShape, limit: float, bits: int) -> list[str]:
    """What would bring the file below the limit, or nearer to it, each with its key."""
    columns = shape.table / shape.vocabulary
    others = shape.file_bytes(bits) - shape.table_bytes(bits)
    fits = int((1e6 * limit - others) / (columns * (_FOUR_BITS if bits == 4 else 1)) / 1000) * 1000
    found = []
    if fits >= _SMALLEST_VOCABULARY:
        found.append(f"trim the vocabulary (tokenize.vocabulary: {{max_tokens: {fits}}} fits)")
    if bits == 8 and shape.rank is None:
        found.append(f"set export.embedding_bits to 4 (about {shape.file_bytes(4) / 1e6:.1f} MB)")
    if shape.layers > 1:
        found.append("name fewer distill.layers")
    return found


def _above(megabytes: float) -> int:
    return int(megabytes * (1 + TOLERANCE)) + 1
