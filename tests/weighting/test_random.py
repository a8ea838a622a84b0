import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import Random, Seen, Stateful


def draws(rule, number, losses=(3.0, 1.0, 1.0)):
    state, names = rule.init(()), tuple("abc"[: len(losses)])
    for _ in range(number):
        weights, state = rule.weigh(Seen(names, torch.tensor(losses), (True,) * len(names)), state)
        yield weights


def test_the_logarithms_of_the_weights_are_normal():
    weights = torch.stack([*draws(Random(seed=1), 4000)]).log()
    apart = weights[:, 0] - weights[:, 1]  # of two independent N(0, 1): mean 0, variance 2
    assert abs(apart.mean()) < 0.1
    assert apart.var().item() == pytest.approx(2, rel=0.1)


def test_on_average_all_losses_weigh_one():
    torch.testing.assert_close(torch.stack([*draws(Random(seed=1), 4000)]).mean(0), torch.ones(3), rtol=0, atol=0.05)


def test_the_same_seed_gives_the_same_weights(same):
    same([*draws(Random(seed=3), 5)], [*draws(Random(seed=3), 5)])
    assert not torch.equal(*(next(draws(Random(seed=seed), 1)) for seed in (3, 4)))
    first, second = draws(Random(seed=3), 2)
    assert not torch.equal(first, second)


def test_without_a_seed_torch_gives_one(same):
    torch.manual_seed(5)
    first, other = [*draws(Random(), 2)], [*draws(Random(), 2)]
    torch.manual_seed(5)
    same(first, [*draws(Random(), 2)])
    assert not torch.equal(first[0], other[0])


def test_the_losses_do_not_matter_and_torchs_generator_is_left_alone(same):
    before = torch.get_rng_state()
    same([*draws(Random(seed=0), 3)], [*draws(Random(seed=0), 3, losses=(1e9, 0.0, -1.0))])
    assert torch.equal(before, torch.get_rng_state())


def test_the_papers_scale_is_the_simplex():
    (weights,) = draws(Random(seed=0, scale="paper"), 1)
    assert weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    rule = Random(seed=7)
    assert resumed(rule, batches, cut, Stateful) == resumed(rule, batches, None, Stateful)


def test_a_seed_that_is_no_whole_number_is_refused():
    with pytest.raises(WeightingError, match="Random: seed must be a whole number or None; found 'x'"):
        Random(seed="x")
