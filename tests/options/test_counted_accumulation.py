"""Accumulation of losses with a count: the gradient of the mean over all samples of the window, exactly."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.checkpoint import checkpoint

import cograd
from cograd import Joint, Mean, Phase
from cograd.errors import LossError, NonFiniteLossError
from cograd.weighting import FAMO, Fixed, PCGrad, RunningMean

torch.manual_seed(0)
SIZES = [5, 1, 8, 2]
LABELS = [3, 1, 0, 2]  # of the second task
X, Y = torch.randn(sum(SIZES), 4, dtype=torch.float64), torch.randn(sum(SIZES), 2, dtype=torch.float64)


def nets(seed=1, dtype=torch.float64):
    torch.manual_seed(seed)
    models = {"trunk": nn.Linear(4, 8), "a": nn.Linear(8, 1), "b": nn.Linear(8, 1), "c": nn.Linear(8, 1)}
    return {name: model.to(dtype) for name, model in models.items()}


def batches():
    """``x, y, which samples have a second label``."""
    found = []
    for x, y, n in zip(X.split(SIZES), Y.split(SIZES), LABELS, strict=True):
        found.append((x, y, torch.arange(len(x)) < n))
    return found


def samples(m, batch):
    """The loss of each sample: of the first task, of the second where there is a label, of the third."""
    x, y, there = batch
    h = m.trunk(x).tanh()
    return (m.a(h)[:, 0] - y[:, 0]).square(), (m.b(h)[:, 0] - y[:, 1])[there].square(), m.c(h)[:, 0].square()


def two_labels(m, batch):
    """The second has no label in one of the micro-batches."""
    x, y, there = batch
    h = m.trunk(x).tanh()
    b = (m.b(h)[:, 0] - y[:, 1])[there].square()
    return {"a": Mean((m.a(h)[:, 0] - y[:, 0]).square()), "b": lambda: Mean(b.mean(), torch.tensor(len(b)))}


def with_plain(m, batch):
    """The third has no count, so each micro-batch counts once."""
    return two_labels(m, batch) | {"c": samples(m, batch)[2].mean()}


def joint_of(models, losses, accumulate=4, **options):
    return Joint(models=models, losses=losses, accumulate=accumulate, **{"optimizers": partial(SGD, lr=1.0)} | options)


def update(models, given, **options):
    """What one window makes of the parameters: model -> its gradient."""
    before = {name: [p.detach().clone() for p in model.parameters()] for name, model in models.items()}
    joint = joint_of(models, given, **options)
    for batch in batches():
        joint.step(batch)
    moved = {n: [a - b for a, b in zip(before[n], m.parameters(), strict=True)] for n, m in models.items()}
    return joint, moved


def of_all_samples(models, third=False, weights=(1.0, 1.0)):
    """The gradient of the weighted sum of the means over all samples of the window."""
    m = cograd.Models(models)
    each = [samples(m, batch) for batch in batches()]
    total = (
        weights[0] * torch.cat([a for a, _, _ in each]).mean() + weights[1] * torch.cat([b for _, b, _ in each]).mean()
    )
    if third:
        total = total + sum(c.mean() for _, _, c in each) / len(each)
    return {n: torch.autograd.grad(total, list(m[n].parameters()), retain_graph=True, allow_unused=True) for n in m}


def assert_gradients(found, expected):
    for name, gradients in expected.items():
        for g, e in zip(found[name], gradients, strict=True):
            torch.testing.assert_close(g, torch.zeros_like(g) if e is None else e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [{}, {"weights": {"a": 0.3, "b": 2.0}}, {"weighting": Fixed({"a": 0.3, "b": 2.0})}])
def test_the_update_is_the_gradient_of_the_mean_over_all_samples(weights):
    models = nets()
    expected = of_all_samples(models, weights=(0.3, 2.0) if weights else (1.0, 1.0))
    del models["c"]
    joint, found = update(models, two_labels, **weights)
    expected.pop("c")
    assert_gradients(found, expected)
    assert joint.updates == {"trunk": 1, "a": 1, "b": 1}


def test_losses_with_and_without_a_count_side_by_side():
    models = nets()
    expected = of_all_samples(models, third=True)
    _, found = update(models, with_plain)
    assert_gradients(found, expected)


def test_a_short_tail_is_divided_by_its_true_counts():
    models = nets()
    expected = of_all_samples(models, third=True)
    before = {name: [p.detach().clone() for p in model.parameters()] for name, model in models.items()}
    joint = joint_of(models, with_plain, accumulate=7)
    held = [joint.step(batch).held for batch in batches()]
    assert held[-1] == {"trunk": 4, "a": 4, "b": 3, "c": 4}
    joint.end_epoch()
    found = {n: [p - q for p, q in zip(before[n], m.parameters(), strict=True)] for n, m in models.items()}
    assert_gradients(found, expected)


def test_only_some_models_gather():
    """The trunk gathers, a head does not: it learns from each micro-batch as it would alone."""
    mine, theirs = nets(dtype=torch.float32), nets(dtype=torch.float32)
    data = [(x.float(), y.float(), there) for x, y, there in batches()]
    gathering = joint_of(mine, with_plain, accumulate={"trunk": 4}, optimizers=partial(SGD, lr=0.01))
    for batch in data[:3]:
        gathering.step(batch)
    frozen = copy.deepcopy(theirs)
    frozen["trunk"].requires_grad_(False)
    plain = lambda m, batch: {  # noqa: E731
        name: None if s is None or not len(s) else s.mean()
        for name, s in zip(("a", "b", "c"), samples(m, batch), strict=True)
    }
    alone = joint_of(frozen, plain, accumulate=1, optimizers=partial(SGD, lr=0.01))
    for batch in data[:3]:
        alone.step(batch)
    for name in "abc":
        for p, q in zip(mine[name].parameters(), frozen[name].parameters(), strict=True):
            torch.testing.assert_close(p, q)
    assert gathering.updates == {"trunk": 0, "a": 3, "b": 2, "c": 3}


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.1, momentum=0.9), partial(Adam, lr=0.01)])
def test_equal_counts_of_one_loss_are_bitwise_the_loss_without_a_count(optimizer, same):
    one = lambda m, x: m.net(x).square().mean(1)  # noqa: E731
    joints = []
    for count in (False, True):
        torch.manual_seed(1)
        joints.append(
            Joint(
                models={"net": nn.Linear(4, 2)},
                losses=lambda m, x, count=count: {"size": Mean(one(m, x)) if count else one(m, x).mean()},
                optimizers=optimizer,
                accumulate=3,
            )
        )
    for x in torch.randn(7, 5, 4):
        for joint in joints:
            report = joint.step(x)
    for joint in joints:
        joint.flush()
    same(*[joint.state_dict()["models"] for joint in joints])
    same(*[joint.state_dict()["optimizers"] for joint in joints])
    assert len(report.phases[0].plan.passes) == 1


def test_without_accumulation_a_count_costs_no_pass_and_no_bit(same):
    joints = []
    for given in (
        lambda m, b: {"a": samples(m, b)[0].mean(), "c": samples(m, b)[2].mean()},
        lambda m, b: {"a": Mean(samples(m, b)[0]), "c": samples(m, b)[2].mean()},
    ):
        models = nets()
        del models["b"]
        models["b"] = nn.Linear(8, 1).double().requires_grad_(False)
        joints.append(joint_of(models, given, accumulate=1))
    for batch in batches():
        reports = [joint.step(batch).phases[0] for joint in joints]
        same(reports[0].losses, reports[1].losses)
        assert str(reports[0].plan) == str(reports[1].plan)
    same(joints[0].state_dict()["models"]["trunk"], joints[1].state_dict()["models"]["trunk"])


def test_the_plan_says_which_passes_are_more():
    models = nets()
    joint = joint_of(models, with_plain)
    foreseen = joint.plan(batches()[0])
    plan = joint.step(batches()[0]).phases[0].plan
    assert foreseen.phases[0][1] == plan
    assert [p.losses for p in plan.passes] == [("c",), ("a",), ("b",)]
    assert plan.why.endswith("losses with a count are gathered apart")


def test_losses_that_share_no_gathering_model_take_no_pass_more():
    models = nets()
    joint = joint_of(
        models, with_plain, accumulate={"a": 4, "b": 2}, trains={"a": ["trunk", "a"], "b": ["trunk", "b"], "c": "c"}
    )
    plan = joint.step(batches()[0]).phases[0].plan
    assert [p.losses for p in plan.passes] == [("a", "b"), ("c",)]


def test_resumes_in_the_middle_of_a_window(same):
    a, b, c = (joint_of(nets(seed), with_plain, accumulate={"trunk": 3, "b": 2}) for seed in (1, 1, 9))
    data = batches() * 2
    for batch in data:
        a.step(batch)
    for batch in data[:4]:
        b.step(batch)
    state = copy.deepcopy(b.state_dict())
    assert sorted(state["phases"][0]["held"]["trunk"]["accounts"]) == ["a", "b"]
    c.load_state_dict(state)
    for batch in data[4:]:
        c.step(batch)
    same(a.state_dict(), c.state_dict())


def test_a_failed_micro_batch_never_happened(picture, same):
    joint = joint_of(nets(), with_plain)
    joint.step(batches()[0])
    before = picture(joint)
    x, y, there = batches()[1]
    with pytest.raises(NonFiniteLossError):
        joint.step((x * float("nan"), y, there))
    same(before, picture(joint))


def test_a_gradient_that_is_not_finite_is_named_though_it_is_kept_apart(picture, same):
    joint = Joint(
        models={"net": nn.Linear(4, 1, bias=False)},
        losses=lambda m, x: {"root": Mean(m.net(x).abs().sqrt()), "size": m.net(x).square().mean()},
        optimizers=SGD,
        accumulate=3,
    )
    joint.step(torch.ones(3, 4))
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net.weight \(of one loss\) is NaN"):
        joint.step(torch.zeros(3, 4))
    same(before, picture(joint))


def test_float16_gradients_are_gathered_without_their_scale(same):
    states = []
    for growth in (1, 1000):
        joint = joint_of(nets(dtype=torch.float32), with_plain, precision=cograd.Fp16(scale=1.0, growth=growth))
        for x, y, there in batches():
            joint.step((x.float(), y.float(), there))
        states.append(joint.state_dict()["models"])
    same(*states)


def test_an_overflow_drops_the_counts_too():
    """The micro-batches that overflowed are not in the means."""
    data = [(x.float(), y.float(), there) for x, y, there in batches() * 5]
    joints = [
        joint_of(nets(dtype=torch.float32), with_plain, accumulate=99, precision=cograd.Fp16(scale=scale))
        for scale in (2.0**20, 1.0)
    ]
    good = [batch for batch in data if not joints[0].step(batch).overflowed]
    assert 4 < len(good) < len(data)
    for batch in good:
        joints[1].step(batch)
    held = [joint.state_dict()["phases"][0]["held"]["trunk"] for joint in joints]
    assert held[0]["count"] == len(good)
    for name in "ab":
        assert held[0]["accounts"][name]["total"] == held[1]["accounts"][name]["total"]
    for joint in joints:
        joint.flush()
    for p, q in zip(*[joint.models.trunk.parameters() for joint in joints], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)


def test_under_a_rule_one_count_weighs_the_micro_batch():
    def both(m, batch):
        a, _, c = samples(m, batch)
        return {"a": Mean(a), "c": Mean(c)}

    def build(accumulate):
        models = nets()
        models["b"].requires_grad_(False)
        return joint_of(models, both, weighting=PCGrad(), accumulate=accumulate)

    start = [p.detach().clone() for p in build(1).models.trunk.parameters()]
    moves = []
    for batch in batches():
        alone = build(1)
        alone.step(batch)
        moves.append([p - q for p, q in zip(alone.models.trunk.parameters(), start, strict=True)])
    joint = build(4)
    for batch in batches():
        joint.step(batch)
    for i, p in enumerate(joint.models.trunk.parameters()):
        expected = sum(n * move[i] for n, move in zip(SIZES, moves, strict=True)) / sum(SIZES)
        torch.testing.assert_close(p, start[i] + expected, rtol=1e-10, atol=1e-12)


def test_under_a_rule_that_looks_at_gradients_unequal_counts_are_refused(picture, same):
    joint = joint_of(nets(), with_plain, weighting=PCGrad())
    before = picture(joint)
    with pytest.raises(
        LossError, match=r"PCGrad makes one gradient of all losses .* counts a 5, b 3, c none. Give all"
    ):
        joint.step(batches()[0])
    same(before, picture(joint))


@pytest.mark.parametrize("rule", [RunningMean(), FAMO()], ids=lambda rule: type(rule).__name__)
def test_under_a_rule_that_looks_at_losses_each_micro_batch_has_its_weights(rule):
    models = nets()
    del models["c"]
    start = copy.deepcopy(models)
    losses = two_labels
    joint, found = update(models, losses, weighting=rule)
    twin = joint_of(copy.deepcopy(start), losses, weighting=rule)
    total, counts = {}, {"a": 0, "b": 0}
    m = cograd.Models(start | {"c": start["b"]})
    for batch in batches():
        weights = twin.step(batch).weights
        a, b, _ = samples(m, batch)
        for name, each in (("a", a), ("b", b)):
            if len(each):
                total[name] = total.get(name, 0) + weights[name] * each.sum()
                counts[name] += len(each)
    expected = sum(total[name] / counts[name] for name in counts)
    gradients = torch.autograd.grad(expected, list(start["trunk"].parameters()))
    for g, e in zip(found["trunk"], gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-6, atol=1e-9)
    assert joint.updates["trunk"] == 1


def test_a_count_in_some_micro_batches_only_is_refused(picture, same):
    def sometimes(m, batch):
        a, *_ = samples(m, batch)
        return {"a": Mean(a) if len(a) > 1 else a.mean()}

    models = {name: model for name, model in nets().items() if name in ("trunk", "a")}
    models |= {name: nn.Linear(8, 1).double().requires_grad_(False) for name in "bc"}
    joint = joint_of(models, sometimes)
    joint.step(batches()[0])
    before = picture(joint)
    with pytest.raises(LossError, match="loss 'a' has a count in some micro-batches and none in others"):
        joint.step(batches()[1])
    same(before, picture(joint))


def test_tokens_of_one_loss():
    """Micro-batches of 12 and of 2 tokens are the batch of 14."""
    torch.manual_seed(0)
    first, second = torch.randn(12, 3), torch.randn(2, 3)
    hand = nn.Linear(3, 1)
    net = copy.deepcopy(hand)
    (hand(torch.cat([first, second])) - 1).square().mean().backward()
    joint = Joint(
        models={"net": net},
        losses=lambda m, x: {"token": Mean((m.net(x) - 1).square())},
        optimizers=partial(SGD, lr=1.0),
        accumulate=2,
    )
    before = net.weight.detach().clone()
    joint.step(first), joint.step(second)
    torch.testing.assert_close(before - net.weight.detach(), hand.weight.grad, rtol=1e-5, atol=1e-6)


def test_buffers_of_checkpointed_modules_move_once():
    """The passes that keep losses apart run a checkpointed BatchNorm anew."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    plain = copy.deepcopy(norm)
    x = torch.randn(6, 4)

    def given(count):
        def two(m, x):
            h = checkpoint(m.norm, x, use_reentrant=False)
            return {"a": Mean(h[:, 0].square()) if count else h[:, 0].square().mean(), "b": h[:, 1].square().mean()}

        return two

    for module, count in ((norm, True), (plain, False)):
        Joint(models={"norm": module}, losses=given(count), optimizers=SGD, accumulate=2).step(x)
    torch.testing.assert_close(norm[1].running_mean, plain[1].running_mean, rtol=0, atol=0)
    assert norm[1].num_batches_tracked == plain[1].num_batches_tracked


def test_phases_gather_for_themselves():
    models = nets()
    joint = joint_of(models, with_plain, accumulate=2, phases=[Phase(("trunk", "a", "b", "c")), Phase("trunk")])
    for batch in batches():
        joint.step(batch)
    assert joint.updates == {"trunk": 4, "a": 2, "b": 2, "c": 2}
