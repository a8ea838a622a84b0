import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import SoftOptimalUncertainty

LOSSES = torch.tensor([2.0, 0.5, 4.0], dtype=torch.float64)
PAPER = [0.2500314489349656, 0.5293165716243277, 0.2206519794407068]


def test_known_answer():
    """softmax((1 / (L + 1e-8)) / T) of the UW_SO that others wrote for LibMTL, at T = 2."""
    assert SoftOptimalUncertainty(2.0, scale="paper")(LOSSES).tolist() == pytest.approx(PAPER, abs=1e-7)
    assert SoftOptimalUncertainty(2.0)(LOSSES).tolist() == pytest.approx([3 * w for w in PAPER], abs=1e-7)


def test_a_high_temperature_makes_the_weights_equal():
    assert SoftOptimalUncertainty(1e9)(LOSSES).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_absent_losses_take_no_share(weights_over):
    history, state = weights_over(SoftOptimalUncertainty(), [{"a": 3.0, "b": None, "c": 3.0}, {"b": 0.1}])
    assert history == [{"a": 1.0, "c": 1.0}, {"b": 1.0}]
    assert state == {}


def test_zero_counts_as_the_floor():
    assert SoftOptimalUncertainty()(torch.tensor([0.0, 1.0])).tolist() == [2.0, 0.0]
    assert SoftOptimalUncertainty(floor=1.0)(torch.tensor([0.0, 1.0])).tolist() == [1.0, 1.0]


def test_a_negative_loss_is_reported():
    assert SoftOptimalUncertainty()(torch.tensor([-1.0, 1.0])).isnan().all()


@pytest.mark.parametrize("options", [{"temperature": 0}, {"floor": -1}])
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(WeightingError, match=rf"{next(iter(options))} must be a number in \(0, inf\); found"):
        SoftOptimalUncertainty(**options)


def test_an_unknown_scale_is_refused():
    with pytest.raises(WeightingError, match="scale must be one of 'sum', 'paper'; found 'mean'"):
        SoftOptimalUncertainty(scale="mean")
