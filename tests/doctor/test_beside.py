"""What is measured beside a script: right where it is measured, and bounded."""

import math

import pytest
import torch

from cograd import diagnosis
from cograd.tracing import Pulled, Timed

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, one, two = nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 1)
scale = nn.Parameter(torch.ones(()))
held = [*trunk.parameters(), *one.parameters(), *two.parameters(), scale]
optimizer = torch.optim.SGD(held, lr=0.0)
x = torch.randn(8, 4)

for i in range({times}):
    code = trunk(x).tanh()
    first, second = one(code).square().mean(), two(code).abs().mean()
{total}
    optimizer.zero_grad()
{backward}
    optimizer.step()
"""
SUM = "    total.backward()"
TOTALS = {
    "    total = first + second": (["first", "second"], SUM),
    "    total = 3 * first - 0.5 * second": (["3 * first", "-0.5 * second"], SUM),
    "    total = (first / 4 + second) * 2": (["first / 2", "2 * second"], SUM),
    "    total = torch.stack([first, 2 * second]).mean()": (["first / 2", "second"], SUM),
    "    total = first\n    total = total + first * second": (["first", "first * second"], SUM),
    "    total = first + torch.exp(-scale) * second + scale": (["first", "torch.exp(-scale) * second"], SUM),
    "    total = 1 * first\n    total += second.sqrt()": (["first", "second.sqrt()"], SUM),
    "": (["first", "second"], "    first.backward(retain_graph=True)\n    second.backward()"),
    " ": (["first", "0.25 * second"], "    first.backward(retain_graph=True)\n    (second / 4).backward()"),
}


def measured(path):
    """For the first iteration: the lengths and the angle of two addends on the trunk, and as autograd has them."""
    ran = diagnosis.run(str(path))
    names = {p.name: n for n, p in ran.log.parameters.items()}
    event = ran.log.of(Pulled)[0]
    grams = [event.inner[names[name]] for name in ("trunk.weight", "trunk.bias")]
    found = [[sum(g[i][j] for g in grams) for j in (0, 1)] for i in (0, 1)]
    return found, ran.log.failures, dict(ran.log.unchecked)


def expected(path, addends):
    scope: dict = {}
    exec(path.read_text().replace("    optimizer.step()", ""), scope)
    rows = []
    for addend in addends:
        gradients = torch.autograd.grad(eval(addend, scope), [*scope["trunk"].parameters()], retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]).double())
    return (torch.stack(rows) @ torch.stack(rows).T).tolist()


@pytest.mark.parametrize("total", TOTALS, ids=range(len(TOTALS)))
def test_addends_are_measured_as_autograd_does(total, script, fork):
    addends, backward = TOTALS[total]
    path = script(
        MODEL.format(times=1, total=total, backward=backward.replace("backward()", "backward(retain_graph=True)"))
    )
    found, failures, unchecked = fork(measured, path)
    assert failures == []
    assert unchecked == {}
    torch.testing.assert_close(found, expected(path, addends), rtol=1e-4, atol=1e-9)


def test_large_models_are_sampled(script, fork):
    def work():
        from cograd.tracing import _pulls

        _pulls._ELEMENTS = 10
        return measured(path)

    path = script(MODEL.format(times=1, total="    total = first + second", backward=SUM))
    (a, b), failures, _ = fork(work)
    assert failures == []
    assert 0 < abs(a[1]) < math.sqrt(a[0] * b[1])


def test_only_the_first_iterations_are_measured(script, fork):
    path = script(MODEL.format(times=50, total="    total = first + second", backward=SUM))
    assert fork(lambda: len(diagnosis.run(str(path)).log.of(Pulled))) in range(3, 6)


WASTE = """
import torch
from torch import nn

torch.manual_seed(0)
maker, judge = nn.Linear(4, 4), nn.Linear(4, 1)
opt_maker, opt_judge = torch.optim.SGD(maker.parameters(), lr=0.1), torch.optim.SGD(judge.parameters(), lr=0.1)
x = torch.randn(16, 4)
for _ in range(6):
    made = maker(x)
    opt_judge.zero_grad()
    (judge(made.detach()) - judge(x)).square().mean().backward()
    opt_judge.step()
    opt_maker.zero_grad()
    loss = -judge(made).mean()
    HOOK
    loss.backward()
    opt_maker.step()
"""


def timed(path, wanted):
    log = diagnosis.run(str(path), timed=wanted).log
    return [[e.site.source, len(e.seconds), min(min(pair) for pair in e.seconds)] for e in log.of(Timed)], log.failures


@pytest.mark.parametrize("hook", ["pass", "made.register_hook(lambda g: None)"])
@pytest.mark.parametrize("wanted", [True, False])
def test_wasted_gradients_are_timed_where_that_leaves_no_trace(hook, wanted, script, fork):
    found, failures = fork(timed, script(WASTE.replace("HOOK", hook)), wanted)
    assert failures == []
    if not wanted or hook != "pass":
        assert found == []
        return
    ((source, pairs, least),) = found
    assert source == "loss.backward()"
    assert pairs >= 5
    assert least > 0


def said(path, seconds):
    ran = diagnosis.run(str(path))
    site = next(f.site for f in diagnosis.diagnose(ran, perf=True).findings if f.rule == "wasted-gradient")
    ran.log.append(Timed(10**6, site, tuple(tuple(pair) for pair in seconds)))
    return next(f.message for f in diagnosis.diagnose(ran, perf=True).findings if f.rule == "wasted-gradient")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [([(4e-3, 3e-3)] * 8, ": 25 % of the 4 ms that it takes"), ([(4e-3, 3e-3), (3e-3, 4e-3)] * 4, "no step applies")],
)
def test_a_time_is_said_only_where_it_is_no_accident(seconds, words, script, fork):
    assert fork(said, script(WASTE.replace("HOOK", "pass")), seconds).endswith(words)
