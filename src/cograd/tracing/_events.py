"""What happened in a run: one frozen dataclass for each kind of event."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from cograd.tracing._sites import Site


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        at: its place in the order of all events.
        site: where, in the user's code.
    """

    at: int
    site: Site

    @property
    def key(self) -> Hashable:
        """What makes two events occurrences of the same thing."""
        return type(self), self.site, self.subject

    @property
    def subject(self) -> Hashable:
        """The object that it happened to."""
        return None


@dataclass(frozen=True, slots=True)
class OptimizerMade(Event):
    """An optimizer was made, or one was given more parameters."""

    optimizer: int
    kind: str
    parameters: frozenset[int]

    @property
    def subject(self) -> Hashable:
        """The site alone, so that one re-created in a loop is one thing."""
        return None


@dataclass(frozen=True, slots=True)
class Use:
    """A gradient that a step applied, or that was cleared.

    Attributes:
        backward: the ``at`` of the backward that made it.
        site: the line of that backward.
        loss: what was differentiated, in the user's words.
        parameters: those that hold it.
        again: how many steps of the same optimizer had applied it before.
        others: other optimizers that had applied gradients of this backward before, of whatever parameter.
        also: other optimizers that had applied it to these parameters before.
        read: whether the script computed something from it itself, such as its norm.
    """

    backward: int
    site: Site
    loss: str
    parameters: frozenset[int]
    again: int = 0
    others: frozenset[int] = frozenset()
    also: frozenset[int] = frozenset()
    read: bool = False


@dataclass(frozen=True, slots=True)
class Stale:
    """A backward needs the value that a parameter had before it was overwritten, by an optimizer or by hand.

    Attributes:
        parameter: which one.
        sequence: number of the operation that saved it.
        step: the line that overwrote it.
    """

    parameter: int
    sequence: int
    step: Site


@dataclass(frozen=True, slots=True)
class Backward(Event):
    """A backward pass.

    Attributes:
        loss: what was differentiated, in the user's words.
        roots: its values on the tape; empty where the tape was off.
        shape: of the loss.
        graph: whether it has one.
        leaf: whether it is a leaf.
        value: of a scalar, where reading it costs nothing.
        reached: the parameters that got a gradient.
        zero: those of them whose gradient was exactly zero.
        infinite: those of them whose gradient was not finite.
        stale: parameters that an optimizer had overwritten since they were saved.
        freed: the oldest operation whose saved tensors were gone, and the line of the backward that freed them.
        retain: whether the graph was kept.
        error: what torch raised; empty if nothing.
        steps: how many optimizer steps there had been.
        scaled: whether a GradScaler scaled the loss; None without one.
        evaluating: whether the models that got a gradient were in evaluation mode.
        ones: whether the loss had several elements, and the gradient given for each was one.
    """

    loss: str
    roots: tuple[int, ...]
    shape: tuple[int, ...]
    graph: bool
    leaf: bool
    value: float | None
    reached: frozenset[int]
    zero: frozenset[int]
    infinite: frozenset[int]
    stale: tuple[Stale, ...]
    freed: tuple[int, Site] | None
    retain: bool
    error: str
    steps: int
    scaled: bool | None = None
    evaluating: bool = False
    ones: bool = False


@dataclass(frozen=True, slots=True)
class Step(Event):
    """An optimizer stepped.

    Attributes:
        optimizer: which one.
        uses: the gradients that it applied.
        empty: parameters that require grad and had no gradient.
        frozen: parameters that do not require grad.
        unknown: parameters with a gradient of an origin that was not seen.
        infinite: parameters with a gradient that was not finite.
        closure: whether it evaluates the losses itself.
        scaler: whether a GradScaler called it.
        unscaled: whether a GradScaler has unscaled its gradients.
        drifting: frozen parameters with a gradient of zero, which weight decay or momentum move.
        since: the backward passes since its last step, as their ``at``.
    """

    optimizer: int
    uses: tuple[Use, ...]
    empty: frozenset[int]
    frozen: frozenset[int]
    unknown: frozenset[int]
    infinite: frozenset[int]
    closure: bool
    scaler: bool
    since: tuple[int, ...]
    unscaled: bool = False
    drifting: frozenset[int] = frozenset()

    @property
    def subject(self) -> Hashable:
        """The optimizer."""
        return self.optimizer


