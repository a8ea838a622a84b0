"""Put together what was measured and what was followed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from cograd.explanation._explanation import Cell, CutAt, Part
from cograd.explanation._measure import Rows, angles
from cograd.tracing import Cut


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the losses that were evaluated together.

    Attributes:
        title: one line.
        models: model -> trainable parameters.
        frozen: the other models.
        rows: loss -> its gradients.
        used: loss -> ids of the parameters that its value depends on.
        cuts: loss, parameters -> the cuts between them, the nearest to the loss first.
        trains: the declared routes; a loss without an entry trains all that it reaches.
        weights: loss -> the factor that a step gives it.
        notes: what else there is to know.
    """

    title: str
    models: Mapping[str, Sequence[Tensor]]
    frozen: Sequence[str]
    rows: Rows
    used: Mapping[str, Collection[int]]
    cuts: Callable[[str, Sequence[Tensor]], Sequence[Cut]]
    trains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def assembled(seen: Seen) -> Part:
    """The table, and every cut."""
    cells: dict[tuple[str, str], Cell] = {}
    for model, parameters in seen.models.items():
        norms, cosines = angles(seen.rows, parameters)
        routed = [loss for loss in seen.rows if model in seen.trains.get(loss, seen.models)]
        pull = {loss: abs(seen.weights.get(loss, 1.0)) * norms[loss] for loss in routed if loss in norms}
        whole = sum(pull.values())
        for loss, row in seen.rows.items():
            cells[loss, model] = Cell(
                reached=sum(id(p) in row for p in parameters),
                parameters=len(parameters),
                norm=norms.get(loss, 0.0),
                share=None if loss not in pull else pull[loss] / whole if whole else 0.0,
                cosines={b: x for (a, b), x in cosines.items() if a == loss},
                routed=loss in routed,
                declared=model in seen.trains.get(loss, ()),
                used=any(id(p) in seen.used[loss] or id(p) in row for p in parameters),
            )
    ordered = {(loss, model): cells[loss, model] for loss in seen.rows for model in seen.models}
    cuts = [cut for pair, cell in ordered.items() for cut in _cuts(seen, pair, cell)]
    notes = [f"  no loss reaches {m}" for m in seen.models if not any(ordered[k, m].reached for k in seen.rows)]
    return Part(
        seen.title, tuple(seen.rows), tuple(seen.models), tuple(seen.frozen), ordered, tuple(cuts),
        (*notes, *(f"  {note}" for note in seen.notes)),
    )  # fmt: skip


def _cuts(seen: Seen, pair: tuple[str, str], cell: Cell) -> list[CutAt]:
    loss, model = pair
    missing = [p for p in seen.models[model] if id(p) not in seen.rows[loss]]
    used = [p for p in missing if id(p) in seen.used[loss]]
    if not used and not cell.broken:
        return []
    wanted = used or missing
    return [
        CutAt(
            loss, model, cut.value.site.file, cut.value.site.line, cut.value.site.source, cut.how,
            cut.value.site.place, len(wanted),
        )
        for cut in seen.cuts(loss, wanted)
    ]  # fmt: skip
