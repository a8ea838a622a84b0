"""What a model puts out while the losses are evaluated, for the Gramian taken there."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cograd.errors import WeightingError
from cograd.gramian import At


class Representation:
    """Listens to one model. Enter it around the evaluation of the losses.

    Args:
        name: what the model is called.
        model: the model, whose outputs may be nested and may come from several calls.
    """

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model
        self._outputs: list[Tensor] = []

    def __enter__(self) -> None:
        self._outputs = []
        self._hook = self.model.register_forward_hook(
            lambda _module, _inputs, output: self._outputs.extend(_with_graph(output))
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def forget(self) -> None:
        """Let go of what was put out, and of its graph."""
        self._outputs = []

    def engine(self) -> At:
        """The engine for what was put out last."""
        if not self._outputs:
            raise WeightingError(
                f"At({self.name!r}) compares gradients at the outputs of {self.name!r}, but the losses function did "
                "not call that model, or called a method other than the model itself."
            )
        return At(self._outputs)


def _with_graph(output: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad)
