"""One model's weights, in a file that other programs read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cograd._schedule_free import evaluation_weights, switchable_of
from cograd.errors import CheckpointError, ModelError, quoted, shown
from cograd.training._files import reason, write_atomically


def export(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write the weights and buffers of one model as safetensors. Until all is written, ``path`` is as it was.

    ``safetensors.torch.load_model(model, path)`` reads them back. A tensor of several names is written once, and the
    file's metadata say which names it has. The names are those of the model, also if it is compiled. A model that an
    optimizer with ``eval()`` and ``train()`` trains in a ``Joint`` is written with its weights for evaluation.

    Args:
        model: such as ``joint.models.gen``.
        path: of the file.

    Returns:
        ``path``.

    Raises:
        ModelError: not a module, or it holds what safetensors cannot.
        CheckpointError: the file cannot be written (``errno`` says why, if the system does).

    >>> import tempfile, safetensors.torch
    >>> path = export(nn.Linear(2, 1), tempfile.mkdtemp() + "/gen.safetensors")
    >>> sorted(safetensors.torch.load_file(path))
    ['bias', 'weight']
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    if not isinstance(model, nn.Module):
        raise ModelError(f"export takes an nn.Module, such as joint.models.gen; found {shown(model)}.")
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise ModelError(
            f"export takes the path of a file; found {shown(path)}. Choose one, such as 'gen.safetensors'."
        )
    plain: Any = getattr(model, "_orig_mod", model)  # torch.compile puts that before every name
    if unfit := [key for key, value in plain.state_dict().items() if not _fits(value)]:
        raise ModelError(
            f"safetensors holds dense tensors, and {quoted(unfit)} of {type(plain).__name__} is none (yet). Run one "
            "batch through a lazy module first; save other state with torch.save."
        )
    target = Path(path)
    try:
        with evaluation_weights(switchable_of(model)):
            write_atomically(target, lambda file: save_model(plain, file.name, metadata={"format": "pt"}))
    except OSError as error:
        failure = CheckpointError(f"{target} was not written: {reason(error)}")
        failure.errno = error.errno
        raise failure from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{target} was not written: {error}. Free some space, or choose another place."
        ) from error
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"{type(plain).__name__} cannot be written as safetensors: {error}") from error
    return target


def _fits(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and not value.is_meta and value.layout is torch.strided
