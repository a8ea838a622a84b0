"""Look at the losses without training: modes, flags, buffers and the weights of optimizers are put back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cograd._expect import Setup
from cograd._losses import Evaluation, check_mapping, evaluate
from cograd._models import buffers_kept, noted_buffers, put_back, with_buffers
from cograd._random import RandomState, random_state, replayed, rewind
from cograd._schedule_free import evaluation_weights
from cograd._whereabouts import tell
from cograd.errors import CogradError, LossError, shown

MODES = ("eval", "train")
_LACKS_GRADIENT = re.compile("requires? grad")  # in torch's words, whichever function is asked for the gradient


class Look:
    """How the losses of a ``Joint`` are looked at, also from within another look.

    Parameters are frozen, so that no graph is built. Losses that themselves differentiate at parameters
    cannot be had that way. Where they say so, they are evaluated again with the flags of a step, and from
    then on only so.

    Args:
        setup: the declaration.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._differentiates: bool | None = None  # at parameters; None if no evaluation has shown it yet
        self._training: list[nn.Module] = []  # those that the looks in progress have put into eval mode
        self._frozen: list[Tensor] = []  # those that they have frozen

    @contextmanager
    def around(self) -> Iterator[None]:
        """Eval mode, frozen parameters, and the weights that optimizers keep for evaluation."""
        modules = [m for name in self._setup.models for m in self._setup.models[name].modules()]
        training = [m for m in modules if m.training]
        frozen: list[Tensor] = [
            p for m in modules if m._parameters for p in m._parameters.values() if p is not None and p.requires_grad
        ]
        before = self._training, self._frozen
        self._training, self._frozen = before[0] + training, before[1] + frozen
        try:
            _set_training(training, False)  # not by eval(), of which some make more: only the flag is sure to come back
            for p in frozen:
                p.requires_grad = False
            with evaluation_weights(self._setup.optimizers.values()):
                yield
        finally:
            self._training, self._frozen = before
            for p in frozen:
                p.requires_grad = True
            _set_training(training, True)

    def __call__(self, batch: Any, mode: str) -> Evaluation:
        """The losses that are present, detached, and what is logged.

        Args:
            batch: for ``prepare`` and the losses function.
            mode: ``"eval"``, or ``"train"`` for the modes of a step, with buffers put back.

        Raises:
            LossError: there is no such mode, or a loss is not as declared.
        """
        if not isinstance(mode, str) or mode not in MODES:
            raise LossError(f"evaluate(batch, mode=...) must be 'eval' or 'train'; found {shown(mode)}.")
        rng = random_state()
        with self.around():
            try:
                with self._as_in_training() if mode == "train" else nullcontext():
                    return self._evaluated(batch, rng)
            except Exception as error:
                tell(error, "an evaluation", self._setup.losses, batch)
                if mode == "eval":
                    self._blame_mode(error, batch, rng)
                raise

    @contextmanager
    def _as_in_training(self) -> Iterator[None]:
        training = self._training
        with buffers_kept(self._with_buffers()):
            try:
                _set_training(training, True)
                yield
            finally:
                _set_training(training, False)

    def _evaluated(self, batch: Any, rng: RandomState) -> Evaluation:
        if not self._differentiates:
            buffers = [] if self._differentiates is False else noted_buffers(self._with_buffers())
            try:
                found = self._losses(batch)
            except Exception as error:
                if not _lacks_gradient(error):
                    raise
            else:
                self._differentiates = False
                return found
            rewind(rng)
            put_back(buffers)
        frozen = self._frozen
        try:
            for p in frozen:
                p.requires_grad = True
            found = self._losses(batch)
        finally:
            for p in frozen:
                p.requires_grad = False
        self._differentiates = True
        return found

    def _losses(self, batch: Any) -> Evaluation:
        found = Evaluation()
        with torch.inference_mode(False), torch.enable_grad(), self._setup.precision.autocast():
            returned = dict(check_mapping(self._setup.losses(self._setup.models, self._setup.prepared(batch))))
            for name in list(returned):  # whose graph is let go as soon as its value is known
                loss = evaluate(name, returned.pop(name), found)
                if loss is not None:
                    found.losses[name] = loss.detach()
        return found

    def _with_buffers(self) -> list[nn.Module]:
        return with_buffers(self._setup.models[name] for name in self._setup.models)

    def _blame_mode(self, error: Exception, batch: Any, rng: RandomState) -> None:
        """Say so in ``error`` if the losses can be had in train mode, for which they are evaluated once more."""
        if not self._training:
            return
        try:
            with replayed(rng), self._as_in_training():
                self._evaluated(batch, rng)
        except Exception:  # it is not the mode, and the first error says what it is
            return
        told = (
            "The models are in eval mode here, and in train mode this batch gives losses. If they exist in that mode "
            "only, ask for it: joint.evaluate(batch, mode='train'), and in fit "
            "validate=cograd.Validation(loader, mode='train')."
        )
        if isinstance(error, CogradError):
            error.args = (f"{error} {told}",)
        else:
            error.add_note(told)


def _set_training(modules: Iterable[nn.Module], flag: bool) -> None:
    for m in modules:
        if type(m).__setattr__ is nn.Module.__setattr__:  # which looks first whether it is given a parameter
            object.__setattr__(m, "training", flag)
        else:
            m.training = flag


def _lacks_gradient(error: BaseException | None) -> bool:
    """Whether it was raised, or caused, by asking for a gradient at what requires none."""
    while error is not None:
        if isinstance(error, RuntimeError) and _LACKS_GRADIENT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
