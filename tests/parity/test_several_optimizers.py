"""Several optimizers over the same parameters, each in its own phases, as loops by hand have them: bit for bit."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, AdamW, Muon
from torch.optim.lr_scheduler import CosineAnnealingLR

from cograd import Joint, Phase
from cograd.errors import OptimizerError


def batches(n):
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=draw), torch.randn(8, 2, generator=draw)) for _ in range(n)]


def equal(models, joint):
    for name, model in models.items():
        for a, b in zip(model.parameters(), joint.models[name].parameters(), strict=True):
            assert a.equal(b), name


# -- an adversarial autoencoder --------------------------------------------------------------------------------------


def parts():
    torch.manual_seed(0)
    coder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return {"enc": coder, "dec": nn.Linear(2, 4), "disc": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))}


def three(m):
    return {
        "rec": Adam([*m["enc"].parameters(), *m["dec"].parameters()], lr=1e-2),
        "disc": Adam(m["disc"].parameters(), lr=2e-3),
        "gen": Adam(m["enc"].parameters(), lr=1e-3, betas=(0.5, 0.9), weight_decay=0.1),
    }


def terms(m, batch):
    x, prior = batch
    return {
        "rec": lambda: (m["dec"](m["enc"](x)) - x).square().mean(),
        "disc": lambda: m["disc"](m["enc"](x).detach()).square().mean() + (m["disc"](prior) - 1).square().mean(),
        "gen": lambda: (m["disc"](m["enc"](x)) - 1).square().mean(),
    }


def autoencoder(**options):
    models = parts()
    return Joint(
        models=models,
        losses=terms,
        trains={"rec": ["enc", "dec"], "disc": "disc", "gen": "enc"},
        optimizers=three(models),
        phases=[
            Phase(["enc", "dec"], losses="rec", optimizers="rec"),
            Phase("disc"),
            Phase("enc", losses="gen", optimizers="gen"),
        ],
        **options,
    )


def by_hand(xs, clip=None, accumulate=1, rates=None):
    """The loop of adversarial autoencoders: each loss has its optimizer, and its own window of micro-batches."""
    models = parts()
    optimizers = three(models)
    schedulers = {name: rates(o) for name, o in optimizers.items()} if rates else {}
    held = dict.fromkeys(optimizers)
    for i, batch in enumerate(xs, 1):
        for name, optimizer in optimizers.items():
            own = [p for group in optimizer.param_groups for p in group["params"]]
            for model in models.values():
                model.zero_grad()
            terms(models, batch)[name]().backward()
            fresh = [p.grad for p in own]
            if i % accumulate:
                held[name] = fresh
                continue
            for p, old, new in zip(own, held[name] or [None] * len(own), fresh, strict=True):
                p.grad = new if old is None else (new + old) / accumulate
            for model in ("enc", "dec", "disc") if clip else ():
                grads = [p for p in models[model].parameters() if any(p is q for q in own)]
                if grads:
                    clip_grad_norm_(grads, clip)
            optimizer.step()
            if schedulers:
                schedulers[name].step()
    return models


OPTIONS = {
    "plain": ({}, {}),
    "clipped": ({"clip": 0.05}, {"clip": 0.05}),
    "gathered": ({"accumulate": 2}, {"accumulate": 2}),
    "all": (
        {"clip": 0.05, "accumulate": 2, "schedulers": partial(CosineAnnealingLR, T_max=9)},
        {"clip": 0.05, "accumulate": 2, "rates": partial(CosineAnnealingLR, T_max=9)},
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("stop", [None, 3])
def test_an_adversarial_autoencoder_moves_its_encoder_by_two_optimizers(options, stop):
    xs = batches(8)
    given, hand = OPTIONS[options]
    joint = autoencoder(**given)
    for x in xs[:stop]:
        joint.step(x)
    if stop is not None:  # in the middle of a window
        state = copy.deepcopy(joint.state_dict())
        joint = autoencoder(**given)
        joint.load_state_dict(state)
        for x in xs[stop:]:
            joint.step(x)
    equal(by_hand(xs, **hand), joint)
    updates = 8 // given.get("accumulate", 1)
    assert joint.updates == {"enc": 2 * updates, "dec": updates, "disc": updates}


def test_a_report_names_the_optimizer_of_each_phase():
    report = autoencoder().step(batches(1)[0])
    assert [phase.stepped for phase in report.phases] == [("rec",), ("disc",), ("gen",)]


def test_a_window_that_is_half_full_is_not_stepped_by_the_other_optimizer():
    models = parts()
    joint = Joint(
        models=models,
        losses=terms,
        trains={"rec": ["enc", "dec"], "disc": "disc", "gen": "enc"},
        optimizers=three(models),
        phases=[
            Phase(["enc", "dec"], losses="rec", optimizers="rec"),
            Phase("disc"),
            Phase("enc", losses="gen", optimizers="gen", every=2),
        ],
        accumulate={"enc": 2},
    )
    reports = [joint.step(x) for x in batches(3)]
    assert [[phase.stepped for phase in report.phases] for report in reports] == [
        [("rec",), ("disc",)],  # the decoder alone
        [("rec",), ("disc",), ()],
        [("rec",), ("disc",)],
    ]
    assert joint.flush() == ("enc",)
    assert joint.updates["enc"] == 3  # a full window and a rest of the one, and a rest of the other


def test_the_only_choice_need_not_be_declared():
    """Those that hold exactly what the phase updates; it is shown as if it had been declared."""
    torch.manual_seed(0)
    models = parts()
    joint = Joint(
        models=models,
        losses=terms,
        trains={"rec": ["enc", "dec"], "disc": "disc", "gen": "enc"},
        optimizers=three(models),
        phases=[Phase(["enc", "dec"], losses="rec"), Phase("disc"), Phase("enc", losses="gen")],
    )
    assert [phase.optimizers for phase in joint.phases] == [("rec",), ("disc",), ("gen",)]
    twin = autoencoder()
    for x in batches(3):
        torch.manual_seed(1)
        joint.step(x)
        torch.manual_seed(1)
        twin.step(x)
    for name in models:
        for p, q in zip(models[name].parameters(), twin.models[name].parameters(), strict=True):
            assert torch.equal(p, q)


def test_without_one_choice_the_refusal_says_what_to_type():
    models = parts()
    with pytest.raises(OptimizerError) as caught:
        Joint(
            models=models,
            losses=terms,
            trains={"rec": ["enc", "dec"], "disc": "disc", "gen": "enc"},
            optimizers=three(models) | {"again": SGD(models["enc"].parameters(), lr=0.1)},
            phases=[Phase(["enc", "dec"], losses="rec"), Phase("disc"), Phase("enc", losses="gen")],
        )
    one, other = "Phase('enc', losses='gen', optimizers='gen')", "Phase('enc', losses='gen', optimizers='again')"
    assert f"{one} or {other}." in str(caught.value)


def test_a_model_of_two_optimizers_may_be_frozen_for_good():
    joint = autoencoder()
    joint.freeze("enc")
    before = joint.models["enc"][0].weight.clone()
    report = joint.step(batches(1)[0])
    assert [phase.stepped for phase in report.phases] == [("rec",), ("disc",)]
    assert joint.models["enc"][0].weight.equal(before)
    joint.models["enc"].requires_grad_(True)
    assert len(joint.step(batches(1)[0]).phases) == 3


# -- InfoGAN: a third optimizer over both ----------------------------------------------------------------------------


def info():
    torch.manual_seed(0)
    return {"gen": nn.Linear(2, 4), "disc": nn.Linear(4, 3), "code": nn.Linear(3, 2)}


def info_optimizers(m):
    return {
        "gen": Adam(m["gen"].parameters(), lr=2e-3),
        "disc": Adam(m["disc"].parameters(), lr=1e-3),
        "info": Adam([p for model in m.values() for p in model.parameters()], lr=5e-4),
    }


def info_terms(m, batch):
    x, z = batch
    return {
        "gen": lambda: (m["disc"](m["gen"](z)) - 1).square().mean(),
        "disc": lambda: m["disc"](m["gen"](z).detach()).square().mean() + (m["disc"](x) - 1).square().mean(),
        "info": lambda: (m["code"](m["disc"](m["gen"](z))) - z).square().mean(),
    }


def infogan():
    models = info()
    return Joint(
        models=models,
        losses=info_terms,
        trains={"gen": "gen", "disc": "disc", "info": ["gen", "disc", "code"]},
        optimizers=info_optimizers(models),
        phases=[
            Phase("gen", losses="gen", optimizers="gen"),
            Phase("disc", losses="disc", optimizers="disc"),
            Phase(["gen", "disc", "code"], losses="info", optimizers="info"),
        ],
    )


@pytest.mark.parametrize("stop", [None, 3])
def test_the_third_optimizer_of_infogan(stop):
    xs = batches(6)
    models = info()
    optimizers = info_optimizers(models)
    for x in xs:
        for name, optimizer in optimizers.items():
            for model in models.values():
                model.zero_grad()
            info_terms(models, x)[name]().backward()
            optimizer.step()
    joint = infogan()
    for x in xs[:stop]:
        joint.step(x)
    if stop is not None:
        state = copy.deepcopy(joint.state_dict())
        joint = infogan()
        joint.load_state_dict(state)
        for x in xs[stop:]:
            joint.step(x)
    equal(models, joint)


# -- several for one model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ["ready", "by a factory", "for the rest"])
def test_muon_for_matrices_and_adamw_for_the_rest(made):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))

    def both(parameters):
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim == 2]
        return [Muon(matrices, lr=0.02), AdamW([p for p in parameters if p.ndim != 2], lr=0.01)]

    def objective(net, batch):
        return (net(batch[0]) - batch[1]).square().mean()

    xs = batches(5)
    hand = net()
    optimizers = both(hand.parameters())
    for x in xs:
        objective(hand, x).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        hand.zero_grad()

    model = net()
    given = {
        "ready": {"net": both(model.parameters())},
        "by a factory": {"net": both},
        "for the rest": {"*": both},
    }[made]
    joint = Joint(models={"net": model}, losses=lambda m, x: {"fit": objective(m.net, x)}, optimizers=given)
    report = [joint.step(x) for x in xs][-1]
    assert list(joint.optimizers) == ["net[0]", "net[1]"]
    assert report.phases[0].stepped == ("net[0]", "net[1]")
    assert set(joint.state_dict()["optimizers"]) == {"net[0]", "net[1]"}
    equal({"net": hand}, joint)


def test_a_factory_per_model_and_one_for_the_rest():
    def models():
        torch.manual_seed(0)
        return {"gen": nn.Linear(4, 3), "disc": nn.Linear(3, 1), "aux": nn.Linear(3, 2), "teacher": nn.Linear(3, 1)}

    def objective(m, batch):
        h = m["gen"](batch[0])
        return m["disc"](h).square().mean() + (m["aux"](h) - batch[1]).square().mean() + m["teacher"](h).mean()

    hand = models()
    hand["teacher"].requires_grad_(False)
    optimizers = [
        Adam(hand["gen"].parameters(), lr=1e-2),
        SGD(hand["disc"].parameters(), lr=0.1),
        SGD(hand["aux"].parameters(), lr=0.1),
    ]
    own = models()
    own["teacher"].requires_grad_(False)
    joint = Joint(
        models=own,
        losses=lambda m, x: {"all": objective(m, x)},
        optimizers={"gen": partial(Adam, lr=1e-2), "*": partial(SGD, lr=0.1)},
    )
    for x in batches(4):
        joint.step(x)
        objective(hand, x).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    equal(hand, joint)
    assert list(joint.optimizers) == ["gen", "disc", "aux"]


def test_what_no_other_entry_holds_is_the_rest():
    net, head = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), nn.Linear(3, 1)
    joint = Joint(
        models={"net": net, "head": head},
        losses=lambda m, x: {"size": m.head(m.net(x[0])).square().mean()},
        optimizers={"muon": Muon([net[0].weight], lr=0.1), "*": partial(AdamW, lr=0.1)},
    )
    held = {name: [len(group["params"]) for group in o.param_groups] for name, o in joint.optimizers.items()}
    assert held == {"muon": [1], "net": [3], "head": [2]}
