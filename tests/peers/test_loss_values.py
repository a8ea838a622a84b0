"""Rules that look at losses alone, beside what other libraries and authors make of the same losses."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import cograd
from cograd.weighting import (
    DWA,
    FAMO,
    IMTLL,
    Fixed,
    GeometricMean,
    ReLoBRaLo,
    Seen,
    SmoothTchebycheff,
    Uncertainty,
)

NAMES = ("a", "b", "c")
ALWAYS = 1 - 2**-53  # the largest probability below 1


def answers(name):
    return json.loads((Path(__file__).parent / "answers" / f"{name}.json").read_text("utf-8"))


LOSSES = answers("inputs")["losses"]


def seen(values, step):
    values = torch.as_tensor(values, dtype=torch.float64)
    return Seen(NAMES, values, (True,) * 3, step, epoch=step)


def weights(rule):
    """The weights over the steps; a rule that looks back sees the losses of the next step."""
    history, state = [], rule.init(NAMES)
    for step, values in enumerate(LOSSES):
        weights, state = rule.weigh(seen(values, step), state)
        history.append(weights.tolist())
        if "after" in rule.needs:
            if step == len(LOSSES) - 2:
                break
            state = rule.after(seen(LOSSES[step + 1], step), state)
    return history


def tchebycheff(case):
    each = case["options"].get("weights", [1 / 3] * 3)
    ideal = case["options"].get("reference", [0.0] * 3)
    preference, reference = (dict(zip(NAMES, values, strict=True)) for values in (each, ideal))
    return SmoothTchebycheff(case["options"]["mu"], preference, reference, scale="paper")


OURS = {
    "torchjd": {
        "GeometricMean": lambda case: GeometricMean(),
        "STCH": tchebycheff,
        "UW": lambda case: Uncertainty(lr=case["lr"]),
        "IMTLL": lambda case: IMTLL(lr=case["lr"]),
        "DWA": lambda case: DWA(),
        "FAMO": lambda case: FAMO(
            gamma=1e-3, bounds=dict(zip(NAMES, case["options"]["min_losses"], strict=True)), scale="paper"
        ),
    },
    "physicsnemo": {
        "Sum": lambda case: Fixed({}),
        "HomoscedasticUncertainty": lambda case: Uncertainty(lr=case["lr"]),
        # its SoftAdapt is of ratios, not of differences: the part of ReLoBRaLo that looks one step back
        "SoftAdapt": lambda case: ReLoBRaLo(alpha=0, temperature=1, seed=0),
        "Relobralo": lambda case: ReLoBRaLo(
            alpha=case["options"]["alpha"],
            rho=min(case["options"]["beta"], ALWAYS),
            temperature=case["options"]["tau"],
            seed=0,
        ),
    },
}
CASES = [pytest.param(peer, case, id=f"{peer}-{case['function']}-{i}")
         for peer in OURS for i, case in enumerate(answers(peer)["losses"])]  # fmt: skip


@pytest.mark.parametrize(("peer", "case"), CASES)
def test_the_same_weights_at_each_step(peer, case):
    found = weights(OURS[peer][case["function"]](case))
    assert len(found) == len(case["weights"])
    for step, expected in enumerate(case["weights"]):
        assert found[step] == pytest.approx(expected, rel=1e-8), step


def test_famo_of_its_authors():
    for found, expected in zip(weights(FAMO(scale="paper")), answers("famo")["weights"], strict=True):
        assert found == pytest.approx(expected, rel=1e-8)


def test_the_demonstration_of_famo_trains_the_same_under_a_joint():
    case = answers("famo")["demonstration"]
    rows, columns, tasks = case["rows"], case["columns"], case["tasks"]
    X = torch.sin(torch.arange(rows * columns, dtype=torch.float64)).reshape(rows, columns)
    Y = torch.cos(torch.arange(rows * tasks, dtype=torch.float64)).reshape(rows, tasks)
    Y = Y * torch.tensor([0.1, 1.0, 3.0, 1.0, 10.0], dtype=torch.float64)
    net = nn.Linear(columns, tasks).double()
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)

    def losses(m, batch):
        each = (Y - m.net(batch)).pow(2).mean(0)
        return {f"task{i}": loss for i, loss in enumerate(each.unbind())}

    joint = cograd.Joint(models={"net": net}, losses=losses, optimizers=torch.optim.Adam, weighting=FAMO(scale="paper"))
    reports = [joint.step(X) for _ in range(50)]
    means = [sum(float(loss) for loss in report.losses.values()) / tasks for report in reports]
    assert means[::7] == pytest.approx(case["mean_losses"], rel=1e-8)
    assert net.bias.tolist() == pytest.approx(case["bias"], rel=1e-8)
