"""Records what a training script does with gradients, for as long as it is entered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cograd.tracing import _events as events
from cograd.tracing import _log as log
from cograd.tracing._backwards import Backwards
from cograd.tracing._calls import caller
from cograd.tracing._containers import put
from cograd.tracing._journal import Journal
from cograd.tracing._log import Log
from cograd.tracing._pulls import Pulls
from cograd.tracing._setup import Setup
from cograd.tracing._sites import NOWHERE, Site, here, of_traceback
from cograd.tracing._steps import Steps
from cograd.tracing._timings import Timings

_TAPED = 4  # steps of an optimizer, and occurrences of a backward, for which operations are recorded


class Recorder:
    """A recording. What happens is reported to its parts by hooks.

    Args:
        timed: whether to measure what gradients cost that no step applies.

    Attributes:
        journal: what the parts share.
        backwards: the backward passes.
        steps: the optimizers.
        setup: how the models are put together.
        on_step: called after each optimizer step with their number.
    """

    def __init__(self, *, timed: bool = False) -> None:
        self.journal = Journal()
        self.backwards = Backwards(self.journal)
        self.steps = Steps(self.journal, self.backwards)
        self.setup = Setup(self.journal)
        self.on_step: Callable[[int], None] | None = None
        self.backwards.new_line = self._want_tape
        self._beside: list[Pulls | Timings] = [Pulls(self.journal), *([Timings(self.journal)] if timed else [])]
        self.backwards.starting, self.journal.on_event = self._starting, self._happened
        self.steps.cleared, self.steps.stepped = self._resume, self._after_step
        tape = self.journal.tape
        tape.made_leaf, tape.flagged, tape.wrote = self._made_leaf, self._flagged, self._wrote
        tape.normalised, tape.read_gradient = self._normalised, self.journal.grads.read
        self._thread = threading.get_ident()
        self._by_hand: set[int] = set()
        self._normal: dict[Site, int] = {}  # call of a model -> the weight of its first batch normalisation
        self._taping = False
        self._wanted = False

    # -- when operations are recorded

    def start_tape(self) -> None:
        """Begin to record operations."""
        tape = self.journal.tape
        if not (self._taping or tape.full or tape.off) and threading.get_ident() == self._thread:
            tape.attach()
            self._taping = True

    def stop_tape(self) -> None:
        """Record operations no longer."""
        if self._taping and threading.get_ident() == self._thread:
            self._taping = not self.journal.tape.detach()

    def taping_here(self) -> bool:
        """Whether operations of this thread are being recorded."""
        return self._taping and threading.get_ident() == self._thread

    def _want_tape(self) -> None:
        if self.journal.steps:
            self._wanted = True  # not now, in the middle of an operation

    def _resume(self) -> None:
        if self._wanted:
            self._wanted = False
            self.start_tape()

    def _after_step(self) -> None:
        self._resume()
        if self._taping and self._seen_enough():
            self.stop_tape()
        if self.on_step is not None:
            self.on_step(self.journal.steps)

    def _seen_enough(self) -> bool:
        steps, counts = self.journal.steps, self.steps.counts
        active = [n for _, n in self.journal.optimizers.living() if counts[n]]
        enough = all(counts[n] >= _TAPED for n in active) or steps > 40
        return (enough and all(n >= _TAPED for n in self.backwards.counts.values())) or steps > 60 + _TAPED

    # -- what is measured beside the script

    def _starting(self, site: Site, roots: tuple[Tensor, ...], plain: bool) -> None:
        for part in self._beside:
            part.starting(site, roots, plain)

    def _happened(self, event: events.Event) -> None:
        for part in self._beside:
            part.happened(event)

    # -- what the tape sees beside operations

    def _made_leaf(self, value: int | None, scalar: bool) -> None:
        self.journal.append(events.MadeLeaf(self.journal.tick(), here(), value, scalar))

    def _flagged(self, parameter: Tensor, on: bool) -> None:
        self.setup.flagged([parameter], on)

    def _wrote(self, parameter: int, tensor: Tensor) -> None:
        if self.journal.steps or self.backwards.counts:
            self._by_hand.add(parameter)
        self.backwards.overwrote([(tensor, parameter)], here())

    def _normalised(self, weight: Tensor) -> None:
        found, number = caller(weight), self.journal.number
        if found is not None:
            site, name, module = found
            if self._normal.setdefault(site, number(weight)) == number(weight):
                held = list(module.parameters())
                self.journal.append(
                    events.Normalised(
                        self.journal.tick(), site, name, frozenset(map(number, held)),
                        not any(p.requires_grad for p in held), torch.is_grad_enabled(), self.journal.steps,
                    )
                )  # fmt: skip

    # -- the end

    def finish(self, outcome: str, error: BaseException | None, variables: dict[str, Any]) -> Log:
        """Everything that was recorded, with names."""
        self.stop_tape()
        journal, found = self.journal, self.journal.log
        with journal.guarded():
            journal.names.learn_from(variables)
            found.parameters, found.optimizers = self._parameters(), self._optimizers()
        found.values = journal.tape.values
        found.unregistered, found.aliases = journal.names.unregistered, journal.names.aliases
        found.put = {
            n: put(owner, attribute, journal.made.get(n, NOWHERE))
            for n, (owner, attribute) in journal.names.hidden_by.items()
        }
        found.scaling = self.backwards.scaling
        found.outcome, found.error = outcome, error
        if error is not None:
            found.error_site = of_traceback(error)
        if journal.missing:
            found.unchecked["step-before-backward, freed-graph"] = f"torch has no {', '.join(journal.missing)}"
        if journal.tape.full:
            found.unfollowed = found.unfollowed or "the first iterations have too many operations to follow them all"
        return found

    def _parameters(self) -> dict[int, log.Parameter]:
        journal, steps, setup = self.journal, self.steps, self.setup
        there = self.backwards.last | {
            n: (p.requires_grad, isinstance(p, nn.Parameter), p._version) for p, n in journal.numbers.living()
        }
        stepped = {number for n, numbers in steps.held.items() if steps.counts[n] for number in numbers}
        named = journal.names.parameters
        return {
            n: log.Parameter(
                name=named.get(n, ("", ""))[1],
                model=named.get(n, ("", ""))[0],
                shape=shape,
                made=journal.made.get(n, NOWHERE),
                trainable=n in there and there[n][0],
                stepped=n in steps.sites,
                written=n in there and n not in stepped and self._moved(n, there[n][2]),
                loaded=n in setup.from_state,
                registrable=n in there and there[n][1],
                alive=n in there,
                follows=n in setup.follows,
            )
            for n, shape in journal.shapes.items()
        }

    def _optimizers(self) -> dict[int, log.Optimizer]:
        names, steps = self.journal.names.optimizers, self.steps
        return {
            n: log.Optimizer(names.get(n, kind), kind, site, steps.held[n], steps.counts[n] + steps.skipped[n])
            for n, (kind, site) in steps.kinds.items()
        }

    def _moved(self, number: int, version: int) -> bool:
        """Whether a parameter was written since its first gradient, by other than an optimizer."""
        return number in self._by_hand or version > self.backwards.first_versions.get(number, 1 << 60)
