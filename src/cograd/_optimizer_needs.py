"""What the step of an optimizer needs beside ``.grad``: declared, or read from its source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer


def searches(optimizer: Optimizer) -> bool:
    """Does ``step`` take no other way than its closure, as in LBFGS, and in what overrides it and calls it?"""
    steps = [vars(kind)["step"] for kind in type(optimizer).__mro__ if inspect.isfunction(vars(kind).get("step"))]
    closures = [inspect.signature(step).parameters.get("closure") for step in (optimizer.step, *steps)]
    return any([closure is not None and closure.default is inspect.Parameter.empty for closure in closures])


def needs_closure(optimizer: Optimizer) -> bool:
    """Does ``step`` evaluate the losses itself? LBFGS does, and SAM, whose closure may be left out by its signature.

    An attribute ``needs_closure`` of the optimizer decides; else its source.
    """
    declared = getattr(optimizer, "needs_closure", None)
    if declared is not None:
        return bool(declared)
    if searches(optimizer):
        return True
    source = _source(_step(optimizer)) if "closure" in _parameters(optimizer) else None
    return source is not None and _needs(source.body)


def needs_graph(optimizer: Optimizer) -> bool:
    """Does ``step`` differentiate the gradients, as AdaHessian does?

    An attribute ``needs_graph`` of the optimizer decides; else the source of its step and of the methods that it calls.
    """
    declared = getattr(optimizer, "needs_graph", None)
    kind: Any = type(optimizer)
    return any(map(_differentiates, _called(kind))) if declared is None else bool(declared)


def advice(optimizer: Optimizer, error: BaseException) -> str:
    """What to declare, if ``error`` looks as if something was missing that was not found in the source."""
    said, kind = str(error), type(optimizer).__name__
    if "closure" in _parameters(optimizer) and ("closure" in said or "'NoneType' object is not callable" in said):
        return f" If its step needs a closure, declare it: {kind}.needs_closure = True."
    if any(sign in said for sign in ("grad_fn", "create_graph", "does not require grad")):
        return f" If its step differentiates the gradients, declare it: {kind}.needs_graph = True."
    return ""


def way_out(optimizer: Optimizer) -> str:
    """What to declare if the source was misread, with a space before it; empty if nothing was read."""
    kind = type(optimizer).__name__
    if getattr(optimizer, "needs_closure", None) is None and needs_closure(optimizer) and not searches(optimizer):
        return f" (So says the source of its step. If it works without a closure: {kind}.needs_closure = False.)"
    if getattr(optimizer, "needs_graph", None) is None and needs_graph(optimizer):
        return f" (So says the source of its step. If it works without a graph: {kind}.needs_graph = False.)"
    return ""


def _step(optimizer: Optimizer) -> Any:
    return inspect.unwrap(type(optimizer).step)


def _parameters(optimizer: Optimizer) -> Any:
    return inspect.signature(optimizer.step).parameters


@cache
def _source(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """None where there is none, as for what was typed into an interpreter."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def _needs(body: Sequence[ast.stmt]) -> bool:
    """Is the closure demanded, or called where nothing has asked whether it is there?"""
    for statement in body:
        if isinstance(statement, ast.Assert) and _asks(statement.test) == "present":
            return True
        if isinstance(statement, ast.Assign) and _chooses_closure(statement):
            return False  # from here on it is there
        if isinstance(statement, ast.If | ast.While) and _mentioned(statement.test):
            asks = _asks(statement.test)
            absent = {"absent": statement.body, "present": statement.orelse}.get(asks, [])
            if any(isinstance(part, ast.Raise) for part in absent):
                return True
            if asks == "absent" and any(isinstance(part, ast.Return | ast.Assign) for part in absent):
                return False  # from here on it is there
        elif not isinstance(statement, ast.FunctionDef):
            inner = any(_needs(getattr(statement, part, [])) for part in ("body", "orelse", "finalbody"))
            if inner or any(map(_calls, _expressions(statement))):
                return True
    return False


def _chooses_closure(statement: ast.Assign) -> bool:
    """As in ``closure = closure or default``."""
    return any(map(_is_closure, statement.targets)) and isinstance(statement.value, ast.BoolOp | ast.IfExp)


def _asks(test: ast.expr) -> str:
    """Does ``test`` hold where the closure is present, or where it is absent? Empty if it asks something else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return {"present": "absent", "absent": "present"}.get(_asks(test.operand), "")
    if isinstance(test, ast.Compare) and _is_closure(test.left) and isinstance(test.comparators[0], ast.Constant):
        return {ast.IsNot: "present", ast.Is: "absent"}.get(type(test.ops[0]), "")
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "callable":
        return "present" if any(map(_is_closure, test.args)) else ""
    return "present" if _is_closure(test) else ""


def _calls(expression: ast.expr) -> bool:
    """Is the closure called in it, with nothing that asks for it around?"""
    if isinstance(expression, ast.Lambda):
        return False
    if isinstance(expression, ast.IfExp | ast.BoolOp):
        asked = expression.test if isinstance(expression, ast.IfExp) else expression.values[0]
        if _mentioned(asked):
            return False
    if isinstance(expression, ast.Call) and _is_closure(expression.func):
        return True
    return any(map(_calls, _expressions(expression)))


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif not isinstance(child, ast.stmt):  # an item of a with, a keyword of a call
            yield from _expressions(child)


def _is_closure(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "closure"


def _mentioned(node: ast.AST) -> bool:
    return any(map(_is_closure, ast.walk(node)))


@cache
def _called(kind: type) -> tuple[Callable[..., Any], ...]:
    """``step``, and the methods that it calls on itself."""
    found: dict[str, Callable[..., Any]] = {}
    wanted = ["step"]
    while wanted:
        name = wanted.pop()
        function = inspect.unwrap(getattr(kind, name, None))  # type: ignore[arg-type]
        source = _source(function) if inspect.isfunction(function) and name not in found else None
        if source is not None and inspect.isfunction(function):
            found[name] = function
            wanted += [
                node.attr
                for node in ast.walk(source)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            ]
    return tuple(found.values())


def _differentiates(function: Callable[..., Any]) -> bool:
    source = _source(function)
    names = getattr(function, "__globals__", {})
    for node in ast.walk(source) if source else ():
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr == "grad" and "autograd" in ast.unparse(called.value):
                return True
            if isinstance(called, ast.Name) and names.get(called.id) is torch.autograd.grad:
                return True
    return False
