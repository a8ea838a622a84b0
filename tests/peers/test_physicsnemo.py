"""The aggregators of PhysicsNeMo Sym that look at gradients, and the values that its own tests hold."""

import json
from pathlib import Path

import pytest
import torch

from cograd.weighting import Fixed, GradNorm, LRAnnealing, ReLoBRaLo, Seen, Uncertainty

NAMES = ("a", "b", "c")
ALL = (True, True, True)
DATA = Path(__file__).parent / "answers"
ANSWERS = json.loads((DATA / "physicsnemo.json").read_text("utf-8"))
INPUTS = json.loads((DATA / "inputs.json").read_text("utf-8"))


def magnitudes(means):
    """Its annealing takes the mean of the reference's gradient where the paper and we take the maximum."""
    return torch.stack([means, means], 1)


@pytest.mark.parametrize("case", ANSWERS["gradients"], ids=lambda case: f"{case['function']}-{case['jacobian']}")
def test_the_same_weights_at_each_step(case):
    J = torch.tensor(INPUTS["jacobians"][case["jacobian"]], dtype=torch.float64)
    if case["function"] == "GradNorm":
        rule = GradNorm(alpha=case["options"]["alpha"], lr=0.025)
    else:
        rule = LRAnnealing("a", beta=1 - case["options"]["alpha"])
    state = rule.init(NAMES)
    for step, (losses, expected) in enumerate(zip(INPUTS["losses"], case["weights"], strict=True)):
        values = torch.tensor(losses, dtype=torch.float64)
        seen = Seen(NAMES, values, ALL, step, gramian=J @ J.T, abs=magnitudes(J.abs().mean(1)))
        weights, state = rule.weigh(seen, state)
        if case["function"] == "LRAnnealing" and step == 0:
            assert weights.tolist() != [1.0] * 3
        assert weights.tolist() == pytest.approx(expected, rel=1e-8), step


# With the options of its tests. Those leave out the learned numbers of GradNorm and of the uncertainty from the
# optimizer, so the rate is 0. SoftAdapt: see test_loss_values.py.
STORED = {
    "Sum": Fixed({}),
    "GradNorm": GradNorm(lr=0),
    "HomoscedasticUncertainty": Uncertainty(lr=0),
    "LRAnnealing": LRAnnealing("a", beta=0.99),
    "SoftAdapt": ReLoBRaLo(alpha=0, temperature=1, seed=0),
    "Relobralo": ReLoBRaLo(alpha=0.95, rho=0.99, temperature=1, seed=0),
}


@pytest.mark.parametrize("case", ANSWERS["stored"], ids=lambda case: case["function"])
def test_a_thousand_steps_end_where_its_tests_say(case):
    """To 1e-5: they ran in float32, and their own tests allow 1e-4.

    A plain sum would end there too for GradNorm, SoftAdapt and ReLoBRaLo; the weights of each step are told above.
    """
    rule = STORED[case["function"]]
    gramian, losses, means = (torch.tensor(case[key], dtype=torch.float64) for key in ("gramian", "first", "means"))
    state = rule.init(NAMES)
    for step in range(case["steps"]):
        weights, state = rule.weigh(Seen(NAMES, losses, ALL, step, gramian=gramian, abs=magnitudes(means)), state)
        objective = weights @ losses.to(weights)
        lr = case["lr"] / 3 if step < 5 else case["lr"]  # the default of ConstantLR
        losses = losses - lr * gramian @ weights.to(losses)  # plain descent: the losses are linear
    torch.testing.assert_close(losses, torch.tensor(case["last"], dtype=torch.float64), rtol=1e-5, atol=0)
    if case["function"] != "GradNorm":  # whose objective holds the distance of the norms as well
        assert objective.item() == pytest.approx(case["objective"], rel=1e-5)
