"""Accumulation, clipping, schedulers and followers on random declarations, against a plain loop that takes its time."""

import copy
from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR

from cograd import EMA, Copy, Joint, Phase

NAMES = ("a", "b", "c")
OPTIMIZERS = (partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1), partial(Adam, lr=0.05))


def networks():
    torch.manual_seed(4)
    return {name: nn.Linear(3, 3).double() for name in NAMES}


def chain(m, batch):
    """Losses ``l0`` to ``l2``, each of all models before it too; absent where the batch says so."""
    x, absent = batch
    h, found = x, {}
    for i, name in enumerate(NAMES):
        h = m[name](h).tanh()
        found[f"l{i}"] = None if i in absent else (h - 0.3 * i).square().mean()
    return found


@st.composite
def declarations(draw):
    routes = {}
    for i in range(3):
        reached = NAMES[: i + 1]
        chosen = draw(st.sets(st.sampled_from(reached), min_size=1))
        routes[f"l{i}"] = sorted(chosen | ({NAMES[i]}))
    groups = draw(st.sampled_from([[NAMES], [("a",), ("b", "c")], [("b",), ("a",), ("c",)]]))
    return {
        "trains": routes,
        "phases": [Phase(g, every=draw(st.integers(1, 2)), repeat=draw(st.integers(1, 2))) for g in groups],
        "accumulate": {name: draw(st.integers(1, 3)) for name in NAMES},
        "clip": draw(st.sampled_from([None, {"a": 0.05}, {("a", "b"): 0.02, "c": 0.1}])),
        "owners": draw(st.sampled_from([[("a", "b", "c")], [("a",), ("b", "c")], [("a",), ("b",), ("c",)]])),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "absent": draw(st.lists(st.sets(st.integers(0, 2)), min_size=3, max_size=6)),
    }


def owned(models, owners, make):
    return {"+".join(group): make([p for n in group for p in models[n].parameters()]) for group in owners}


class Plain:
    """The same training, loss by loss and model by model."""

    def __init__(self, declared, models):
        self.declared, self.models = declared, models
        self.optimizers = owned(models, declared["owners"], declared["optimizer"])
        self.schedulers = {name: ExponentialLR(o, 0.9) for name, o in self.optimizers.items()}
        self.average, self.target = copy.deepcopy(models["a"]), copy.deepcopy(models["b"])
        self.updates = dict.fromkeys(NAMES, 0)
        self.windows = {}

    def step(self, number, batch):
        stepped = set()
        for i, phase in enumerate(self.declared["phases"]):
            if (number + 1) % phase.every == 0:
                for _ in range(phase.repeat):
                    stepped |= self.turn(i, phase, batch)
        for name in stepped:
            self.schedulers[name].step()

    def turn(self, i, phase, batch):
        losses = {name: loss for name, loss in chain(self.models, batch).items() if loss is not None}
        due = {}
        for name in phase.models:
            own = list(self.models[name].parameters())
            mine = [loss for key, loss in losses.items() if name in self.declared["trains"][key]]
            window = self.windows.setdefault((i, name), [0, []])
            window[0] += 1
            if mine:
                each = [torch.autograd.grad(loss, own, retain_graph=True) for loss in mine]
                window[1].append([sum(gradients) for gradients in zip(*each, strict=True)])
            if window[0] == self.declared["accumulate"][name]:
                due[name] = window[1]
                self.windows[i, name] = [0, []]
        return self.move({name: gradients for name, gradients in due.items() if gradients})

    def flush(self):
        stepped = set()
        for i in range(len(self.declared["phases"])):
            stepped |= self.move({n: held for (j, n), (_, held) in self.windows.items() if j == i and held})
        self.windows = {}
        for name in stepped:
            self.schedulers[name].step()

    def move(self, due):
        for name, held in due.items():
            for p, *gradients in zip(self.models[name].parameters(), *held, strict=True):
                p.grad = sum(gradients) / len(gradients)
        for names, bound in (self.declared["clip"] or {}).items():
            names = (names,) if isinstance(names, str) else names
            clip_grad_norm_([p for n in names for p in self.models[n].parameters() if n in due], bound)
        stepped = set()
        for name, optimizer in self.optimizers.items():
            if set(name.split("+")) & due.keys():
                optimizer.step()
                stepped.add(name)
        for name in due:
            self.updates[name] += 1
            self.models[name].zero_grad()
        with torch.no_grad():
            if "a" in due:
                for p, q in zip(self.average.parameters(), self.models["a"].parameters(), strict=True):
                    p.lerp_(q, 0.2)
            if "b" in due and self.updates["b"] % 2 == 0:
                self.target.load_state_dict(self.models["b"].state_dict())
        return stepped


@settings(max_examples=150, deadline=None)
@given(declarations())
def test_as_a_plain_loop(declared):
    torch.manual_seed(5)
    ours, theirs = networks(), networks()
    joint = Joint(
        models=ours,
        losses=chain,
        trains=declared["trains"],
        optimizers=owned(ours, declared["owners"], declared["optimizer"]),
        phases=declared["phases"],
        accumulate=declared["accumulate"],
        clip=declared["clip"],
        schedulers=partial(ExponentialLR, gamma=0.9),
        followers={"average": EMA("a", decay=0.8), "target": Copy("b", every=2)},
    )
    plain = Plain(declared, theirs)
    for number, absent in enumerate(declared["absent"]):
        batch = torch.randn(4, 3, dtype=torch.float64), absent
        joint.step(batch)
        plain.step(number, batch)
    joint.flush()
    plain.flush()
    assert {name: joint.updates[name] for name in NAMES} == plain.updates
    for name in NAMES:
        for p, q in zip(ours[name].parameters(), theirs[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    for follower, expected in (("average", plain.average), ("target", plain.target)):
        for p, q in zip(joint.models[follower].parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    for name, optimizer in joint.optimizers.items():
        torch.testing.assert_close(optimizer.param_groups[0]["lr"], plain.optimizers[name].param_groups[0]["lr"])
