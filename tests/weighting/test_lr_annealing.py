import io
import math

import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import LRAnnealing, Seen


def look(rows, names=("pde", "wall", "start"), present=None):
    magnitudes = torch.tensor(rows, dtype=torch.float64)
    return Seen(names, None, present or (True,) * len(rows), abs=magnitudes)


ROWS = [[6.0, 2.0], [3.0, 0.5], [1.0, 0.1]]


def test_one_step_and_the_next():
    # the authors' shares: 0.9 of the past, 0.1 of max|g_res| / mean|g_i|
    rule = LRAnnealing("pde")
    weights, state = rule.weigh(look(ROWS), {})
    assert weights.tolist() == pytest.approx([1.0, 0.9 + 0.1 * 12, 0.9 + 0.1 * 60])
    weights, _ = rule.weigh(look(ROWS), state)
    assert weights.tolist() == pytest.approx([1.0, 0.9 * 2.1 + 0.1 * 12, 0.9 * 6.9 + 0.1 * 60])


def test_the_share_of_the_past():
    assert LRAnnealing("pde", beta=0.0).weigh(look(ROWS), {})[0].tolist() == pytest.approx([1.0, 12.0, 60.0])
    assert LRAnnealing("wall", beta=0.0).weigh(look(ROWS), {})[0].tolist() == pytest.approx([1.5, 1.0, 30.0])


def test_what_is_absent_or_has_no_gradient_keeps_its_weight():
    rule = LRAnnealing("pde")
    _, state = rule.weigh(look(ROWS), {})
    weights, after = rule.weigh(look([[0.0, 0.0], *ROWS[1:]], present=(False, True, True)), state)
    assert weights.tolist() == pytest.approx([0.0, 2.1, 6.9])
    assert after == state
    weights, after = rule.weigh(look([[0.0, 0.0], *ROWS[1:]]), state)
    assert weights.tolist() == pytest.approx([1.0, 2.1, 6.9])
    weights, after = rule.weigh(look([ROWS[0], [0.0, 0.0], ROWS[2]]), state)
    assert weights[1].item() == pytest.approx(2.1)
    assert after["weights"]["start"] != state["weights"]["start"]


def test_scaling():
    scaled = [[1e9 * x for x in row] for row in ROWS]
    assert LRAnnealing("pde").weigh(look(scaled), {})[0].tolist() == pytest.approx(
        LRAnnealing("pde").weigh(look(ROWS), {})[0].tolist()
    )


def test_it_resumes_from_a_file():
    rule, file = LRAnnealing("pde"), io.BytesIO()
    _, state = rule.weigh(look(ROWS), {})
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


def test_the_reference_must_exist():
    assert list(LRAnnealing("pde").mentions) == ["pde"]


def test_what_it_refuses():
    with pytest.raises(WeightingError, match=r"abs must be \[3, 2\], largest and mean; found None"):
        LRAnnealing("pde").weigh(Seen(("pde", "wall", "start"), None, (True,) * 3), {})
    with pytest.raises(WeightingError, match="gradient of 'wall' on the shared parameters is NaN"):
        LRAnnealing("pde").weigh(look([ROWS[0], [math.nan, math.nan], ROWS[2]]), {})
    with pytest.raises(WeightingError, match="beta must be a number"):
        LRAnnealing("pde", beta=1.0)
    with pytest.raises(WeightingError, match="reference must be the name of a loss"):
        LRAnnealing(3)
