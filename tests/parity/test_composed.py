"""Models that feed each other: chains, fusion, conditions, consistency, shared backbones."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

import cograd


def together(optimizer, total):
    """The loop that all of these share: one total, one backward, one step for each model."""

    def by_hand(m, batches):
        optimizers = [optimizer(model.parameters()) for model in m.values()]
        for x in batches:
            loss = total(cograd.Models(m), x)
            for o in optimizers:
                o.zero_grad()
            loss.backward()
            for o in optimizers:
                o.step()

    return by_hand


def declare(losses, optimizer, **options):
    return lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizer, **options)


def test_chain(check, optimizer, mlp, batches):
    def loss(m, x):
        return mse_loss(m.second(m.first(x)), x[:, :1])

    def models():
        return {"first": mlp(4, 6, 3), "second": mlp(3, 5, 1)}

    check(models, together(optimizer, loss), declare(lambda m, x: {"y": loss(m, x)}, optimizer), batches)


def test_chain_with_a_loss_on_the_way_for_the_first_only(check, assign, optimizer, mlp, batches):
    """The last loss trains only the second model, although it reaches both."""

    def by_hand(m, batches):
        opt_first, opt_second = optimizer(m["first"].parameters()), optimizer(m["second"].parameters())
        for x in batches:
            hidden = m["first"](x)
            opt_first.zero_grad()
            hidden.square().mean().backward()
            opt_second.zero_grad()
            mse_loss(m["second"](hidden.detach()), x[:, :1]).backward()
            opt_first.step()
            opt_second.step()

    def losses(m, x):
        hidden = m.first(x)
        return {"code": hidden.square().mean(), "y": mse_loss(m.second(hidden), x[:, :1])}

    def models():
        return {"first": mlp(4, 6, 3), "second": mlp(3, 5, 1)}

    check(models, by_hand, declare(losses, optimizer, trains={"y": "second"}), batches)


def test_outputs_combined_into_one_loss(check, optimizer, mlp, batches):
    def loss(m, x):
        return mse_loss(m.a(x) + m.b(x[:, :2]), x[:, :1])

    def models():
        return {"a": mlp(4, 6, 1), "b": mlp(2, 5, 1)}

    check(models, together(optimizer, loss), declare(lambda m, x: {"y": loss(m, x)}, optimizer), batches)


def test_concatenated_into_a_third(check, optimizer, mlp, batches):
    def loss(m, x):
        return mse_loss(m.c(torch.cat([m.a(x), m.b(x[:, :2])], dim=1)), x[:, :1])

    def models():
        return {"a": mlp(4, 6, 3), "b": mlp(2, 5, 3), "c": mlp(6, 1)}

    check(models, together(optimizer, loss), declare(lambda m, x: {"y": loss(m, x)}, optimizer), batches)


def test_conditioned_on_another_and_features(check, optimizer, mlp, batches):
    def loss(m, x):
        return mse_loss(m.b(torch.cat([m.a(x), x[:, :2]], dim=1)), x[:, :1])

    def models():
        return {"a": mlp(4, 6, 3), "b": mlp(5, 1)}

    check(models, together(optimizer, loss), declare(lambda m, x: {"y": loss(m, x)}, optimizer), batches)


def test_consistency_between_outputs(check, optimizer, mlp, batches):
    def terms(m, x):
        a, b = m.a(x), m.b(x)
        return mse_loss(a, x[:, :1]), mse_loss(b, x[:, 1:2]), (a - b).abs().mean()

    def total(m, x):
        a, b, consistent = terms(m, x)
        return a + b + 0.1 * consistent

    def losses(m, x):
        return dict(zip(("a", "b", "consistent"), terms(m, x), strict=True))

    def models():
        return {"a": mlp(4, 6, 1), "b": mlp(4, 5, 1)}

    check(models, together(optimizer, total), declare(losses, optimizer, weights={"consistent": 0.1}), batches)


def test_consistency_that_is_not_reduced_is_refused(optimizer, mlp, batches):
    """The seed's term has one row per example and would broadcast the other two to its shape."""
    a, b = mlp(4, 1), mlp(4, 1)
    joint = declare(lambda m, x: {"y": (m.a(x) - m.b(x)).abs() + m.a(x).mean()}, optimizer)({"a": a, "b": b})
    before = [p.detach().clone() for p in a.parameters()]
    with pytest.raises(cograd.errors.LossError, match=r"'y' must be one number; found shape \(8, 1\)"):
        joint.step(batches[0])
    assert all(map(torch.equal, before, a.parameters()))


