import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import ReLoBRaLo, Stateful
from cograd.weighting._contract import drawn

VALUES = [[2.0, 0.5, 4.0], [1.8, 0.6, 3.0], [1.5, 0.3, 3.5], [1.6, 0.2, 2.0], [1.2, 0.25, 2.5]]
BATCHES = [dict(zip("abc", values, strict=True)) for values in VALUES]
EXPECTED = [
    [0.9140787783150297, 1.1827798216247611, 0.9031414000602093],
    [0.5831468865954748, 0.12818294625180832, 2.2886701671527163],
    [0.8174060296584749, 0.1207233282759412, 2.0618706420655832],
    [1.0191433722639374, 0.524047680544698, 1.4568089471913648],
]


def looks_back(seed, steps, rho):
    """Which steps of a rule with this seed look back at the first value."""
    state = {"seed": seed, "draws": 0}
    for _ in range(steps):
        generator, state = drawn(state)
        yield bool(torch.rand((), generator=generator, dtype=torch.float64) >= rho)


def test_known_answer(weights_over):
    """Weights of Khadrawi/ReLoBRaLo_PyTorch with alpha 0.9, T 0.1, looking back at the third and the fifth step."""
    seed = next(s for s in range(1000) if [*looks_back(s, 5, 0.5)][1:] == [False, True, False, True])
    history, _ = weights_over(ReLoBRaLo(alpha=0.9, rho=0.5, seed=seed), BATCHES)
    assert [*history[0].values()] == pytest.approx([1.0, 1.0, 1.0])
    for weights, expected in zip(history[1:], EXPECTED, strict=True):
        assert [*weights.values()] == pytest.approx(expected, abs=1e-9)


def test_rho_is_how_likely_no_look_back_is():
    assert sum(looks_back(0, 2000, 0.9)) == pytest.approx(200, abs=50)


def test_the_same_seed_gives_the_same_weights(weights_over):
    first, second, other = (weights_over(ReLoBRaLo(rho=0.5, seed=seed), BATCHES * 3)[0] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_one_loss_alone_weighs_one_whatever_it_weighed_before(weights_over):
    history, _ = weights_over(ReLoBRaLo(alpha=0.5, seed=0), [*BATCHES, {"b": 0.25}])
    assert history[-1] == pytest.approx({"b": 1.0})


def test_a_loss_that_comes_later_starts_at_its_own_first_value(weights_over):
    batches = [{"a": 2.0}, {"a": 2.0, "b": 1e6}, {"a": 2.0, "b": 1e6}]
    history, state = weights_over(ReLoBRaLo(seed=0), batches)
    assert history[1:] == [pytest.approx({"a": 1.0, "b": 1.0})] * 2
    assert state["first"]["b"].item() == 1e6


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_gives_no_ratio_counts_as_no_progress(value, weights_over):
    history, _ = weights_over(ReLoBRaLo(seed=0), [{"a": value, "b": 1.0}, {"a": 5.0, "b": 1.0}])
    assert history == [pytest.approx({"a": 1.0, "b": 1.0})] * 2


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    rule = ReLoBRaLo(rho=0.5, seed=3)
    assert resumed(rule, batches, cut, Stateful) == resumed(rule, batches, None, Stateful)


@pytest.mark.parametrize("options", [{"alpha": 1}, {"rho": 1.5}, {"temperature": 0}])
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(WeightingError, match=rf"ReLoBRaLo: {next(iter(options))} must be a number in .*; found"):
        ReLoBRaLo(**options)


def test_a_seed_that_is_no_whole_number_is_refused():
    with pytest.raises(WeightingError, match=r"ReLoBRaLo: seed must be a whole number or None; found 0\.5"):
        ReLoBRaLo(seed=0.5)
