import copy

import pytest
import torch

import cograd
from cograd.errors import StateError
from cograd.weighting import FirstValue, Log, RunningMean, Stateful


def test_nothing_is_remembered_until_commit():
    balance = Stateful(FirstValue())
    before = copy.deepcopy(balance.state_dict())
    balance.weigh({"a": torch.tensor(4.0)}, 0)
    assert balance.state_dict() == before
    assert balance.weigh({"a": torch.tensor(2.0)}, 0)["a"].item() == 0.5
    balance.commit()
    assert balance.weigh({"a": torch.tensor(9.0)}, 1)["a"].item() == 0.5
    assert balance.steps == 1


def test_what_was_not_committed_does_not_come_back_without_losses():
    balance = Stateful(FirstValue())
    balance.weigh({"a": torch.tensor(torch.nan)}, 0)
    assert balance.weigh({}, 0) == {}
    balance.commit()
    assert balance.state_dict()["state"] == {}
    assert balance.weigh({"a": torch.tensor(2.0)}, 1)["a"].item() == 0.5


def test_weights_are_detached_and_in_the_order_of_the_losses():
    x = torch.tensor(2.0, requires_grad=True)
    balance = Stateful(Log())
    balance.weigh({"a": x, "b": x}, 0)
    balance.commit()
    weights = balance.weigh({"b": 2 * x, "c": 4 * x}, 1)
    assert {name: w.item() for name, w in weights.items()} == {"b": 0.25, "c": 0.125}
    assert not any(w.requires_grad for w in weights.values())


def test_a_loss_that_is_new_goes_to_the_end():
    balance = Stateful(RunningMean())
    for losses in ({"b": 1.0}, {"a": 1.0}, {"c": 1.0, "b": 1.0}):
        balance.weigh({name: torch.tensor(value) for name, value in losses.items()}, 0)
        balance.commit()
    assert balance.state_dict()["names"] == ["b", "a", "c"]


def test_it_goes_through_a_file(tmp_path):
    balance, other = Stateful(RunningMean()), Stateful(RunningMean())
    for value in (2.0, 3.0):
        balance.weigh({"a": torch.tensor(value)}, 0)
        balance.commit()
    torch.save(balance.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.state_dict() == balance.state_dict()
    assert other.steps == 2


def test_loading_does_not_alias():
    balance, other = Stateful(RunningMean()), Stateful(RunningMean())
    balance.weigh({"a": torch.tensor(2.0)}, 0)
    balance.commit()
    state = copy.deepcopy(balance.state_dict())
    other.load_state_dict(state)
    state["state"]["mean"]["a"].fill_(1e9)
    state["state"]["count"]["a"] = 77
    state["names"].append("z")
    assert other.state_dict() == balance.state_dict()


def test_the_state_of_another_rule_is_refused():
    balance = Stateful(RunningMean())
    before = copy.deepcopy(balance.state_dict())
    with pytest.raises(StateError, match="The weighting is RunningMean; the state is of 'FirstValue'"):
        balance.load_state_dict(Stateful(FirstValue()).state_dict())
    assert balance.state_dict() == before


@pytest.mark.parametrize("state", [None, {}, {"rule": "RunningMean"}, []])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(StateError, match="RunningMean"):
        Stateful(RunningMean()).load_state_dict(state)


def test_one_balance_in_two_losses_functions_of_one_loop():
    balance = Stateful(FirstValue())
    x = torch.tensor(2.0, requires_grad=True)
    first = cograd.grad({"a": x**2}, models={"x": [x]}, weighting=balance)["x"]["0"]
    second = cograd.grad({"a": 10 * x**2}, models={"x": [x]}, weighting=balance)["x"]["0"]
    assert (first.item(), second.item()) == (1.0, 10.0)
