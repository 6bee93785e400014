"""A torch classifier as ONNX: inputs and outputs named as Optimum names them, no trace of the machine in the file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor

from potstill.inference.runtime import EMBEDDING, OUTPUTS
from potstill.onnx_export.quiet import errors_only
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 20


class _Logits(torch.nn.Module):
    """Positional inputs in, logits out: what a graph can have."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        if task_of(self.model) == "question_answering":
            return output.start_logits, output.end_logits
        logits: Tensor = output.logits
        return logits


def input_names(*, pair: bool) -> tuple[str, ...]:
    """The graph's inputs, each int64 [batch, sequence]; segment ids only where they carry something."""
    return ("input_ids", "attention_mask", "token_type_ids") if pair else ("input_ids", "attention_mask")


def export_onnx(model: PreTrainedModel, path: Path, *, pair: bool) -> None:
    """Write the model in evaluation mode as fp32 ONNX with free batch and sequence sizes.

    Output: `logits`, float32 [batch, classes]; of entities [batch, sequence, tags]; of questions `start_logits` and
    `end_logits`, each [batch, sequence]. Where a text has one answer also `sentence_embedding`, float32
    [batch, hidden], if a linear layer makes the logits: what that reads.
    """
    names = input_names(pair=pair)
    # Two rows of unequal length: with one row, or without padding, the tracer would take that for a constant.
    ids = torch.full((2, 6), 2, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    example = (ids, mask, torch.zeros_like(ids))[: len(names)]
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    with warnings.catch_warnings(), errors_only("torch.onnx"):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            _Logits(model.eval(), names),
            example,
            str(path),
            input_names=list(names),
            output_names=OUTPUTS.get(task_of(model), ["logits"]),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in names),),
            verbose=False,
        )
    written = onnx.load(path)
    _strip(written)
    _give_embedding(written.graph)
    onnx.save(written, path)


def gives_embedding(path: Path) -> bool:
    """Whether an exported file also has the output `sentence_embedding`."""
    return any(output.name == EMBEDDING for output in onnx.load(path).graph.output)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces (they hold file paths) and inferred shapes (quantization stumbles over them)."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""


def _give_embedding(graph: onnx.GraphProto) -> None:
    """Name what the last linear layer reads, and make it an output: nothing more is computed."""
    logits = graph.output[0]
    last = next(node for node in graph.node if logits.name in node.output)
    weights = {weight.name: weight for weight in graph.initializer}
    batch, *rest = logits.type.tensor_type.shape.dim
    if last.op_type != "Gemm" or last.input[1] not in weights or len(rest) != 1:
        return
    transposed = any(attribute.name == "transB" and attribute.i for attribute in last.attribute)
    width = weights[last.input[1]].dims[1 if transposed else 0]
    embedding = last.input[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [EMBEDDING if name == embedding else name for name in names]
    shape = [batch.dim_param, width]
    graph.output.append(onnx.helper.make_tensor_value_info(EMBEDDING, onnx.TensorProto.FLOAT, shape))