@dataclass(frozen=True, slots=True)
class Cleared(Event):
    """Gradients were cleared by ``zero_grad``.

    Attributes:
        owner: the optimizer, or None for a module.
        parameters: whose gradients.
        dropped: gradients that no step had applied.
        moved: whether the script wrote the parameters itself since their last backward.
    """

    owner: int | None
    parameters: frozenset[int]
    dropped: tuple[Use, ...]
    moved: bool = False

    @property
    def subject(self) -> Hashable:
        """The optimizer, or None for a module."""
        return self.owner


@dataclass(frozen=True, slots=True)
class Clipped(Event):
    """Gradients were clipped.

    Attributes:
        parameters: those that were given.
        applied: whether a step had applied all of these gradients already.
        step: the line of that step.
    """

    parameters: frozenset[int]
    applied: bool
    step: Site | None


@dataclass(frozen=True, slots=True)
class Copied(Event):
    """``copy.deepcopy`` made parameters from parameters: pairs of original and copy."""

    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Replaced(Event):
    """A module's parameters took the place of others: under this name, the old ones and the new."""

    name: str
    old: frozenset[int]
    new: frozenset[int]


@dataclass(frozen=True, slots=True)
class MadeLeaf(Event):
    """``requires_grad`` was switched on for a tensor that was computed.

    Attributes:
        value: the tensor on the tape, or None.
        scalar: whether it has one element.
    """

    value: int | None
    scalar: bool


@dataclass(frozen=True, slots=True)
class Normalised(Event):
    """A model ran in training mode, and its batch normalisation updated its statistics.

    Attributes:
        name: what the script calls the model.
        parameters: of the model.
        frozen: whether none of them requires grad.
        grad_mode: whether gradients were switched on.
        steps: how many optimizer steps there had been.
    """

    name: str
    parameters: frozenset[int]
    frozen: bool
    grad_mode: bool
    steps: int


@dataclass(frozen=True, slots=True)
class Flagged(Event):
    """``requires_grad`` of parameters was switched."""

    parameters: frozenset[int]
    on: bool


@dataclass(frozen=True, slots=True)
class Aliased(Event):
    """A module that has parameters became the child of one parent under a second name."""

    parameters: frozenset[int]


@dataclass(frozen=True, slots=True)
class Held(Event):
    """A container of the script holds tensors with graphs of earlier iterations, at a step.

    Attributes:
        name: of the container.
        count: how many such tensors.
    """

    name: str
    count: int

    @property
    def subject(self) -> Hashable:
        """The name of the container."""
        return self.name


@dataclass(frozen=True, slots=True)
class Addend:
    """A loss, or one of the addends of a loss.

    Attributes:
        backward: the ``at`` of the backward that differentiated it.
        site: the line of that backward.
        loss: what was differentiated there, in the user's words.
        values: its values on the tape; empty for a whole loss.
        reached: the parameters that it gave a gradient to.
    """

    backward: int
    site: Site
    loss: str
    values: tuple[int, ...]
    reached: frozenset[int]


@dataclass(frozen=True, slots=True)
class Pulled(Event):
    """How strongly the losses between two optimizer steps pulled, in the first iterations.

    Attributes:
        addends: the losses, or their addends.
        inner: parameter -> the inner products of the gradients of the addends.
    """

    addends: tuple[Addend, ...]
    inner: Mapping[int, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Timed(Event):
    """What it would save to differentiate a loss only for the gradients that are used, measured in turn.

    Attributes:
        seconds: pairs, as it is and as it could be, of one graph.
    """

    seconds: tuple[tuple[float, float], ...]
