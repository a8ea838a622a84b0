import pytest

from cograd.errors import WeightingError
from cograd.weighting import CoV, Stateful

VALUES = [[2.0, 0.5, 4.0], [1.8, 0.6, 3.0], [1.5, 0.3, 3.5], [1.6, 0.2, 2.0], [1.2, 0.25, 2.5]]
BATCHES = [dict(zip("abc", values, strict=True)) for values in VALUES]
PAPER = [
    [1 / 3, 1 / 3, 1 / 3],
    [1 / 3, 1 / 3, 1 / 3],
    [0.1837711245530633, 0.3174223753680158, 0.4988065000789208],
    [0.18312713381136794, 0.5713967338308082, 0.2454761323578238],
    [0.11839503039602271, 0.5705282850765849, 0.31107668452739246],
]


def test_known_answer(weights_over):
    """Weights of losses/covweighting_loss.py of rickgroen/cov-weighting, full mean, run in float64."""
    history, _ = weights_over(CoV(scale="paper"), BATCHES)
    for weights, expected in zip(history, PAPER, strict=True):
        assert [*weights.values()] == pytest.approx(expected, abs=1e-10)
    history, _ = weights_over(CoV(), BATCHES)
    for weights, expected in zip(history, PAPER, strict=True):
        assert [*weights.values()] == pytest.approx([3 * w for w in expected], abs=1e-9)


def test_a_loss_that_is_new_weighs_one_and_leaves_the_rest_to_the_others(weights_over):
    history, _ = weights_over(CoV(), [*BATCHES[:3], {**BATCHES[3], "d": 7.0}])
    assert history[3]["d"] == 1.0
    assert [history[3][name] for name in "abc"] == pytest.approx([3 * w for w in PAPER[3]], abs=1e-9)


def test_an_absent_loss_keeps_its_statistics(weights_over):
    gap = [*BATCHES[:2], {"d": 1.0}, *BATCHES[2:]]
    with_gap, without = (weights_over(CoV(), batches)[0] for batches in (gap, BATCHES))
    assert with_gap[3:] == without[2:]


def test_constant_losses_weigh_the_same(weights_over):
    history, _ = weights_over(CoV(), BATCHES[:1] * 4)
    assert history == [pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})] * 4


def test_a_constant_loss_beside_one_that_varies_hardly_counts(weights_over):
    history, _ = weights_over(CoV(), [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}])
    assert history[2]["a"] < 1e-3
    assert sum(history[2].values()) == pytest.approx(2)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_what_gives_no_ratio_counts_as_constant(value, weights_over):
    history, _ = weights_over(CoV(), [{"a": value, "b": 1.0}] * 4)
    assert history == [pytest.approx({"a": 1.0, "b": 1.0})] * 4


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}, {"a": 1.0, "b": 2.0}]
    assert resumed(CoV(), batches, cut, Stateful) == resumed(CoV(), batches, None, Stateful)


def test_an_unknown_scale_is_refused():
    with pytest.raises(WeightingError, match="CoV: scale must be one of 'sum', 'paper'; found 'mean'"):
        CoV(scale="mean")
