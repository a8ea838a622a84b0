"""Plan the fewest backward passes that give exactly the declared gradients of this step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from cograd._cover import bits, fewest
from cograd._graph import Path, Walk, leads, walk
from cograd.errors import PassError, RouteError, UnreachedError, quoted

_KNOWN = 1024  # combinations of losses that a planner remembers
_OBSTACLES = 32  # with more obstacles than that, none is left out of a proof


@dataclass(frozen=True, slots=True)
class Pass:
    """One backward pass: from these losses to the parameters of these models.

    Attributes:
        losses: names of the losses that are differentiated together.
        models: names of the models whose parameters receive the gradient.
        retain: whether a later pass may run some of the same operations, so that they must be kept.
        ends: the losses that no later pass needs.

    >>> print(Pass(losses=("disc", "penalty"), models=("disc",)))
    disc + penalty -> disc
    """

    losses: tuple[str, ...]
    models: tuple[str, ...]
    retain: bool = False
    ends: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{' + '.join(self.losses)} -> {', '.join(self.models)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The backward passes of one simultaneous update, and why there are that many.

    Attributes:
        passes: in the order in which they run.
        why: one sentence for people.
        idle: losses that reach none of the models.
        whole: the single pass may write to every leaf of the graph, so autograd needs no list of
            parameters.
        rule: the rule that weighs gradients, if there is one: the passes are then taken loss by
            loss where losses share parameters.

    >>> print(Plan((Pass(("a", "b"), ("net",)),), "every loss trains every model that it reaches"))
    1 backward pass: every loss trains every model that it reaches
      1. a + b -> net
    """

    passes: tuple[Pass, ...]
    why: str
    idle: tuple[str, ...] = ()
    whole: bool = field(default=False, repr=False)
    rule: str | None = None

    def __str__(self) -> str:
        if self.rule:
            losses = dict.fromkeys(name for p in self.passes for name in p.losses)
            models = dict.fromkeys(name for p in self.passes for name in p.models)
            where = f" of {', '.join(models)}" if models else ""
            return f"{self.rule} weighs the gradients of {', '.join(losses)} in what they share{where}"
        count = f"{len(self.passes)} backward pass" + ("" if len(self.passes) == 1 else "es")
        return "\n".join([f"{count}: {self.why}", *(f"  {i}. {p}" for i, p in enumerate(self.passes, 1))])


@dataclass(frozen=True, slots=True)
class _Proof:
    """A plan that is right for every graph, with paths that show what makes it the shortest, and complete, for one."""

    plan: Plan
    facts: tuple[tuple[str, Path, int], ...]  # this loss reaches this group that way


