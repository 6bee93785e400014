"""Expressions on columns that params may hold: comparisons, arithmetic and logic, and nothing that calls."""

from __future__ import annotations

import ast

# Everything else is refused: calls, attributes, subscripts, lambdas, powers.
_ALLOWED = (
    ast.Expression, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In,
    ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip
_MAX_CHARACTERS = 1000


def expression_names(expression: str) -> list[str]:
    """List the columns that an expression names, such as `length < 40 and source in ["books", "films"]`.

    Raises:
        ValueError: it is no expression of columns, numbers, texts, comparisons, + - * / %, and, or, not, in.
    """
    if len(expression) > _MAX_CHARACTERS:
        raise ValueError(f"an expression has at most {_MAX_CHARACTERS} characters, not {len(expression)}")
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} is no expression: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED) or (
            isinstance(node, ast.Constant) and type(node.value) not in (str, int, float)
        ):
            raise ValueError(
                f"{expression!r} holds {type(node).__name__}; an expression compares columns with numbers and texts "
                'and joins comparisons by and, or, not: `length < 40 and label == "negative"`'
            )
        if isinstance(node, ast.Compare) and any(
            isinstance(sign, ast.In | ast.NotIn) and not isinstance(values, ast.List | ast.Tuple)
            for sign, values in zip(node.ops, node.comparators, strict=True)
        ):
            raise ValueError(f"{expression!r}: write a list in brackets after `in`")
    if not isinstance(tree.body, ast.Compare | ast.BoolOp | ast.UnaryOp) or isinstance(
        getattr(tree.body, "op", None), ast.USub
    ):
        raise ValueError(f"{expression!r} is neither true nor false; compare something")
    names = list(dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)))
    if not names:
        raise ValueError(f"{expression!r} names no column")
    return names
