"""Export a torch model to ONNX, with Optimum's names of inputs and outputs and no paths of the machine in the file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import torch
from torch import Tensor

from potstill.inference.runtime import EMBEDDING
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.first_token import first_token_only
from potstill.onnx_export.quiet import errors_only
from potstill.pretrained.heads import task_of
from potstill.training.hotpath import attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 20


class _Logits(torch.nn.Module):
    """A model with positional inputs and logits as output, as the exporter needs it."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        if KINDS[task_of(self.model)].form == "span":
            return output.start_logits, output.end_logits
        logits: Tensor = output.logits
        return logits


def input_names(*, pair: bool) -> tuple[str, ...]:
    """Return the names of the inputs, each int64 [batch, sequence]; token types only for pairs of texts."""
    return ("input_ids", "attention_mask", "token_type_ids") if pair else ("input_ids", "attention_mask")


def export_onnx(model: PreTrainedModel, path: Path, *, pair: bool) -> None:
    """Write a model in evaluation mode as fp32 ONNX with dynamic batch and sequence sizes.

    The output is `logits`, float32 [batch, classes], or [batch, sequence, tags] for token classification; for question
    answering `start_logits` and `end_logits`, each [batch, sequence]. If a linear layer computes logits [batch,
    classes], its input is a further output `sentence_embedding`, float32 [batch, hidden size].

    Args:
        model: the model.
        path: the file to write.
        pair: whether the task is about pairs of texts.
    """
    names = input_names(pair=pair)
    # Two rows of unequal length, because the tracer turns a batch of one, or a mask without padding, into constants.
    ids = torch.full((2, 6), 2, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    example = (ids, mask, torch.zeros_like(ids))[: len(names)]
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    # As plain products and a softmax, attention is the fewest nodes.
    with (
        warnings.catch_warnings(),
        errors_only("torch.onnx"),
        attention(model, "eager"),
        first_token_only(model),
        torch.no_grad(),  # the same graph, traced in a tenth less time
    ):
        warnings.simplefilter("ignore")  # deprecations inside the exporter
        torch.onnx.export(
            _Logits(model.eval(), names),
            example,
            str(path),
            input_names=list(names),
            output_names=[*KINDS[task_of(model)].outputs],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in names),),
            verbose=False,
        )
    written = onnx.load(path)
    _strip(written)
    _add_embedding(written.graph)
    onnx.save(written, path)


def gives_embedding(path: Path) -> bool:
    """Whether an exported file has the output `sentence_embedding`."""
    return any(output.name == EMBEDDING for output in onnx.load(path).graph.output)


def _strip(model: onnx.ModelProto) -> None:
    """Remove stack traces, which contain file paths, and inferred shapes, with which quantization fails."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
        value.doc_string = ""


def _add_embedding(graph: onnx.GraphProto) -> None:
    """Make the input of the last linear layer an output, which takes no further computation."""
    logits = graph.output[0]
    last = next(node for node in graph.node if logits.name in node.output)
    weights = {weight.name: weight for weight in graph.initializer}
    batch, *dimensions = logits.type.tensor_type.shape.dim
    if last.op_type != "Gemm" or last.input[1] not in weights or len(dimensions) != 1:
        return
    transposed = any(attribute.name == "transB" and attribute.i for attribute in last.attribute)
    width = weights[last.input[1]].dims[1 if transposed else 0]
    embedding = last.input[0]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [EMBEDDING if name == embedding else name for name in names]
    shape = [batch.dim_param, width]
    graph.output.append(onnx.helper.make_tensor_value_info(EMBEDDING, onnx.TensorProto.FLOAT, shape))
