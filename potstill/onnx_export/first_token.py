"""Computes the first token alone where a head reads no other.

A classifier reads the state of the first token after the last layer. Of that layer it needs the keys and values of
every token, but one query, and so the attention, its projection and the feed-forward network for one token. The
exported graph computes them for all tokens and then selects the first. Most operations treat tokens alike: selected
before them, the token has the same state after them. So the selection moves up to where other tokens are read as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnxscript import ir

# For each input of a node, the axis along which it gives an axis of the output; None: it is read whole.
Axes = list[int | None]


def select_first_token_early(graph: ir.Graph) -> None:
    """Move the selection of the first token before every operation whose results for other tokens nothing reads.

    The graph is changed in place. It stays as it is if its head reads all tokens.

    Args:
        graph: an exported model, in topological order, with the shapes of its values.
    """
    selections = _Selections(graph)
    # From the end, because the readers of a value decide whether it is needed whole.
    for node in reversed(tuple(graph)):
        if _selects_first_token(node):
            selections.insert_before(node, [_axis(node), None])
        else:
            selections.move_before(node)


class _Selections:
    """The nodes that select the first item along an axis, which stays as an axis of size 1."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._nodes: dict[tuple[ir.Value, int], ir.Node] = {}

    def insert_before(self, node: ir.Node, axes: Axes) -> None:
        """Let a node read the first item along an axis of each input instead of the whole."""
        for position, (value, axis) in enumerate(zip(node.inputs, axes, strict=True)):
            if value is not None and axis is not None:
                node.replace_input_with(position, self._selected(value, axis))

    def move_before(self, node: ir.Node) -> None:
        """Move the selections of a node's outputs before the node, if nothing else reads the outputs."""
        readers = [self._only_reader(output) for output in node.outputs]
        selections = [reader for reader in readers if reader is not None]
        if len(selections) < len(readers) or len({_axis(selection) for selection in selections}) > 1:
            return
        axis = _axis(selections[0])
        axes = _axes_before(node, axis)
        if axes is None:
            return
        self.insert_before(node, axes)
        if node.op_type == "Reshape":
            self._narrow_shape(node, axis)
        for output, selection in zip(node.outputs, selections, strict=True):
            ir.convenience.replace_all_uses_with(selection.outputs[0], output)
            self._graph.remove(selection, safe=True)

    def _selected(self, value: ir.Value, axis: int) -> ir.Value:
        if (value, axis) not in self._nodes:
            producer = value.producer()
            assert producer is not None  # weights and inputs of the graph are never selected from
            node = ir.node("Gather", [value, self._constant("first_item", [0])], {"axis": axis})
            node.name = node.outputs[0].name = f"{value.name}_first_{axis}"
            self._graph.insert_after(producer, node)
            self._nodes[value, axis] = node
        return self._nodes[value, axis].outputs[0]

    def _only_reader(self, value: ir.Value) -> ir.Node | None:
        """Return the selection that is the only reader of a value."""
        readers = value.consumers()
        if len(readers) != 1 or value.is_graph_output():
            return None
        return readers[0] if readers[0] is self._nodes.get((value, _axis(readers[0]))) else None

    def _narrow_shape(self, node: ir.Node, axis: int) -> None:
        """Let a Reshape give as many items along an axis as its input has, which 0 stands for."""
        sizes = [0] * (axis + 1) + [size for size in _sizes(node.outputs[0])[axis + 1 :] if isinstance(size, int)]
        node.replace_input_with(1, self._constant(f"{node.outputs[0].name}_shape", sizes))
        node.attributes.pop("allowzero", None)

    def _constant(self, name: str, numbers: list[int]) -> ir.Value:
        if name not in self._graph.initializers:
            self._graph.initializers[name] = ir.Value(
                name=name,
                shape=ir.Shape([len(numbers)]),
                type=ir.TensorType(ir.DataType.INT64),
                const_value=ir.tensor(np.array(numbers, dtype=np.int64), name=name),
            )
        return self._graph.initializers[name]


def _selects_first_token(node: ir.Node) -> bool:
    """Whether a node takes the first item along an axis of no fixed size, and removes that axis."""
    if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    value, index = node.inputs[0], ir.convenience.get_const_tensor(node.inputs[1])
    if value.producer() is None or value.shape is None or index is None or len(index.shape) > 0:
        return False
    return index.numpy().item() == 0 and not isinstance(value.shape[_axis(node)], int)


def _axes_before(node: ir.Node, axis: int) -> Axes | None:
    """Find for each input the axis that gives an axis of the outputs; None if there is no such axis, or none known."""
    known = all(value is None or value.shape is not None for value in [*node.inputs, *node.outputs])
    rule = None if node.domain or not known else _RULES.get(node.op_type)
    axes = None if rule is None else rule(node, axis)
    if axes is None:
        return None
    selected = [value for value, before in zip(node.inputs, axes, strict=True) if before is not None]
    return axes if all(value is not None and value.producer() is not None for value in selected) else None


def _axis(node: ir.Node, default: int = 0) -> int:
    """Return the axis of a node, counted from the first."""
    axis = node.attributes.get_int("axis", default)
    return axis if axis >= 0 else axis + len(_sizes(node.inputs[0]))


def _sizes(value: ir.Value | None) -> list[int | str | None]:
    """Return the sizes of a value's axes: a name stands for the same number everywhere, None for any."""
    assert value is not None
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]


def _of_numbers(node: ir.Node, axis: int) -> Axes | None:
    """Operations on single numbers, whose inputs are broadcast."""
    output = _sizes(node.outputs[0])
    from_end = axis - len(output)
    axes: Axes = []
    for value in node.inputs:
        sizes = _sizes(value)
        size = sizes[from_end] if len(sizes) + from_end >= 0 else 1
        if size is None or size not in (1, output[axis]):
            return None
        axes.append(None if size == 1 else len(sizes) + from_end)
    return axes


def _of_rows(node: ir.Node, axis: int) -> Axes | None:
    """Operations along the node's own axis, or along it and all that follow."""
    return [axis] + [None] * (len(node.inputs) - 1) if axis < _axis(node, -1) else None


def _product(node: ir.Node, axis: int) -> Axes | None:
    """Rows of a product are rows of the left matrix."""
    rank = len(_sizes(node.inputs[0]))
    return [rank - 2, None] if rank > 1 and axis == len(_sizes(node.outputs[0])) - 2 else None


def _transposition(node: ir.Node, axis: int) -> Axes | None:
    permutation = node.attributes.get_ints("perm")
    return None if permutation is None else [permutation[axis]]


def _reshaping(node: ir.Node, axis: int) -> Axes | None:
    """An axis stays what it is if all up to it keep their sizes."""
    before, after = _sizes(node.inputs[0])[: axis + 1], _sizes(node.outputs[0])
    kept = before == after[: axis + 1] and None not in before
    return [axis, None] if kept and all(isinstance(size, int) for size in after[axis + 1 :]) else None


_RULES: dict[str, Callable[[ir.Node, int], Axes | None]] = {
    "Add": _of_numbers,
    "Cast": _of_numbers,
    "Div": _of_numbers,
    "Erf": _of_numbers,
    "Gelu": _of_numbers,
    "IsNaN": _of_numbers,
    "Mul": _of_numbers,
    "Relu": _of_numbers,
    "Sigmoid": _of_numbers,
    "Sub": _of_numbers,
    "Tanh": _of_numbers,
    "Where": _of_numbers,
    "LayerNormalization": _of_rows,
    "Softmax": _of_rows,
    "Split": _of_rows,
    "MatMul": _product,
    "Reshape": _reshaping,
    "Transpose": _transposition,
}
