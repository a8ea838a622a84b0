"""What is known of who trains whom, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cograd.explanation._drawing import drawing
from cograd.explanation._picture import as_dot, as_svg
from cograd.explanation._table import clipped, sentences, table


@dataclass(frozen=True, slots=True)
class Cell:
    """What one loss does to one model.

    Attributes:
        reached: how many of the model's trainable parameters get a gradient of the loss.
        parameters: how many trainable parameters the model has.
        norm: 2-norm of that gradient.
        share: of this loss among those that train the model, by norm and with their weights; None if it does not.
        cosines: other loss that reaches the model -> cosine between the two gradients, NaN if one is zero.
        routed: whether the loss may train the model.
        declared: whether ``trains`` says that it does.
        used: whether the value of the loss depends on the model.
    """

    reached: int
    parameters: int
    norm: float = 0.0
    share: float | None = None
    cosines: Mapping[str, float] = field(default_factory=dict)
    routed: bool = True
    declared: bool = False
    used: bool = True

    @property
    def broken(self) -> bool:
        """Whether a gradient that was declared does not exist."""
        return self.declared and not self.reached


@dataclass(frozen=True, slots=True)
class CutAt:
    """A line where the gradient of a loss is cut off from parameters of a model.

    Attributes:
        loss: its name.
        model: its name.
        file: of the line, as the interpreter knows it.
        line: counted from 1.
        source: the line itself.
        how: what cuts, such as ``detach()``.
        place: file and line, as seen from the working directory.
        parameters: how many parameters of the model it cuts off.
    """

    loss: str
    model: str
    file: str
    line: int
    source: str
    how: str
    place: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Part:
    """What is updated at once: a phase, or all that was recorded.

    Attributes:
        title: one line.
        losses: their names.
        models: the models that are trained here.
        frozen: those that are not.
        cells: by loss and model.
        cuts: by loss, the nearest to the loss first.
        notes: what else there is to know.
    """

    title: str
    losses: tuple[str, ...]
    models: tuple[str, ...]
    frozen: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    cuts: tuple[CutAt, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        blocks = [self.title, table(self), *sentences(self), *self.notes, drawing(self)]
        return clipped("\n".join(block for block in blocks if block))


@dataclass(frozen=True, repr=False)
class Explanation:
    """Which loss reaches which model, by how much, and where a gradient is cut. ``print`` it.

    Where a loss meets a model in several phases, the tables by loss and model hold the first of them.

    Attributes:
        parts: one for each phase; a single one without phases.

    >>> enc, dec = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> found = cograd.explain(
    ...     lambda m, x: {"fit": m.dec(m.enc(x).detach()).mean()},
    ...     torch.ones(4, 2),
    ...     models={"enc": enc, "dec": dec},
    ... )
    >>> found.reached["fit"], [cut.how for cut in found.cuts]
    ({'enc': 0, 'dec': 2}, ['detach()'])
    """

    parts: tuple[Part, ...]

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the losses."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.losses))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(dict.fromkeys(name for part in self.parts for name in (*part.models, *part.frozen)))

    @property
    def reached(self) -> dict[str, dict[str, int]]:
        """Loss -> model -> number of its parameters that get a gradient of the loss."""
        return self._table(lambda cell: cell.reached)

    @property
    def norms(self) -> dict[str, dict[str, float]]:
        """Loss -> model -> 2-norm of the gradient; 0 where there is none."""
        return self._table(lambda cell: cell.norm)

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Loss -> model that it trains -> its part of the gradient, by norm and with weights."""
        found = self._table(lambda cell: cell.share)
        return {loss: {m: share for m, share in row.items() if share is not None} for loss, row in found.items()}

    @property
    def cosines(self) -> dict[str, dict[tuple[str, str], float]]:
        """Model -> pair of losses that both reach it -> cosine between their gradients."""
        found: dict[str, dict[tuple[str, str], float]] = {}
        for _, (loss, model), cell in self._cells():
            own = found.setdefault(model, {})
            own.update({(loss, b): x for b, x in cell.cosines.items() if (loss, b) not in own and (b, loss) not in own})
        return found

    @property
    def cuts(self) -> tuple[CutAt, ...]:
        """Every line that cuts a gradient."""
        return tuple(dict.fromkeys(cut for part in self.parts for cut in part.cuts))

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """Loss and model of each gradient that was declared and does not exist."""
        return tuple(dict.fromkeys(pair for _, pair, cell in self._cells() if cell.broken))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        return {
            "losses": list(self.losses),
            "models": list(self.models),
            "parts": [
                {
                    "title": part.title,
                    "frozen": list(part.frozen),
                    "cells": [{"loss": k, "model": m} | asdict(cell) for (k, m), cell in part.cells.items()],
                    "cuts": [asdict(cut) for cut in part.cuts],
                    "notes": list(part.notes),
                }
                for part in self.parts
            ],
        }

    def dot(self) -> str:
        """The routes in the language of Graphviz."""
        return as_dot(self.parts)

    def svg(self) -> str:
        """The routes as a picture: the text of an SVG file."""
        return as_svg(self.parts)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.parts))

    __repr__ = __str__

    def _cells(self) -> Iterator[tuple[Part, tuple[str, str], Cell]]:
        for part in self.parts:
            for pair, cell in part.cells.items():
                yield part, pair, cell

    def _table(self, value: Any) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {name: {} for name in self.losses}
        for _, (loss, model), cell in self._cells():
            found[loss].setdefault(model, value(cell))
        return found
