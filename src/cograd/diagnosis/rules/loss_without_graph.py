"""``backward()`` on a tensor without a graph.

What it does:
    Finds losses that were made from plain numbers, under ``no_grad``, or from cut values, and where they were cut.

Why it is bad:
    The script stops; or, for a new tensor that was made to require grad, runs and trains nothing.

Example:
    loss = torch.tensor(F.mse_loss(net(x), y).item(), requires_grad=True)
    loss.backward()

Use instead:
    loss = F.mse_loss(net(x), y)
    loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules import _cuts
from cograd.diagnosis.rules._frozen import frozen_before
from cograd.tracing import Backward, Log, MadeLeaf, below, reached

SEVERITY = "error"
FOLLOWS = True
_ERROR = "does not require grad and does not have a grad_fn"


def check(log: Log) -> Iterator[Finding]:
    """Losses that are leaves, or have no graph."""
    made = {event.value for event in log.of(MadeLeaf)} - {None}
    told = set()
    for event in log.of(Backward):
        leaf = event.leaf and not event.graph and not event.error and not event.reached & log.parameters.keys()
        nothing = leaf or (not event.error and not event.reached and _of_new_leaf(log, event))
        below_roots = {i for root in event.roots for v in below(log.values, root) for i in (v.id, *v.inputs)}
        if made & below_roots:
            told.add(event.site)
        if (_ERROR not in event.error and not nothing) or event.site in told:
            continue
        if event.error and any(frozen_before(log, event, root) for root in event.roots):
            continue  # left-frozen
        told.add(event.site)
        site, phrase = event.site, "it was not computed from parameters that require grad"
        related: tuple[Related, ...] = (Related("backward", event.site),)
        for root in event.roots:
            wanted = reached(log.values, root, differentiable=False)
            found = _cuts.cut(log.values, root, wanted)
            site = log.values[root].site if found is None else found.value.site
            if found is not None:
                phrase, related = found.phrase, _cuts.story(event, found)
        yield Finding(
            site,
            f"{event.loss} has no graph, so {event.site.text} trains nothing: {phrase}",
            "compute the loss from the outputs of the model with differentiable operations",
            related,
        )


def _of_new_leaf(log: Log, event: Backward) -> bool:
    """Whether the graph ends at tensors that were made from others and required grad from the start."""
    ends = [v for root in event.roots for v in below(log.values, root, differentiable=True) if v.op in _NEW]
    return bool(ends)


_NEW = frozenset({"tensor", "as_tensor", "from_numpy"})
