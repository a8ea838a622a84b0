import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import SmoothTchebycheff

PREFERENCE = {"loss0": 0.2, "loss1": 0.3, "loss2": 0.5}
REFERENCE = {"loss0": 0.1, "loss2": 0.2}
LOSSES = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
PAPER = [0.03355683649021365, 0.20411952333378985, 0.07590870321814946]


def test_known_answer():
    """Gradient of TorchJD 0.18's STCH."""
    rule = SmoothTchebycheff(0.3, PREFERENCE, REFERENCE, scale="paper")
    assert rule(LOSSES).tolist() == pytest.approx(PAPER, abs=1e-12)
    rule = SmoothTchebycheff(0.3, PREFERENCE, REFERENCE)
    assert rule(LOSSES).tolist() == pytest.approx([9 * w for w in PAPER], abs=1e-12)


def test_it_is_the_gradient_of_the_smooth_maximum():
    losses = LOSSES.clone().requires_grad_()
    (0.7 * torch.logsumexp(losses / 0.7, 0)).backward()
    torch.testing.assert_close(SmoothTchebycheff(0.7, scale="paper")(LOSSES), losses.grad)


def test_the_uniform_preference_of_the_paper_is_the_same_rule_with_a_larger_mu():
    uniform = SmoothTchebycheff(0.1, dict.fromkeys(PREFERENCE, 1 / 3))
    torch.testing.assert_close(uniform(LOSSES), SmoothTchebycheff(0.3)(LOSSES))


def test_a_small_mu_leaves_the_largest_loss_alone():
    assert SmoothTchebycheff(1e-3)(LOSSES).tolist() == [0.0, 3.0, 0.0]


def test_a_large_mu_takes_all_alike():
    assert SmoothTchebycheff(1e9)(LOSSES).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_absent_losses_take_no_share(weights_over):
    history, state = weights_over(SmoothTchebycheff(), [{"a": -3.0, "b": None, "c": -3.0}, {"b": 0.0}])
    assert history == [{"a": 1.0, "c": 1.0}, {"b": 1.0}]
    assert state == {}


def test_what_it_names():
    assert set(SmoothTchebycheff(preference={"a": 1.0}, reference={"b": 0.0}).mentions) == {"a", "b"}


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_preference_must_be_positive(value):
    with pytest.raises(WeightingError, match=r"preference\['a'\] must be above 0; found"):
        SmoothTchebycheff(preference={"a": value})


def test_a_mu_of_zero_is_refused():
    with pytest.raises(WeightingError, match=r"SmoothTchebycheff: mu must be a number in \(0, inf\); found 0"):
        SmoothTchebycheff(mu=0)
