"""A user's condition on metrics, such as `val_accuracy < 0.5`: parsed by a whitelist, so that it can do nothing
else.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from types import CodeType

FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "isnan": math.isnan,
    "isfinite": math.isfinite,
}
ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Add, ast.Sub,
    ast.Mult, ast.Div, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.Call, ast.Name, ast.Load,
    ast.Constant,
)  # fmt: skip
LONGEST = 500


class Expression:
    """A condition; `names` are the metrics that it reads. Names with `/ . -` in them stand in quotes: `"val/acc" <
    0.5`.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError, one line, when it is none."""
        if len(text) > LONGEST:
            raise ValueError(f"an expression has at most {LONGEST} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no expression such as `val_accuracy < 0.5`: {error}") from None
        self.text = text
        self.names: list[str] = []
        tree = ast.fix_missing_locations(ast.Expression(_Names(self.names).expression(tree.body)))
        if not isinstance(tree.body, (ast.Compare, ast.BoolOp, ast.Call, ast.UnaryOp)):
            raise ValueError(f"{text!r} compares nothing; write for example `val_accuracy < 0.5`")
        if not self.names:
            raise ValueError(f"{text!r} names no metric")
        self._code: CodeType = compile(tree, "<expression>", "eval")

    def holds(self, values: Mapping[str, float]) -> bool:
        """Tell whether it holds for these values by metric name; arithmetic that fails (a division by 0) does not."""
        cells = {f"_{i}": values[name] for i, name in enumerate(self.names)}
        try:
            return bool(eval(self._code, {"__builtins__": {}, **FUNCTIONS}, cells))
        except (ArithmeticError, ValueError):
            return False


class _Names(ast.NodeTransformer):
    """Checks every node, and replaces metric names by numbered cells."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ALLOWED):
            raise ValueError(f"{type(node).__name__} may not stand in an expression")
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
                raise ValueError(f"known functions are {', '.join(FUNCTIONS)}")
            node.args = [self.expression(part) for part in node.args]
            return node
        if isinstance(node, ast.Name):
            return self._cell(node.id)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self._cell(node.value)
            if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
                raise ValueError(f"{node.value!r} is no number")
            return node
        return self.generic_visit(node)

    def expression(self, node: ast.expr) -> ast.expr:
        found = self.visit(node)
        assert isinstance(found, ast.expr)
        return found

    def _cell(self, name: str) -> ast.Name:
        if name not in self._names:
            self._names.append(name)
        return ast.Name(f"_{self._names.index(name)}", ast.Load())