class Planner:
    """Plans for one set of models that are updated at once.

    A pass of losses C to models I is legal iff no loss of C reaches a model of I that it must not
    train. The graph of this very step decides, so that a dynamic graph is never misrouted: it is
    walked, or, where the passes are right whatever the graph is, a few paths show that fewer would
    be wrong and that no declared gradient is missing. Where every loss trains every model, there is
    nothing to show, and only the first graph is walked.

    Args:
        models: name -> trainable parameters.
        trains: loss -> the models that it trains; a loss without an entry trains all that it reaches.
        aside: other parameters that may be in the graph, and get no gradient.
    """

    def __init__(
        self,
        models: Mapping[str, Sequence[Tensor]],
        trains: Mapping[str, Sequence[str]],
        aside: Iterable[Tensor] = (),
    ) -> None:
        self.parameters = models
        self._aside = {id(p) for p in aside}
        self.models = tuple(models)
        self.trains = trains
        self.group_of = {id(p): i for i, name in enumerate(self.models) for p in models[name]}
        self._all = (1 << len(self.models)) - 1
        self._plans: dict[tuple[tuple[str, ...], tuple[int, ...]], Plan] = {}  # by what each loss reaches
        self._proofs: dict[tuple[str, ...], _Proof] = {}

    def plan(self, losses: Mapping[str, Tensor]) -> Plan:
        """The passes for ``losses``, which all require grad.

        A loss that reaches none of the models, and is not declared to, is idle.

        Raises:
            UnreachedError: a loss reaches no parameter of a model that it is declared to train.
            RouteError: a loss reaches a trainable ``nn.Parameter`` that belongs to no model.
            PassError: the graph cannot be differentiated in the passes that are needed.
        """
        names = tuple(losses)
        proof = self._proofs.get(names)
        if proof and all([leads(losses[k], path, m, self.group_of) for k, path, m in proof.facts]):
            return proof.plan

        found = walk(list(losses.values()), self.group_of)
        reach = tuple([found.reach(k) for k in range(len(names))])
        if plan := self._plans.get((names, reach)):
            return plan
        routes = [self.route(name) for name in names]
        self._check(names, routes, reach, found)
        plan = self._passes(names, routes, reach, found)
        if len(self._plans) >= _KNOWN:  # at least one for each combination of present losses
            self._plans.clear()
            self._proofs.clear()
        if not _compiled(found):
            self._plans[names, reach] = _retained(plan)
        if not plan.idle and (proof := self._proof(names, routes, reach, plan, found)):
            self._proofs[names] = proof
        return plan

    def route(self, loss: str) -> int:
        """The models that ``loss`` trains, as a bit mask."""
        if loss not in self.trains:
            return self._all
        return sum(1 << i for i, model in enumerate(self.models) if model in self.trains[loss])

    def _passes(self, names: Sequence[str], routes: Sequence[int], reach: Sequence[int], found: Walk) -> Plan:
        wanted = tuple(a & b for a, b in zip(reach, routes, strict=True))
        forbidden = tuple(a & ~b for a, b in zip(reach, routes, strict=True))
        rectangles = fewest(wanted, forbidden)
        passes = []
        for i, (losses, models) in enumerate(rectangles):
            later = {node for c, m in rectangles[i + 1 :] for node in found.executed(bits(c), m)}
            ends = losses & ~reduce(or_, (c for c, _ in rectangles[i + 1 :]), 0)
            passes.append(
                Pass(
                    losses=tuple(names[k] for k in bits(losses)),
                    models=tuple(self.models[m] for m in bits(models)),
                    retain=bool(later) and any(node in later for node in found.executed(bits(losses), models)),
                    ends=tuple(names[k] for k in bits(ends)),
                )
            )
        if any(p.retain for p in passes):
            _check_retainable(found)
        stops = [
            f"{names[k]} reaches {', '.join(self.models[m] for m in bits(models))} without training it"
            for k, models in enumerate(forbidden)
            if models
        ]
        why = "; ".join(stops) if stops else "every loss trains every model that it reaches"
        idle = tuple(name for name, cells in zip(names, wanted, strict=True) if not cells)
        return Plan(tuple(passes), why, idle, whole=len(passes) == 1 and not stops and not self._aside)

    def _proof(
        self, names: tuple[str, ...], routes: Sequence[int], reach: Sequence[int], plan: Plan, found: Walk
    ) -> _Proof | None:
        """What a later graph must share with this one for ``plan`` to be as good; None if it may be wrong anyway."""
        if all(route == self._all for route in routes):
            plan = replace(plan, passes=(Pass(names, self.models, ends=names),))
            cells = []
        elif self._right_for_any_graph(names, plan) and not _compiled(found):
            cells = _obstacles(routes, reach, len(plan.passes), found)
            plan = replace(_retained(plan), whole=False)  # another graph may reach what it must not train
        else:
            return None
        # A model that gets no gradient at all is noticed later. One of several losses may be cut off unnoticed.
        wanted = [a & b for a, b in zip(reach, routes, strict=True)]
        several = [sum(models >> m & 1 for models in wanted) > 1 for m in range(len(self.models))]
        declared = [
            (k, m) for k, name in enumerate(names) if name in self.trains for m in bits(routes[k]) if several[m]
        ]
        facts = tuple((names[k], found.path(k, m), m) for k, m in cells + declared)
        shorter = sum(len(path) for _, path, _ in facts) < len(found.groups)  # than another walk
        return _Proof(plan, facts) if shorter else None

    def _right_for_any_graph(self, names: Sequence[str], plan: Plan) -> bool:
        """Does ``plan`` hold every declared cell exactly once, reached in this graph or not, and no other?"""
        cells = Counter((k, m) for p in plan.passes for k in p.losses for m in p.models)
        return cells == Counter((k, m) for k in names for m in self.models if m in self.trains.get(k, self.models))

    def _check(self, names: Sequence[str], routes: Sequence[int], reach: Sequence[int], found: Walk) -> None:
        for node in found.custom():
            if type(node).__name__ == "CheckpointFunctionBackward":
                raise PassError(
                    "The graph holds a reentrant activation checkpoint, which hides the parameters inside it. "
                    "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
                )
        for k, name in enumerate(names):
            missing = routes[k] & ~reach[k] if name in self.trains else 0
            if missing:
                raise unreached(name, [self.models[m] for m in bits(missing)])
        for leaf in found.strays(self.group_of.keys() | self._aside):
            raise RouteError(
                f"A loss ({quoted(names)}) reaches a trainable parameter of shape {tuple(leaf.shape)} that belongs to "
                f"none of the models {quoted(self.models)}, so nothing would train it. Name the module that owns it "
                "as a model too, or freeze it with requires_grad_(False). One that hangs on a module whose parts are "
                "models, such as net.logit_scale, is a model as nn.ParameterList([net.logit_scale])."
            )


