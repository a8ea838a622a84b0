"""Rules that look at gradients, beside what the code of their authors and of TorchJD makes of the same gradients.

The numbers are in ``answers/``, with the repository, commit and file of each; ``recompute`` computes them anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cograd.weighting import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradVac,
    NashMTL,
    PCGrad,
    Seen,
    UPGrad,
)
from cograd.weighting._pcgrad import orders


def answers(name):
    return json.loads((Path(__file__).parent / "answers" / f"{name}.json").read_text("utf-8"))


JACOBIANS = {name: torch.tensor(J, dtype=torch.float64) for name, J in answers("inputs")["jacobians"].items()}
CASES = [
    (peer, case) for peer in ("torchjd", "config", "authors") for case in answers(peer)["gramian"] if "jacobian" in case
]


COMPARED = set()


def cases(*functions):
    COMPARED.update(functions)
    chosen = [(peer, case) for peer, case in CASES if case["function"] in functions]
    assert {case["function"] for _, case in chosen} == set(functions)
    names = ["-".join([peer, case["function"], case["jacobian"], *settings(case)]) for peer, case in chosen]
    return pytest.mark.parametrize("case", [case for _, case in chosen], ids=names)


def settings(case):
    return [str(value) for key, value in case.get("options", {}).items() if key in ("c", "alpha", "scale_mode")]


def theirs(case):
    """Their direction."""
    if "direction" in case:
        return torch.tensor(case["direction"], dtype=torch.float64)
    return JACOBIANS[case["jacobian"]].T @ torch.tensor(case["weights"], dtype=torch.float64)


def ours(case, rule):
    J = JACOBIANS[case["jacobian"]]
    return J.T @ rule(gramian=J @ J.T)


def assert_same(found, expected, relative=1e-8):
    assert (found - expected).norm() <= relative * expected.norm()


@cases("UPGradWeighting")
def test_upgrad(case):
    assert_same(ours(case, UPGrad(scale="paper")), theirs(case))


@cases("DualProjWeighting")
def test_dualproj(case):
    assert_same(ours(case, DualProj(scale="paper")), theirs(case))


@cases("MGDAWeighting")
def test_mgda(case):
    assert_same(ours(case, MGDA(scale="paper")), theirs(case))


@cases("AlignedMTLWeighting", "ProcrustesSolver")
def test_aligned_mtl(case):
    """The authors take the sum of the aligned gradients, as we do; TorchJD takes their mean."""
    losses = len(JACOBIANS[case["jacobian"]]) if case["function"] == "AlignedMTLWeighting" else 1
    assert_same(ours(case, AlignedMTL(**case["options"])), theirs(case) * losses)


@cases("FairGradWeighting", "FairGrad")
def test_fairgrad(case):
    assert_same(ours(case, FairGrad(**case["options"], scale="paper")), theirs(case))


@cases("ConFIG", "ConFIG_update(pinv)", "ConFIG_update(lstsq)", "ConFIG_update_double")
def test_config(case):
    assert_same(ours(case, ConFIG()), theirs(case))


@cases("IMTLGWeighting", "IMTLG", "IMTLGOperator")
def test_imtlg(case):
    """On dependent gradients theirs differ from each other; ours has the most equal projections, as it says."""
    found, expected, J = ours(case, IMTLG(scale="paper")), theirs(case), JACOBIANS[case["jacobian"]]
    if case["jacobian"] != "alike":
        assert_same(found, expected)
        return
    projections = [J @ g / J.norm(dim=1) / g.norm() for g in (found, expected)]
    assert projections[0].std() < projections[1].std()


@cases("NashMTL")
def test_nash_mtl(case):
    """Theirs stop where their weights change by less than 1e-6, and where ECOS fails (here under uneven norms)."""
    J = JACOBIANS[case["jacobian"]]
    weights = NashMTL(scale="paper")(gramian=J @ J.T)
    assert (weights * (J @ (J.T @ weights)) - 1).abs().max() <= 1e-9
    if case["jacobian"] != "uneven":
        assert_same(J.T @ weights, theirs(case), relative=1e-6)
        return
    w = torch.linalg.lstsq(J.T, theirs(case)).solution
    assert (w * (J @ (J.T @ w)) - 1).abs().max() > 0.1


@cases("CAGradWeighting", "CAGrad")
def test_cagrad(case):
    """The worst-off loss gains at least as much as under their solvers, which stop about 1e-4 from the optimum.

    Under uneven norms SLSQP, which the authors use, stops far from it.
    """
    c, J = case["options"]["c"], JACOBIANS[case["jacobian"]]
    found, expected = ours(case, CAGrad(c, scale="paper")), theirs(case)
    if case["options"].get("rescale"):
        expected = expected * (1 + c**2)  # our page says that it leaves this division out
    mean = J.mean(0)
    radius = c * mean.norm()
    assert (found - mean).norm() <= radius * (1 + 1e-12)
    outside = ((expected - mean).norm() - radius).clamp(min=0)  # theirs may be, since they add 1e-8 to norms
    assert outside <= 1e-6 * radius
    assert (J @ found).min() >= (J @ expected).min() - outside * J.norm(dim=1).max() - 1e-10 * (J @ found).abs().max()
    if not (case["function"] == "CAGrad" and case["jacobian"] == "uneven"):
        assert_same(found, expected, relative=1e-3)


def that_draws(rule, wanted):
    """``rule`` with the seed that makes it draw these orders."""
    for seed in range(20_000):
        if np.array_equal(orders(len(wanted), {"seed": seed, "draws": 0})[0], wanted):
            return rule(seed=seed)
    raise AssertionError(f"no seed draws {wanted}")


def of_the_others(each):
    return [[j for j in order if j != i] for i, order in enumerate(each)]


@cases("PCGrad")
def test_pcgrad_in_the_order_that_they_drew(case):
    rule = that_draws(PCGrad, of_the_others(case["options"]["orders"]))
    assert_same(ours(case, rule), theirs(case))


@cases("PCGradOperator")
def test_pcgrad_in_the_order_of_the_losses(case):
    """The authors of ConFIG leave out the shuffle."""
    losses = len(JACOBIANS[case["jacobian"]])
    assert_same(ours(case, that_draws(PCGrad, of_the_others([range(losses)] * losses))), theirs(case))


@pytest.mark.parametrize("name", JACOBIANS)
def test_pcgrad_of_its_authors(name):
    """They shuffle, and throw the result away, so the order is that of the losses."""
    J = JACOBIANS[name]
    rule = that_draws(PCGrad, of_the_others([range(len(J))] * len(J)))
    expected = torch.tensor(answers("pcgrad")["tensorflow"]["directions"][name], dtype=torch.float64)
    assert_same(J.T @ rule(gramian=J @ J.T), expected)


def test_gradvac_over_several_steps():
    case = next(case for case in answers("torchjd")["gramian"] if case["function"] == "GradVacWeighting")
    rule = GradVac(beta=case["options"]["beta"])
    state = rule.init(())
    for rows, expected in zip(case["jacobians"], case["steps"], strict=True):
        J = torch.tensor(rows, dtype=torch.float64)
        weights, state = rule.weigh(Seen(("a", "b"), None, (True, True), gramian=J @ J.T), state)
        assert weights.tolist() == pytest.approx(expected, rel=1e-8)


def test_every_function_of_the_answers_is_compared():
    assert {case["function"] for _, case in CASES} == COMPARED