def heads(m, x):
    shared = m.backbone(x)
    return {
        "kind": cross_entropy(m.kind(shared), x.argmax(dim=1)),
        "size": mse_loss(m.size(shared), x.norm(dim=1, keepdim=True)),
        "sign": mse_loss(m.sign(shared), x[:, :1].sign()),
    }


@pytest.fixture
def multitask(mlp):
    return lambda: {"backbone": mlp(4, 8, 8), "kind": mlp(8, 4), "size": mlp(8, 1), "sign": mlp(8, 6, 1)}


def test_shared_backbone_and_heads(check, optimizer, multitask, batches):
    def total(m, x):
        losses = heads(m, x)
        return losses["kind"] + losses["size"] + losses["sign"]

    joint = check(multitask, together(optimizer, total), declare(heads, optimizer), batches)
    ((_, plan),) = joint.plan().phases
    assert len(plan.passes) == 1


def test_weighted_sum(check, optimizer, multitask, batches):
    def total(m, x):
        losses = heads(m, x)
        return 0.7 * losses["kind"] + 0.3 * losses["size"] + losses["sign"]

    weights = {"kind": 0.7, "size": 0.3}
    check(multitask, together(optimizer, total), declare(heads, optimizer, weights=weights), batches)
    rule = cograd.weighting.Fixed(weights)
    check(multitask, together(optimizer, total), declare(heads, optimizer, weighting=rule), batches)


def test_a_loss_of_weight_zero_is_dropped(check, optimizer, multitask, batches):
    def total(m, x):
        losses = heads(m, x)
        return losses["kind"] + losses["sign"]

    def without_size():
        return {name: model for name, model in multitask().items() if name != "size"}

    def losses(m, x):
        shared = m.backbone(x)
        return {
            "kind": cross_entropy(m.kind(shared), x.argmax(dim=1)),
            "size": lambda: pytest.fail("a loss of weight zero was evaluated"),
            "sign": mse_loss(m.sign(shared), x[:, :1].sign()),
        }

    def loss_by_hand(m, x):
        shared = m.backbone(x)
        return cross_entropy(m.kind(shared), x.argmax(dim=1)) + mse_loss(m.sign(shared), x[:, :1].sign())

    check(without_size, together(optimizer, loss_by_hand), declare(losses, optimizer, weights={"size": 0.0}), batches)


def test_head_that_probes_the_backbone_without_training_it(check, optimizer, multitask, batches):
    """``size`` trains its head only; the other two train the backbone as well."""

    def total(m, x):
        shared = m.backbone(x)
        kind = cross_entropy(m.kind(shared), x.argmax(dim=1))
        sign = mse_loss(m.sign(shared), x[:, :1].sign())
        return kind + mse_loss(m.size(shared.detach()), x.norm(dim=1, keepdim=True)) + sign

    joint = check(multitask, together(optimizer, total), declare(heads, optimizer, trains={"size": "size"}), batches)
    ((_, plan),) = joint.plan().phases
    assert len(plan.passes) == 2


def test_several_actors_at_once(check, assign, optimizer, mlp, batches):
    """Each actor climbs its own reward, which depends on all actors; a critic learns from what they did."""
    names = ["left", "middle", "right"]

    def models():
        return {**{name: mlp(4, 5, 2) for name in names}, "critic": mlp(6, 8, 3)}

    def by_hand(m, batches):
        optimizers = {name: optimizer(model.parameters()) for name, model in m.items()}
        for x in batches:
            values = m["critic"](torch.cat([m[name](x) for name in names], dim=1))
            rewards = torch.stack([x[:, 0], x[:, 1], x[:, 2]], dim=1)
            for i, name in enumerate(names):
                mine = list(m[name].parameters())
                assign(mine, torch.autograd.grad(-values[:, i].mean(), mine, retain_graph=True))
            mine = list(m["critic"].parameters())
            assign(mine, torch.autograd.grad(mse_loss(values, rewards), mine))
            for o in optimizers.values():
                o.step()

    def losses(m, x):
        values = m.critic(torch.cat([m[name](x) for name in names], dim=1))
        rewards = torch.stack([x[:, 0], x[:, 1], x[:, 2]], dim=1)
        return {**{name: -values[:, i].mean() for i, name in enumerate(names)}, "critic": mse_loss(values, rewards)}

    check(models, by_hand, declare(losses, optimizer, trains={n: n for n in [*names, "critic"]}), batches)
