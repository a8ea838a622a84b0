"""What one step did: tensors until they are read, so that a step forces no synchronisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from cograd._plan import Plan
from cograd.gramian import Gramian


@dataclass(frozen=True, slots=True)
class Report:
    """The losses and weights of one simultaneous update. All tensors are detached scalars.

    Attributes:
        losses: name -> raw loss.
        weights: name -> the factor that its gradient was multiplied by; under a rule that looks at
            gradients, on what it shares with other losses (elsewhere it has its fixed factor).
        plan: the backward passes that ran.
        models: the models that were updated.
        stepped: the optimizers that stepped.
        skipped: models whose turn it was, but of whose losses none was present.
        without_grad: models -> names of trainable parameters that received no gradient.
        held: models -> micro-batches that they have gathered for their next update.
        overflowed: optimizers for which a float16 gradient overflowed, so that an update was skipped.
        grad_norms: model -> 2-norm of its gradient before clipping; empty unless asked for.
        gramian: norms, cosines and conflicts of the losses' gradients, where they were computed.
        metrics: name -> what was only to be logged (``cograd.Metric``).
        counts: loss -> over how many samples it is the mean, where that was said (``cograd.Mean``).
        deferred: models whose gradient was left for their next update.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> report = cograd.backward({"square": x**2, "self": 1 * x}, weights={"square": 0.5})
    >>> print(report)
    square 9  self 3
    >>> report.weights["square"], report.weighted["square"]
    (0.5, tensor(4.5000))
    """

    losses: Mapping[str, Tensor]
    weights: Mapping[str, Tensor | float]
    plan: Plan
    models: tuple[str, ...] = ()
    stepped: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    without_grad: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    overflowed: tuple[str, ...] = ()
    grad_norms: Mapping[str, Tensor] = field(default_factory=dict)
    gramian: Gramian | None = None
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    deferred: tuple[str, ...] = ()

    @property
    def weighted(self) -> dict[str, Tensor]:
        """Name -> weight x loss, in float32 (or float64, if the loss is)."""
        return {k: weighted(loss, self.weights[k]) for k, loss in self.losses.items()}

    def __str__(self) -> str:
        return "  ".join(f"{name} {loss.item():.4g}" for name, loss in self.losses.items())


@dataclass(frozen=True, slots=True)
class StepReport:
    """The reports of the phases of one step, in the order in which they ran, and their union.

    Where two phases evaluated the same loss, the union holds the later value.

    >>> net = nn.Linear(2, 1)
    >>> joint = cograd.Joint(
    ...     models={"net": net},
    ...     losses=lambda m, x: {"size": m.net(x).square().mean()},
    ...     optimizers=torch.optim.SGD,
    ...     phases=cograd.Phase("net", repeat=2),
    ... )
    >>> report = joint.step(torch.ones(4, 2))
    >>> len(report.phases), report.losses["size"] < report.phases[0].losses["size"]
    (2, tensor(True))
    """

    phases: Sequence[Report] = field(default_factory=tuple)

    @property
    def losses(self) -> dict[str, Tensor]:
        """Name -> raw loss."""
        return {k: v for phase in self.phases for k, v in phase.losses.items()}

    @property
    def weighted(self) -> dict[str, Tensor]:
        """Name -> weight x loss."""
        return {k: v for phase in self.phases for k, v in phase.weighted.items()}

    @property
    def weights(self) -> dict[str, Tensor | float]:
        """Name -> the factor that its gradient was multiplied by."""
        return {k: v for phase in self.phases for k, v in phase.weights.items()}

    @property
    def grad_norms(self) -> dict[str, Tensor]:
        """Model -> 2-norm of its gradient."""
        return {k: v for phase in self.phases for k, v in phase.grad_norms.items()}

    @property
    def metrics(self) -> dict[str, Tensor | float]:
        """Name -> what was only to be logged."""
        return {k: v for phase in self.phases for k, v in phase.metrics.items()}

    @property
    def counts(self) -> dict[str, float]:
        """Loss -> over how many samples it is the mean, where that was said."""
        return {k: v for phase in self.phases for k, v in phase.counts.items()}

    @property
    def gramian(self) -> Gramian | None:
        """Norms, cosines and conflicts of the losses' gradients, in the last phase that has them."""
        return next((phase.gramian for phase in reversed(self.phases) if phase.gramian), None)

    @property
    def without_grad(self) -> dict[str, tuple[str, ...]]:
        """Model -> names of trainable parameters that received no gradient."""
        return {k: v for phase in self.phases for k, v in phase.without_grad.items()}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Models whose turn it was, but of whose losses none was present."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.skipped))

    @property
    def held(self) -> dict[str, int]:
        """Model -> micro-batches that it has gathered for its next update."""
        return {k: v for phase in self.phases for k, v in phase.held.items()}

    @property
    def deferred(self) -> tuple[str, ...]:
        """Models whose gradient was left for their next update."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.deferred))

    @property
    def overflowed(self) -> tuple[str, ...]:
        """Optimizers for which a float16 gradient overflowed, so that an update was skipped."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.overflowed))

    def __str__(self) -> str:
        return "  ".join(f"{name} {loss.item():.4g}" for name, loss in self.losses.items())


def weighted(loss: Tensor, weight: Tensor | float) -> Tensor:
    """``weight * loss`` in at least float32: a bfloat16 loss times 0.7 would not be 0.7 of it."""
    return weight * (loss if loss.element_size() >= 4 else loss.float())
