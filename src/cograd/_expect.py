"""Hold what a phase's losses do against what was declared, and refuse what does not fit."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cograd._caller import level_of_caller
from cograd._clip import Clip
from cograd._losses import Losses
from cograd._models import Models, named_parameters
from cograd._phase import Phase
from cograd._plan import unreached
from cograd._precision import Precision
from cograd._routes import Mention, check_mentions, check_metrics
from cograd.errors import LossError, ModelError, PhaseError, UnreachedError, quoted
from cograd.gramian import Engine

LossesFunction = Callable[[Any, Any], Losses]


@dataclass(slots=True)
class Setup:
    """What all phases of a ``Joint`` share."""

    models: Models
    losses: LossesFunction
    trains: Mapping[str, Sequence[str]]
    mentions: Sequence[Mention]  # the losses that the user named
    optimizers: Mapping[str, Optimizer]
    check: str
    grad_norms: bool
    freeze_buffers: bool
    precision: Precision
    clips: Mapping[tuple[str, ...], Clip]  # models whose gradients are clipped together
    accumulate: Mapping[str, int]  # model -> micro-batches per update
    gramian: Engine | None = None
    watch: int = 0  # look at the losses' gradients each so many steps; never if 0
    prepare: Callable[[Any, Any], Any] | None = None  # makes of a batch what the losses function receives
    missing: str = "warn"  # what becomes of a loss that was returned before, and then is not
    deferred: dict[str, dict[Tensor, Tensor]] = field(default_factory=dict)  # model -> gradients left for its update
    returned: set[str] = field(default_factory=set)  # every loss that the losses function has returned
    counted: dict[str, bool] = field(default_factory=dict)  # loss -> has it a count, asked where a model gathers
    metrics: set[str] = field(default_factory=set)  # every name that it returned for a metric
    loaded: frozenset[str] = frozenset()  # those of a state that was loaded, until they have been compared
    missed: set[str] = field(default_factory=set)  # those of whose absence was warned
    began: deque[tuple[int, int]] = field(default_factory=partial(deque, maxlen=64))  # steps, and where graphs began

    def prepared(self, batch: Any) -> Any:
        """What every phase of one step receives as its batch.

        Raises:
            LossError: ``prepare`` returned nothing.
        """
        if self.prepare is None:
            return batch
        try:
            with torch.no_grad(), self.precision.autocast():
                made = self.prepare(self.models, batch)
        except Exception as error:
            error.add_note("This was in prepare(models, batch), which runs once before the phases of a step.")
            raise
        if made is None:
            raise LossError(
                "prepare(models, batch) must return what the losses function receives as its batch; found None. Does "
                "it lack a return?"
            )
        return made

    def weighed(self, losses: Iterable[str], counts: Mapping[str, float]) -> dict[str, float]:
        """Those of the ``counts`` by which what is gathered of ``losses`` is weighed.

        Raises:
            LossError: a loss has a count in some batches only.
        """
        for name in losses:
            before = self.counted.setdefault(name, name in counts)
            if before != (name in counts):
                raise LossError(
                    f"loss {name!r} has a count in some micro-batches and none in others, and accumulate cannot weigh "
                    "one against the other. Return cograd.Mean in all of them, with count 0 where it is absent; or in "
                    "none."
                )
        return {name: counts[name] for name in losses if name in counts}

    def only_logged(self, metrics: Set[str]) -> None:
        """These names are metrics, so nothing may take them for losses."""
        if not self.metrics >= metrics:
            check_metrics(self.mentions, metrics)
            self.metrics |= metrics
            self.returned -= metrics


class Expectations:
    """Which losses concern a phase, and what each of its models may expect of them.

    Args:
        setup: the declaration that all phases share.
        phase: this phase.
        siblings: the expectations of all phases.
    """

    def __init__(self, setup: Setup, phase: Phase, siblings: Sequence[Expectations]) -> None:
        self.setup, self.phase, self.siblings = setup, phase, siblings
        self._used: set[str] = set()  # losses that had a graph here
        self._idle: set[str] = set()  # losses that had none

    def bind(self, trained: Mapping[str, Sequence[Tensor]], others: Sequence[Tensor]) -> None:
        """Take note of the parameters: model -> those that are updated, and all others."""
        self.trained = trained
        self._frozen = any(p.requires_grad for p in others)
        self._done = any(name not in trained for name in self.phase.models)  # frozen for good
        self._known = {id(p) for p in (*others, *(p for parameters in trained.values() for p in parameters))}
        self._met: dict[str, bool] = {}  # losses that were returned before -> whether they concern this phase

    def concerned(self, returned: Losses, step: int) -> Mapping[str, bool]:
        """Loss -> may it train one of the models of this phase? Checks the names of new ones, and of missing ones."""
        if not returned.keys() >= self.setup.returned:
            self._miss(returned, step)
        if not self._met.keys() >= returned.keys():
            self._meet(returned)
        return self._met

    def _miss(self, returned: Losses, step: int) -> None:
        """Raises LossError, or warns once for each name that is not among the ``returned`` any more."""
        names = [name for name in sorted(self.setup.returned) if name not in returned and name not in self.setup.missed]
        if not names or self.setup.missing == "allow":
            return
        new = [name for name in returned if name not in self.setup.returned]
        hints = "".join(f" It returned {name!r}, which is new." for name in new[:1])
        message = (
            f"In step {step + 1} the losses function did not return {quoted(names)}, which it returned before.{hints} "
            "A loss that is absent from a batch is returned as None; Joint(missing='allow') lets names come and go."
        )
        if self.setup.missing == "raise":
            raise LossError(message)
        self.setup.missed.update(names)
        warnings.warn(f"{message} It trains nothing meanwhile.", stacklevel=level_of_caller())

    def _meet(self, returned: Losses) -> None:
        if not self.setup.returned:
            check_mentions(self.setup.mentions, returned)
        self._compare(returned)
        self.setup.returned.update(returned.keys() - self.setup.metrics)
        for model in self.trained:
            if not any(self.concerns(name) and self.trains(name, model) for name in self.setup.returned):
                raise PhaseError(
                    f"The phase '{self.phase}' updates {model!r}, but none of the losses "
                    f"{quoted(sorted(self.setup.returned))} trains it there. Declare one in trains, or take {model!r} "
                    "out of the phase. (A loss that is only sometimes there is returned as None when it is not.)"
                )
        self._met.update({name: self.concerns(name) for name in returned})

    def _compare(self, returned: Losses) -> None:
        """The first time after a state was loaded: warns of losses that it does not know."""
        known, self.setup.loaded = self.setup.loaded, frozenset()
        new = sorted(returned.keys() - self.setup.metrics - known) if known else []
        told = self.setup.missing != "allow" and not returned.keys() >= known  # as missing, beside the new one
        if new and not told:
            warnings.warn(
                f"The losses function returns {quoted(new)}; the state that was loaded has {quoted(sorted(known))}. "
                "What a rule remembers of a loss goes by its name, and begins anew for another one.",
                stacklevel=level_of_caller(),
            )

    def concerns(self, loss: str) -> bool:
        """May ``loss`` train one of the models of this phase?"""
        if self.phase.losses is not None and loss not in self.phase.losses:
            return False
        return any(self.trains(loss, model) for model in self.trained)

    def trains(self, loss: str, model: str) -> bool:
        """May ``loss`` train ``model``?"""
        return loss not in self.setup.trains or model in self.setup.trains[loss]

    def take_part(self, losses: Mapping[str, Tensor]) -> None:
        """These losses have a graph."""
        if not self._used >= losses.keys():
            self._used |= losses.keys()

    def sit_out(self, loss: str, error: Exception) -> None:
        """A loss without a graph may just concern the models that are frozen now. If not, raise ``error``."""
        others = [e for e in self.siblings if e is not self and e.concerns(loss)]
        if loss not in self.setup.trains and any(e._done for e in self.siblings):
            return  # it may have been there for a model that is done
        if loss in self.setup.trains or not self._frozen or all(loss in e._idle - e._used for e in others):
            raise error
        self._idle.add(loss)

    def lacking(self, losses: Mapping[str, Tensor]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """The models without any gradient, and of the others the parameters without one.

        Raises:
            UnreachedError: a model has none, though every loss that could train it is present.
        """
        skipped, some = [], {}
        for model in self.trained:
            trained = [(key, p) for key, p in named_parameters(self.setup.models[model]) if p.requires_grad]
            keys = tuple(key for key, p in trained if p.grad is None)
            if len(keys) == len(trained):
                self._check_skipped(model, losses)
                skipped.append(model)
            elif keys:
                some[model] = keys
        return tuple(skipped), some

    def _check_skipped(self, model: str, losses: Mapping[str, Tensor]) -> None:
        for name in losses:
            if name in self.setup.trains and model in self.setup.trains[name]:
                raise unreached(name, [model])
        mine = [name for name in self.setup.returned if self.concerns(name) and self.trains(name, model)]
        if all(name in losses or name in self._idle for name in mine):
            raise UnreachedError(
                f"The phase '{self.phase}' updates {model!r}, but no gradient flows to it from any of its losses "
                f"({quoted(sorted(mine))}). If that is meant, take {model!r} out of it.",
                sorted(mine),
                [model],
                "Else look for what cuts the way: detach(), .data, no_grad.",
            )

    def check_parameters(self) -> None:
        """The parameters that the models hold now are those that this phase was bound to."""
        for name in self.setup.models:
            for key, p in named_parameters(self.setup.models[name]):
                if id(p) not in self._known:
                    raise ModelError(
                        f"{name}.{key} was put into the model after the Joint was made, and is in no optimizer: it "
                        "would never train. Add it with optimizer.add_param_group, or make optimizer and Joint anew."
                    )
