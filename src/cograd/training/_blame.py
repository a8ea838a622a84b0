"""When a batch does not go through: which one it was, and what is in it."""

from __future__ import annotations

from typing import Any

from cograd._whereabouts import BATCH, described
from cograd.errors import BatchError, CogradError


def blame(
    error: Exception, batch: Any, where: str, what: str = "The losses cannot be computed and differentiated"
) -> None:
    """Say in which batch ``error`` was raised. Errors of cograd and of others' making keep their type.

    Args:
        error: what a step, or a look at the losses, has raised.
        batch: on which.
        where: in words.
        what: cannot be done.

    Raises:
        BatchError: ``error`` is one of Python's or torch's own, which says nothing of the batch.
    """
    notes = getattr(error, "__notes__", [])
    told = f"{where}; the batch is {described(batch)}."
    if isinstance(error, CogradError) or type(error).__module__ != "builtins":
        error.add_note(
            f"This was in {where}." if any(note.startswith(BATCH) for note in notes) else f"This was in {told}"
        )
        return
    more = " ".join(note for note in notes if not note.startswith(BATCH))
    raise BatchError(
        f"{what} in {told} {type(error).__name__}: {error}. "
        f"{more or 'The lines are above. Check that the loader gives what is asked for.'}"
    ) from error
