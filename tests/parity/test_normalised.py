"""Normalised losses against the same division written out, and the division that trains nothing."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

import cograd
from cograd.weighting import FirstValue, Log, RunningMean, RunningStd, Scheduled


@pytest.fixture
def models(mlp):
    return lambda: {"trunk": mlp(4, 8, 6), "kind": mlp(6, 4), "size": mlp(6, 1)}


def losses(m, x):
    """Two losses whose units differ by a factor of a thousand."""
    shared = m["trunk"](x)
    return {
        "kind": cross_entropy(m["kind"](shared), x.argmax(dim=1)),
        "size": 1000 * mse_loss(m["size"](shared), x.norm(dim=1, keepdim=True)),
    }


def by_hand(optimizer, normalise):
    """``normalise(name, loss, step)`` is the term of the total."""

    def train(m, batches):
        optimizers = [optimizer(model.parameters()) for model in m.values()]
        for step, x in enumerate(batches):
            total = sum(normalise(name, loss, step) for name, loss in losses(m, x).items())
            for o in optimizers:
                o.zero_grad()
            total.backward()
            for o in optimizers:
                o.step()

    return train


def declare(optimizer, rule, **options):
    return lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizer, weighting=rule, **options)


def test_first_value(check, optimizer, models, batches):
    first = {}

    def normalise(name, loss, step):
        return loss / first.setdefault(name, loss.detach())

    check(models, by_hand(optimizer, normalise), declare(optimizer, FirstValue()), batches)


def test_first_value_times_fixed_weight(check, optimizer, models, batches):
    """The fixed factor multiplies after the rule: before it, the rule would cancel it."""
    first = {}

    def normalise(name, loss, step):
        return {"kind": 1.0, "size": 0.25}[name] * (loss / first.setdefault(name, loss.detach()))

    check(models, by_hand(optimizer, normalise), declare(optimizer, FirstValue(), weights={"size": 0.25}), batches)


def test_log(check, optimizer, models, batches):
    check(models, by_hand(optimizer, lambda name, loss, step: loss.log()), declare(optimizer, Log()), batches)


def test_log_is_division_by_the_detached_loss(check, optimizer, models, batches):
    check(
        models,
        by_hand(optimizer, lambda name, loss, step: loss / loss.detach()),
        declare(optimizer, Log()),
        batches,
    )


def test_running_mean(check, optimizer, models, batches):
    mean = {}

    def normalise(name, loss, step):
        mean[name] = 0.9 * mean.get(name, 0.0) + (1 - 0.9) * loss.detach().abs()
        return loss * (1 / (mean[name] / torch.tensor(1 - 0.9 ** (step + 1))))

    check(models, by_hand(optimizer, normalise), declare(optimizer, RunningMean(beta=0.9)), batches)


def test_running_std(check, optimizer, models, batches):
    mean, variance = {}, {}

    def normalise(name, loss, step):
        now, scale = loss.detach(), loss.detach().abs()
        if step:
            share = torch.tensor(1 - 0.9**step)
            centre = mean[name] / share
            variance[name] = 0.9 * variance.get(name, 0.0) + (1 - 0.9) * (now - centre) ** 2
            scale = torch.maximum((variance[name] / share).sqrt(), 1e-3 * centre.abs())
        mean[name] = 0.9 * mean.get(name, 0.0) + (1 - 0.9) * now
        return loss * (1 / scale)

    check(models, by_hand(optimizer, normalise), declare(optimizer, RunningStd(beta=0.9)), batches)


def test_scheduled(check, optimizer, models, batches):
    def normalise(name, loss, step):
        return loss * (min(1.0, (step + 1) / 4) / 1000 if name == "size" else 1.0)

    rule = Scheduled({"size": lambda step: min(1.0, (step + 1) / 4) / 1000})
    check(models, by_hand(optimizer, normalise), declare(optimizer, rule), batches)


def test_a_loss_divided_by_its_own_mean_trains_nothing(mlp, batches):
    """The seed's division has exactly zero gradient; the same loss trains under FirstValue or Log."""

    def distance(rule, divide):
        torch.manual_seed(0)
        net = mlp(4, 6, 1)
        before = [p.detach().clone() for p in net.parameters()]

        def loss(m, x):
            value = mse_loss(m.net(x), x[:, :1])
            return {"y": value / value.mean() if divide else value}

        joint = cograd.Joint(
            models={"net": net},
            losses=loss,
            optimizers=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            weighting=rule,
            grad_norms=True,
        )
        norms = [joint.step(x).grad_norms["net"].item() for x in batches]
        moved = max((p.detach() - old).abs().max().item() for p, old in zip(net.parameters(), before, strict=True))
        return norms, moved

    assert distance(None, divide=True) == ([0.0] * 5, 0.0)
    for rule in (None, FirstValue(), Log()):
        norms, moved = distance(rule, divide=False)
        assert min(norms) > 0.01
        assert moved > 0.01
