"""On any architecture all engines agree, to rounding in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import cograd
from cograd.gramian import Layerwise, Rows

WIDTH, POSITIONS = 4, 3
KINDS = ["linear", "matmul", "conv", "norm", "relu", "tanh", "add", "times", "term", "words", "detach", "scale"]


@st.composite
def programs(draw):
    """Instructions ``(kind, layer, inputs)``: each makes a value ``[batch, positions, width]`` from earlier ones."""
    steps = draw(st.integers(1, 9))
    program = []
    for i in range(steps):
        inputs = [draw(st.integers(0, i)) for _ in range(2)]
        program.append((draw(st.sampled_from(KINDS)), draw(st.integers(0, 2)), inputs))
    taps = st.lists(st.integers(0, steps), min_size=1, max_size=3)
    losses = draw(st.lists(st.tuples(taps, st.booleans()), min_size=2, max_size=6))
    return program, losses, draw(st.integers(1, 5))


class Net(nn.Module):
    """Layers that a program may use any number of times."""

    def __init__(self):
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=i > 0) for i in range(3))
        self.conv = nn.ModuleList(
            nn.Conv1d(POSITIONS, POSITIONS, 1 + 2 * (i > 0), padding=int(i > 0)) for i in range(3)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.words = nn.ModuleList(nn.Embedding(20, WIDTH, padding_idx=None if i else 0) for i in range(3))
        self.scale = nn.ParameterList(torch.randn(()) for _ in range(3))

    def run(self, kind, layer, x, y):
        match kind:
            case "linear" | "conv" | "norm":
                return getattr(self, kind)[layer](x)
            case "matmul":
                return x @ self.linear[layer].weight
            case "relu" | "tanh":
                return getattr(F, "leaky_relu" if kind == "relu" else kind)(x)
            case "add":
                return x + y
            case "times":
                return x * y.sigmoid()
            case "term":
                return x + self.linear[layer].weight.square().mean()
            case "words":
                return x + self.words[layer](y.detach().abs().mul(7).long().sum(-1) % 20)
            case "detach":
                return x.detach() + 0.5 * y
            case "scale":
                return x * self.scale[layer]


def evaluate(program, losses, batch):
    torch.manual_seed(0)
    net = Net()
    values = [torch.randn(batch, POSITIONS, WIDTH)]
    for kind, layer, (i, j) in program:
        values.append(net.run(kind, layer, values[i], values[j]))
    found = {}
    for k, (taps, direct) in enumerate(losses):
        loss = sum((values[t] * (0.3 + 0.1 * k + i)).sin().mean() for i, t in enumerate(taps))
        found[f"l{k}"] = loss + 0.1 * net.linear[k % 3].weight.square().sum() if direct else loss
    return net, {name: loss for name, loss in found.items() if loss.requires_grad}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def by_hand(net, losses):
    """Parameter -> loss -> gradient, one loss at a time."""
    leaves = list(net.parameters())
    rows = {p: {} for p in leaves}
    for name, loss in losses.items():
        for p, g in zip(leaves, torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True), strict=True):
            if g is not None:
                rows[p][name] = g
    return rows


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs())
def test_engines_agree_with_each_loss_on_its_own(given):
    program, losses, batch = given
    net, values = evaluate(program, losses, batch)
    if not values:
        return
    rows = by_hand(net, values)
    shared = [own for own in rows.values() if len(own) > 1]
    weights = {name: 0.5 + i for i, name in enumerate(values)}
    for engine in (Rows(), Layerwise(), None):
        own, losses_now = evaluate(program, losses, batch)
        if not shared:
            report = cograd.backward(losses_now)
            assert report.gramian is None
            weights = dict.fromkeys(values, 1.0)
        else:
            seen = []
            report = cograd.backward(
                losses_now,
                weighting=lambda g, seen=seen: seen.append(g) or torch.arange(len(g)) + 0.5 + g[0, 0],
                gramian=engine,
            )
            weights = report.weights
            names = report.gramian.names
            exact = torch.tensor(
                [[sum(float((o[a] * o[b]).sum()) for o in shared if {a, b} <= o.keys()) for a in names] for b in names]
            )
            torch.testing.assert_close(
                report.gramian.matrix, exact, rtol=1e-10, atol=1e-10 * float(exact.diagonal().max())
            )
            for g, start in zip(seen, _starts(seen), strict=True):
                part = names[start : start + len(g)]
                for i, name in enumerate(part):
                    assert weights[name] == pytest.approx(i + 0.5 + float(exact[start, start]), rel=1e-9)
        for p, q in zip(own.parameters(), rows, strict=True):
            wanted = rows[q]
            assert (p.grad is None) == (not wanted)
            if wanted:
                total = sum((weights[k] if len(wanted) > 1 else 1.0) * g for k, g in wanted.items())
                size = sum(float((weights[k] * g).abs().max()) for k, g in wanted.items())
                torch.testing.assert_close(p.grad, total, rtol=1e-10, atol=1e-10 * size)


def _starts(grams):
    start, starts = 0, []
    for g in grams:
        starts.append(start)
        start += len(g)
    return starts
