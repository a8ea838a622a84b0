"""Watch plain code: what each backward call gives to each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from cograd._models import check_models
from cograd.errors import LossError
from cograd.explanation._assemble import Seen, assembled
from cograd.explanation._explanation import Explanation
from cograd.tracing import Backward, Cut, Event, Recorder, Site, cuts, lost, reached, recording


@dataclass(slots=True)
class _Loss:
    """A line with a backward call: what its last run gave, how often it ran, and its values on the tape."""

    name: str
    times: int = 0
    rows: dict[int, Tensor] = field(default_factory=dict)
    trainable: frozenset[int] = frozenset()
    roots: tuple[int, ...] = ()


class _Watch:
    """A recorder, and the last gradient of each backward call."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.recorder = Recorder()
        self.recorder.backwards.starting = self._starting
        self.recorder.journal.on_event = self._happened
        self.losses: dict[Site, _Loss] = {}
        self._parameters = parameters
        self._arrived: dict[int, Tensor] = {}
        self._nodes: dict[int, Any] = {}  # keeps the accumulators, and so the hooks on them, alive
        self._hooks = ExitStack()

    def _starting(self, _site: Site, _roots: tuple[Tensor, ...], _plain: bool) -> None:
        self._arrived = {}
        for p in self._parameters:
            if p.requires_grad and id(p) not in self._nodes:
                self._listen(p)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Backward) and not event.error:
            loss = self.losses.setdefault(event.site, _Loss(event.loss))
            loss.times += 1
            loss.rows, self._arrived = self._arrived, {}
            loss.trainable = frozenset(id(p) for p in self._parameters if p.requires_grad)
            loss.roots = loss.roots or event.roots

    def silence(self) -> None:
        """Listen to no gradient any longer."""
        self._hooks.close()
        self._nodes.clear()

    def _listen(self, parameter: Tensor) -> None:
        def arrive(gradients: tuple[Tensor | None, ...]) -> None:
            if gradients[0] is not None:
                new, old = gradients[0].detach(), self._arrived.get(id(parameter))
                self._arrived[id(parameter)] = new.clone() if old is None else old + new

        node = self._nodes[id(parameter)] = torch.autograd.graph.get_gradient_edge(parameter).node
        self._hooks.callback(node.register_prehook(arrive).remove)


class Recording:
    """What happens inside ``with cograd.record(models=...) as log:``. Ask :meth:`explain`, inside or afterwards."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        check_models(models)
        self._models = {name: list(model.parameters()) for name, model in models.items()}
        self._watch = _Watch([p for own in self._models.values() for p in own])
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._stack.callback(self._watch.silence)
        self._stack.enter_context(recording(self._watch.recorder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no longer."""
        self._stack.close()

    def explain(self) -> Explanation:
        """Which backward reached which model, by how much, and where a gradient was cut.

        A backward that ran several times is shown as it ran last; cuts are found in its first runs.

        Raises:
            LossError: there was no backward call.
        """
        losses = self._named()
        if not losses:
            raise LossError("Nothing was differentiated: there was no backward() inside record().")
        trained = frozenset(i for loss in losses.values() for i in loss.trainable)
        models = {name: own for name, ps in self._models.items() if (own := [p for p in ps if id(p) in trained])}
        journal = self._watch.recorder.journal
        values, numbers = journal.tape.values, journal.numbers
        number_of = {id(p): n for own in models.values() for p in own if (n := numbers.get(p)) is not None}
        used: dict[str, frozenset[int]] = {}
        for name, loss in losses.items():
            found = {n for root in loss.roots for n in reached(values, root, differentiable=False)}
            used[name] = frozenset(i for i, n in number_of.items() if n in found and i in loss.trainable)

        def cut(name: str, wanted: Sequence[Tensor]) -> list[Cut]:
            own = frozenset(number_of[id(p)] for p in wanted if id(p) in number_of)
            return [c for root in losses[name].roots for c in cuts(values, root, own)] or lost(values, own)

        again = ", each line's last backward" if max(loss.times for loss in losses.values()) > 1 else ""
        title = f"recorded: {_count(len(losses), 'loss', 'es')}, {_count(journal.steps, 'optimizer step', 's')}{again}"
        frozen = [name for name in self._models if name not in models]
        rows = {name: loss.rows for name, loss in losses.items()}
        notes = [f"the recording itself failed: {failure}" for failure in journal.log.failures]
        return Explanation((assembled(Seen(title, models, frozen, rows, used, cut, notes=notes)),))

    def _named(self) -> dict[str, _Loss]:
        """The losses by name; with the line where several lines differentiate something of that name."""
        several = Counter(loss.name for loss in self._watch.losses.values())
        return {
            f"{loss.name}:{site.line}" if several[loss.name] > 1 else loss.name: loss
            for site, loss in self._watch.losses.items()
        }


def _count(n: int, thing: str, plural: str) -> str:
    return f"{n} {thing}{'' if n == 1 else plural}"
