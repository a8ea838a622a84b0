"""What a report says beside rule and line."""

import inspect
from pathlib import Path

import pytest

from cograd import diagnosis

TURNS = """
import torch
from torch import nn

gen, disc = nn.Linear(3, 2), nn.Linear(2, 1)
opt_g, opt_d = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (gen, disc)]
for _ in range({n}):
    loss = disc(gen(torch.randn(4, 3))).mean()
    opt_g.zero_grad()
    opt_d.zero_grad()
    loss.backward()
    opt_g.step()
"""

MODELS = """
import torch
from torch import nn


def main():
    gen = nn.Linear(3, 2)
    head = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(gen.parameters(), lr=0.1)
    for _ in range(5):
        loss = head(gen(torch.randn(4, 3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


main()
"""

COMPILED = """
import torch
from torch import nn

net = torch.compile(nn.Linear(3, 2), backend="eager")
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    net(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
"""

NOT_REDUCED = """
import torch
from torch import nn

net = nn.Linear(3, 2)
apart = net(torch.randn(4, 3)) - 1
{line}
loss.backward()
"""


def test_the_variable_of_a_comprehension_is_no_name_of_a_model(script, examine):
    report = examine(script(TURNS.format(n=5)))
    assert [route["models"] for route in report["routes"]] == [["disc", "gen"]]


def test_models_of_a_function_that_has_ended(script, examine):
    report = examine(script(MODELS))
    assert [(f["rule"], f["line"]) for f in report["findings"]] == [("no-optimizer", 9)]
    assert "head gets gradients" in report["text"]


@pytest.mark.parametrize(("n", "words"), [(1, "after 1 optimizer step"), (2, "after 2 optimizer steps")])
def test_one_step_is_not_several(n, words, script, examine):
    assert examine(script(TURNS.format(n=n)))["text"].endswith(words)


def test_both_cuts_of_an_unreached_model_are_listed(examine):
    (finding,) = examine(Path(__file__).parent / "scripts" / "faulty" / "unreached_model_two_cuts.py")["findings"]
    assert "cut by detach() at line 14 and cut by .data at line 15" in finding["message"]
    assert [r["line"] for r in finding["related"] if r["role"] == "cut"] == [14, 15]


def test_beside_a_compiled_model_every_rule_that_follows_operations_is_named(script, examine):
    (line,) = examine(script(COMPILED))["unchecked"]
    names, _, why = line.partition(": ")
    assert "torch.compile" in why
    assert set(names.split(", ")) == {rule.name for rule in diagnosis.every().values() if rule.follows}
    assert {"cut-term", "unreached-model", "unused-loss"} <= set(names.split(", "))


@pytest.mark.parametrize("rule", diagnosis.every().values(), ids=lambda rule: rule.name)
def test_a_rule_that_reads_operations_says_so(rule):
    source = inspect.getsource(inspect.getmodule(rule.check))
    reads = any(word in source for word in ("log.values", "taped(", "inert(", "MadeLeaf", "Normalised", ".roots"))
    explains_only = {"freed-graph", "non-finite", "non-scalar-backward", "step-before-backward"}
    assert rule.follows or not reads or rule.name in explains_only


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("loss = apart", "reduce it: apart.mean()"),
        ("loss = apart.abs()", "reduce it: loss.mean()"),
        ("def each():\n    return apart**2\nloss = each()", "reduce it: (apart**2).mean()"),
    ],
)
def test_brackets_where_they_are_needed(line, fix, script, examine):
    (finding,) = examine(script(NOT_REDUCED.format(line=line)))["findings"]
    assert finding["fix"] == fix