def unreached(loss: str, models: Sequence[str]) -> UnreachedError:
    """The error for a loss that reaches no parameter of ``models``."""
    return UnreachedError(
        f"loss {loss!r} is declared to train {quoted(models)}, but no gradient flows from it to any parameter there. "
        "If that is meant, take the model out of trains.",
        [loss],
        models,
        "Else look for what cuts the way from the model's output to the loss: detach(), .data, no_grad, .item(), "
        "numpy, argmax, a tensor built anew.",
    )


def _obstacles(routes: Sequence[int], reach: Sequence[int], passes: int, found: Walk) -> list[tuple[int, int]]:
    """Forbidden cells near the losses, as few as rule out fewer ``passes``."""
    cells = [(k, m) for k, route in enumerate(routes) for m in bits(reach[k] & ~route)]
    if len(cells) > _OBSTACLES:
        return cells
    wanted = tuple(a & b for a, b in zip(reach, routes, strict=True))
    for cell in sorted(cells, key=lambda cell: -len(found.path(*cell))):
        fewer = [other for other in cells if other != cell]
        forbidden = [sum(1 << m for j, m in fewer if j == k) for k in range(len(routes))]
        if len(fewest(wanted, tuple(forbidden))) == passes:
            cells = fewer
    return cells


def _retained(plan: Plan) -> Plan:
    """``plan`` for other graphs, in which any pass may have operations in common with a later one."""
    *earlier, last = plan.passes or (None,)
    return replace(plan, passes=(*(replace(p, retain=True) for p in earlier), last)) if last else plan


def _compiled(found: Walk) -> bool:
    return any(type(node).__name__ == "CompiledFunctionBackward" for node in found.custom())


def _check_retainable(found: Walk) -> None:
    if _compiled(found) and getattr(torch._functorch.config, "donated_buffer", False):
        raise PassError(
            "These routes need several backward passes through a compiled module, but torch.compile lets a backward "
            "pass overwrite what it saved. Before the first call of the compiled module, import "
            "torch._functorch.config and set torch._functorch.config.donated_buffer = False; or put the losses into "
            "phases of their own."
        )
