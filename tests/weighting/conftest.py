"""Run a rule over several batches, as a training loop does."""

import copy

import pytest
import torch

from cograd.weighting import Seen


def _weights(rule, batches, dtype=torch.float64):
    """The weights of each batch by name, and the last state. A batch maps names to numbers; None is absent."""
    names, state, history = (), rule.init(()), []
    for step, batch in enumerate(batches):
        names += tuple(name for name in batch if name not in names)
        values = torch.tensor([batch.get(name) or 0.0 for name in names], dtype=dtype)
        present = tuple(batch.get(name) is not None for name in names)
        before = copy.deepcopy(state)
        weights, state_after = rule.weigh(Seen(names, values, present, step), state)
        assert repr(state) == repr(before)
        state = state_after
        history.append({n: w.item() for n, w, here in zip(names, weights, present, strict=True) if here})
    return history, state


@pytest.fixture(scope="session")
def weights_over():
    return _weights


def _resumed(rule, batches, cut, kind):
    """Weights of a Stateful that is saved after ``cut`` batches and loaded into a fresh one."""
    first, second = kind(rule), kind(rule)
    history = []
    for step, batch in enumerate(batches):
        if step == cut:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            first = second
        losses = {name: torch.tensor(value) for name, value in batch.items() if value is not None}
        history.append({name: w.item() for name, w in first.weigh(losses, step).items()})
        first.commit()
    return history


@pytest.fixture(scope="session")
def resumed():
    return _resumed
