import io

import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import GradNorm, Seen

G = torch.tensor([[18.0, -22.0], [-22.0, 38.0]], dtype=torch.float64)


def look(losses, gramian=G, step=0, present=None, names=("a", "b")):
    here = present or (True,) * len(losses)
    return Seen(names, torch.tensor(losses, dtype=torch.float64), here, step, gramian=gramian)


def test_known_step():
    # Eq. 1-2 and Algorithm 1 by hand, cross-checked with SamsungLabs/MTL and NVIDIA/physicsnemo-sym
    state = {"weights": {"a": 1.3, "b": 0.7}, "first": {"a": 2.0, "b": 4.0}}
    weights, after = GradNorm(alpha=1.5, lr=0.025, scale="paper").weigh(look([1.0, 3.5]), state)
    assert weights.tolist() == pytest.approx([1.3, 0.7])
    assert list(after["weights"].values()) == pytest.approx([1.1659259164, 0.8340740836], abs=1e-9)
    assert after["first"] == {"a": 2.0, "b": 4.0}


def test_the_first_batch_has_ones_and_gives_the_first_values():
    weights, after = GradNorm().weigh(look([2.0, 4.0]), {})
    assert weights.tolist() == [1.0, 1.0]
    assert after["first"] == {"a": 2.0, "b": 4.0}
    assert after["weights"]["a"] > 1 > after["weights"]["b"]


def test_it_evens_out_the_norms():
    for rule in (GradNorm(alpha=0.0, lr=1e-3), GradNorm(alpha=0.0, lr=1e-3, scale="paper")):
        state = {}
        for step in range(4000):
            weights, state = rule.weigh(look([1.0, 1.0], step=step), state)
        norms = weights * G.diagonal().sqrt()
        assert norms[0].item() == pytest.approx(norms[1].item(), rel=0.02)


@pytest.mark.parametrize("ratio", [1e2, 1e6])
def test_it_evens_out_norms_of_any_scale_and_stays_there(ratio):
    size = torch.tensor([1.0, ratio], dtype=torch.float64)
    rule, state, late = GradNorm(alpha=0.0), {}, []
    for step in range(1500):
        weights, state = rule.weigh(look([1.0, 1.0], G * size * size[:, None], step), state)
        if step > 1200:
            norms = weights * size * G.diagonal().sqrt()
            late.append((norms[0] / norms[1]).item())
    assert 0.9 < min(late) <= max(late) < 1.1


def test_no_scale_of_all_losses_matters():
    weights = []
    for size in (1.0, 1e3):
        state = {}
        for step in range(20):
            last, state = GradNorm().weigh(look([2.0 * size, 4.0 * size], G * size**2, step), state)
        weights.append(last)
    torch.testing.assert_close(*weights)


def test_every_nth_step():
    rule, state, seen = GradNorm(every=3), {}, []
    for step in range(7):
        weights, state = rule.weigh(look([2.0, 4.0], step=step), state)
        seen.append(weights[0].item())
    assert seen[1] == seen[2] == seen[3] != seen[4] == seen[5] == seen[6]


def test_weights_stay_positive_and_sum_to_the_number_of_losses():
    rule, state = GradNorm(lr=100.0, scale="paper"), {}
    for step in range(50):
        weights, state = rule.weigh(look([2.0, 4.0], step=step), state)
        assert (weights > 0).all()
        assert weights.sum().item() == pytest.approx(2.0)


def test_absent_and_new_losses():
    rule = GradNorm()
    _, state = rule.weigh(look([2.0, 4.0]), {})
    weights, after = rule.weigh(look([2.0, 0.0], step=1, present=(True, False)), state)
    assert weights.tolist() == [1.0, 0.0]
    assert after["weights"]["b"] == state["weights"]["b"]
    three = torch.eye(3, dtype=torch.float64)
    weights, after = rule.weigh(look([2.0, 4.0, 8.0], three, 1, names=("a", "b", "c")), state)
    assert weights.sum().item() == pytest.approx(3.0)
    assert after["first"] == {"a": 2.0, "b": 4.0, "c": 8.0}


def test_a_first_value_of_zero_waits_for_another():
    _, state = GradNorm().weigh(look([0.0, 0.0]), {})
    assert all(torch.tensor(w).isfinite() for w in state["weights"].values())
    _, state = GradNorm().weigh(look([5.0, 0.0]), state)
    assert state["first"] == {"a": 5.0, "b": 0.0}


def test_balanced_losses_keep_ones():
    rule, state = GradNorm(), {}
    for step in range(5):
        weights, state = rule.weigh(look([3.0, 3.0], torch.eye(2).double(), step), state)
    assert weights.tolist() == [1.0, 1.0]


def test_it_resumes_from_a_file():
    rule, file, state, expected = GradNorm(), io.BytesIO(), {}, []
    batches = [[2.0, 4.0], [1.5, 3.9], [1.0, 3.0], [0.9, 2.0]]
    for step, losses in enumerate(batches):
        if step == 2:
            torch.save(state, file)
        weights, state = rule.weigh(look(losses, step=step), state)
        expected.append(weights)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for step in (2, 3):
        weights, state = rule.weigh(look(batches[step], step=step), state)
        torch.testing.assert_close(weights, expected[step], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"lr": -0.1}, {"every": 0}, {"every": 1.5}, {"scale": "mean"}])
def test_what_it_refuses(options):
    with pytest.raises(WeightingError, match="GradNorm: "):
        GradNorm(**options)
