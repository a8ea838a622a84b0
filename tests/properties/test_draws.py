"""Gradients that degenerate: 2,000 of the draws that ``make test-draws`` runs 20,000 of."""

import inspect

import numpy as np
import pytest
import torch

from cograd import weighting
from cograd.weighting import Weighting


@pytest.mark.parametrize("block", range(20))
def test_no_rule_raises_opposes_what_it_protects_or_depends_on_order_or_scale(block, draws):
    faulty = {}
    for seed in range(100 * block, 100 * (block + 1)):
        if found := draws.faults(seed):
            faulty[seed] = found
    assert faulty == {}


@pytest.mark.parametrize("seed", range(24))
def test_lengths_over_all_of_float64_give_finite_weights(seed, draws):
    J, _ = draws.draw(seed)
    rng = np.random.default_rng(seed)
    norms = np.linalg.norm(J, axis=1, keepdims=True)
    J = J / np.where(norms > 0, norms, 1) * 10 ** rng.uniform(-145, 145, norms.shape)
    for rule in draws.RULES.values():
        weights = draws.run(rule, J, draws.products(J), rng.random((len(J), len(J))), range(len(J)))
        assert np.isfinite(weights).all()


def test_every_rule_that_looks_at_gradients_is_drawn_for(draws):
    public = [getattr(weighting, name) for name in weighting.__all__]
    rules = {x for x in public if inspect.isclass(x) and issubclass(x, Weighting)}
    own = {rule for rule in rules if rule.needs & {"gramian", "abs"} and not rule.__name__.startswith("From")}
    assert {type(rule) for rule in draws.RULES.values()} == own
    assert len(own) == 13


def test_the_draws_are_of_every_kind(draws):
    seen = [draws.draw(seed) for seed in range(480)]
    assert {kind for _, kind in seen} == {f"{kind}, {scale}" for kind in draws.KINDS for scale in draws.SCALES}
    assert {len(J) for J, _ in seen} == set(range(2, 21))
    dependent = [
        np.linalg.matrix_rank(J / np.linalg.norm(J, axis=1, keepdims=True).clip(1e-300)) < len(J) for J, _ in seen
    ]
    assert 0.5 < np.mean(dependent) < 0.95
    assert sum((J == 0).all(axis=1).any() for J, _ in seen) > 40
    sizes = np.log10([np.linalg.norm(J, axis=1).max() for J, _ in seen])
    assert sizes.min() < -7
    assert sizes.max() > 7


def test_the_faults_are_found(draws):
    """Each of the three, in rules made to have it."""
    fails = weighting.FromGramian(lambda gramian: gramian.diagonal()[:-1])
    against = weighting.FromGramian(lambda gramian: -torch.ones(len(gramian)))
    first = weighting.FromGramian(lambda gramian: torch.arange(len(gramian)) + 1.0)
    found = draws.faults(0, {"MGDA": fails, "UPGrad": against, "PCGrad": first})
    assert [found[name][0] for name in ("MGDA", "UPGrad", "PCGrad")] == list(draws.FAULTS)
