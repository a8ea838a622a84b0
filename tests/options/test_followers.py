"""Followers: averages and copies that trail behind a model."""

import copy
import threading
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cograd import EMA, Copy, Joint, alternate
from cograd.errors import ModelError, PartialStepError, PhaseError, RouteError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def net(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))


def joint_of(model=None, losses=lambda m, x: {"fit": (m.net(x) - 1).square().mean()}, **options):
    optimizers = options.pop("optimizers", partial(SGD, lr=0.1))
    return Joint(models={"net": model or net()}, losses=losses, optimizers=optimizers, **options)


def equal(a, b):
    return all(torch.equal(v, b.state_dict()[key]) for key, v in a.state_dict().items())


def test_an_average_as_torch_has_it():
    model, other = net(), net()
    joint = joint_of(model, followers={"average": EMA("net", decay=0.9)})
    theirs = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    theirs.n_averaged += 1  # the first call of AveragedModel copies; here the copy exists from the start
    optimizer = SGD(other.parameters(), lr=0.1)
    for _ in range(5):
        joint.step(X)
        (other(X) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        theirs.update_parameters(other)
    for p, q in zip(joint.models.average.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(p, q)
    for b, c in zip(joint.models.average.buffers(), other.buffers(), strict=True):
        assert torch.equal(b, c)
    assert joint.updates == {"net": 5, "average": 5}


def test_a_warm_up():
    joint = joint_of(followers={"average": EMA("net", decay=lambda n: min(0.5, n / 4))})
    joint.step(X)
    assert equal(joint.models.average, joint.models.net)
    joint.step(X)
    assert not equal(joint.models.average, joint.models.net)


def test_every_so_many_updates_of_the_model():
    """Updates, not batches: with accumulation over two, each second batch is one."""
    joint = joint_of(followers={"target": Copy("net", every=3)}, accumulate=2)
    same = []
    for _ in range(13):
        joint.step(X)
        same.append(torch.equal(joint.models.target[0].weight, joint.models.net[0].weight))
    assert [step for step, is_same in enumerate(same) if is_same] == [0, 5, 6, 11, 12]
    assert joint.updates == {"net": 6, "target": 2}


def test_the_losses_see_it():
    """Q-learning in small: the target network is a model like any other, and frozen."""

    def losses(m, x):
        goal = m.target(x)
        assert not goal.requires_grad
        return {"td": (m.net(x) - goal - 1).square().mean()}

    joint = joint_of(losses=losses, followers={"target": Copy("net", every=2)})
    start = copy.deepcopy(joint.models.target)
    joint.step(X)
    assert equal(start, joint.models.target)
    joint.step(X)
    assert not equal(start, joint.models.target)


def test_a_later_phase_sees_it_up_to_date():
    torch.manual_seed(0)
    seen = []

    def losses(m, x):
        seen.append(equal(m.target, m.net))
        return {"fit": m.net(x).square().mean(), "head": (m.head(x) - m.target(x)).square().mean()}

    joint = Joint(
        models={"net": nn.Linear(4, 1), "head": nn.Linear(4, 1)},
        losses=losses,
        trains={"head": "head"},
        optimizers=partial(SGD, lr=0.1),
        phases=alternate("net", "head"),
        followers={"target": Copy("net")},
    )
    joint.step(X)
    assert seen == [True, True]


def test_it_stays_in_the_mode_that_it_was_put_into():
    joint = joint_of(followers={"average": EMA("net")})
    assert not joint.models.average.training
    joint.models.average.train()
    joint.step(X)
    joint.evaluate(X)
    assert joint.models.average.training


def test_resumed_through_a_file(tmp_path, same):
    def build():
        return joint_of(net(), followers={"average": EMA("net", decay=0.5, every=2), "target": Copy("net", every=3)})

    whole, first, second = build(), build(), build()
    for _ in range(7):
        whole.step(X)
    for _ in range(4):
        first.step(X)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        second.step(X)
    same(whole.state_dict(), second.state_dict())


def test_a_step_that_fails_moves_no_follower(picture, same):
    joint = joint_of(losses=lambda m, x: {"fit": m.net(x).mean().log()}, followers={"average": EMA("net")})
    before = picture(joint)["parameters"]
    with pytest.raises(FloatingPointError):
        joint.step(X * float("nan"))
    same(before, picture(joint)["parameters"])


def test_a_decay_that_fails_is_said_to_come_late():
    joint = joint_of(followers={"average": EMA("net", decay=lambda n: 1 / (1 - n))})
    joint.step(X)
    with pytest.raises(PartialStepError, match=r"follower 'average' failed after the step .ZeroDivisionError"):
        joint.step(X)


class Locked(nn.Linear):
    """A model that cannot be copied."""

    def __init__(self):
        super().__init__(4, 1)
        self.lock = threading.Lock()


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def shared_copy(of):
    model = net()
    return joint_of(model, followers={"f": EMA("net", copy=of(model))})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EMA("net", decay=1.5), ModelError, "from 0 to 1.*found 1.5"),
        (lambda: EMA(["net"]), ModelError, r"EMA\(of=...\) must be the name of a model; found \['net'\]"),
        (lambda: EMA("net", decay=lambda: 0.9), ModelError, r"EMA\(decay=...\) must be a function f\(updates\)"),
        (lambda: EMA("net", decay=True), ModelError, r"EMA\(decay=...\) must be a number from 0 to 1.*found True"),
        (lambda: EMA("net", every=0), ModelError, "EMA\\(every=...\\) must be a whole number"),
        (lambda: Copy("net", every=1.5), ModelError, "Copy\\(every=...\\)"),
        (lambda: joint_of(followers=[EMA("net")]), ModelError, "maps names to EMA or Copy"),
        (lambda: joint_of(followers={"net": EMA("net")}), ModelError, "has the name of a model"),
        (lambda: joint_of(followers={"f": EMA("nat")}), ModelError, "follows 'nat'.*Did you mean 'net'"),
        (lambda: joint_of(followers={"f": net()}), ModelError, "cograd.EMA\\(...\\) or cograd.Copy"),
        (lambda: joint_of(followers={"f": EMA("net")}).freeze("f"), ModelError, "no model that is trained"),
        (lambda: joint_of(followers={1: EMA("net")}), ModelError, "non-empty string"),
        (
            lambda: joint_of(Locked(), followers={"f": Copy("net")}),
            ModelError,
            r"copy.deepcopy of models\['net'\] fails .*built like it: cograd.Copy\('net', copy=...\)",
        ),
        (
            lambda: EMA("net", copy=net),
            ModelError,
            r"EMA\(copy=...\) must be an nn.Module like the model, or None; found the function net",
        ),
        (
            lambda: joint_of(followers={"f": EMA("net", copy=nn.Linear(4, 1))}),
            ModelError,
            r"(?s)copy= is not like models\['net'\]: 8 problems:\n  - 0.weight is in the model, not in the copy",
        ),
        (
            lambda: joint_of(nn.Linear(4, 1), followers={"f": EMA("net", copy=nn.Linear(4, 2))}),
            ModelError,
            r"weight is \(1, 4\) in the model, \(2, 4\) in the copy",
        ),
        (
            lambda: joint_of(tied(), followers={"f": EMA("net", copy=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))}),
            ModelError,
            "1.weight is tied to another parameter in one of them only",
        ),
        (lambda: shared_copy(copy.copy), ModelError, "shares 0.weight with 'net', so it could not stay behind"),
        (lambda: shared_copy(lambda model: model), ModelError, "shares 0.weight with 'net'"),
        (
            lambda: joint_of(followers=dict.fromkeys("ab", EMA("net", copy=net()))),
            ModelError,
            r"followers\['b'\]: the module given as copy= shares 0.weight with 'a'",
        ),
        (lambda: joint_of(followers={"f": EMA("net")}, trains={"fit": "f"}), RouteError, "names model 'f'"),
        (
            lambda: joint_of(followers={"f": EMA("net")}, phases=alternate("net", "f")),
            PhaseError,
            "no parameter that requires grad",
        ),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_another_follower_in_the_state():
    with pytest.raises(ValueError, match="The followers are 'f'; the state has none"):
        joint_of(followers={"f": EMA("net")}).load_state_dict(joint_of().state_dict())


# What a model may hold beside float32 parameters. Each class ends in a linear layer ``lin`` that is trained.


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 1)

    def forward(self, x):
        return self.lin(x)


class ReassignedBuffer(Odd):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + x.mean().detach()
        return super().forward(x - self.mean)


class GrowingBuffer(Odd):
    """The cache of rotary embeddings, made anew when a longer sequence comes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, x):
        if len(x) > len(self.cache):
            self.register_buffer("cache", torch.arange(len(x)).float(), persistent=False)
        return super().forward(x) + self.cache[: len(x), None]


class ShiftingBuffers(Odd):
    """One is None at first, one becomes so, one appears, one goes, one changes its dtype, one is a single number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("late", None)
        self.register_buffer("early", torch.ones(2))
        self.register_buffer("gone", torch.ones(2))
        self.register_buffer("kind", torch.ones(2))
        self.register_buffer("wide", torch.ones(1).expand(3))
        self.register_buffer("holes", torch.eye(3).to_sparse())

    def forward(self, x):
        if self.late is None:
            self.late, self.early, self.kind = x.std().detach(), None, torch.arange(2)
            self.register_buffer("new", torch.ones(3))
            del self.gone
        self.wide = self.wide + 1
        self.holes = self.holes * 2
        return super().forward(x)


class Quantised(Odd):
    """A frozen base of integers or few bits under what is trained, before and after it in the list."""

    def __init__(self, dtype=torch.int8):
        super().__init__()
        self.base = nn.Parameter(torch.arange(1, 127, 30).reshape(5, 1).to(dtype), requires_grad=False)
        self.last = nn.ParameterList([nn.Parameter(torch.tensor([3, 5, 7]).to(dtype), requires_grad=False)])

    def forward(self, x):
        return super().forward(x) + self.base.float().mean() * self.last[0].float().mean() * 1e-3


class Frozen(Odd):
    """An average of infinities is NaN."""

    def __init__(self):
        super().__init__()
        self.base = nn.Parameter(torch.tensor([-torch.inf, 0.1]), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([True, False]), requires_grad=False)


class MixedDtypes(Odd):
    def __init__(self):
        super().__init__()
        self.few = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.many = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x):
        return super().forward((self.few(x.bfloat16()).double() * self.many).float())


class Complex(Odd):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(4, dtype=torch.cfloat))

    def forward(self, x):
        return super().forward((x * self.turn).abs())


class Tied(Odd):
    def __init__(self):
        super().__init__()
        self.pair = tied()

    def forward(self, x):
        return super().forward(self.pair(x))


class OldWeightNorm(Odd):
    """After a forward it holds a weight with a graph, which deepcopy refuses."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            nn.utils.weight_norm(self.lin)
        self.lin(X)


class OldSpectralNorm(Odd):
    def __init__(self):
        super().__init__()
        nn.utils.spectral_norm(self.lin)
        self.lin(X)


class Parametrized(Odd):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.lin)
        nn.utils.parametrizations.spectral_norm(self.lin)


@pytest.mark.parametrize("follow", [partial(EMA, decay=0.9), Copy])
@pytest.mark.parametrize(
    "kind",
    [
        ReassignedBuffer,
        GrowingBuffer,
        ShiftingBuffers,
        *[
            partial(Quantised, getattr(torch, name))
            for name in ("int8", "uint8", "int32", "bool", "bfloat16", "float8_e4m3fn", "float8_e5m2")
        ],
        Frozen,
        MixedDtypes,
        Complex,
        Tied,
        OldWeightNorm,
        OldSpectralNorm,
        Parametrized,
        lambda: torch.compile(net(), backend="eager"),
        lambda: nn.Sequential(torch.compile(net(), backend="eager"), nn.Linear(1, 1)),
    ],
)
def test_what_a_model_may_hold(kind, follow):
    """Trained parameters are averaged as by hand, and everything else is as in the model, to the last bit."""
    torch.manual_seed(0)
    model = kind()
    joint = joint_of(model, followers={"copy": follow("net")})
    average = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    for length in (5, 8, 3):
        joint.step(X[:length])
        for key, value in average.items():
            average[key] = value.lerp(model.get_parameter(key).to(value.dtype), 0.1) if follow is not Copy else value
    own = joint.models.copy
    buffers = dict(own.named_buffers())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    assert own.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(as_they_are(buffers[key]), as_they_are(b)) for key, b in model.named_buffers())
    for key, p in own.named_parameters():
        theirs = model.get_parameter(key)
        assert p.dtype == theirs.dtype
        if key not in average or follow is Copy:
            assert torch.equal(as_they_are(p), as_they_are(theirs)), key
        else:
            tolerance = {"rtol": 1e-2, "atol": 1e-2} if p.dtype == torch.bfloat16 else {}
            torch.testing.assert_close(p.detach(), average[key], **tolerance)
    own(X)


def as_they_are(values):
    """Comparable: ``equal`` knows neither float8 nor sparse tensors."""
    return values.to_dense().float() if values.is_sparse or values.dtype.itemsize == 1 else values


def low(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return nn.Linear(4, 1, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_average_in_few_bits_follows_as_in_float32(dtype):
    """At decay 0.999 each update is less than half a unit in the last place, and would be rounded away."""
    model = low(dtype)
    joint = joint_of(
        model,
        lambda m, x: {"fit": (m.net(x.to(dtype)) - 1).float().square().mean()},
        followers={"average": EMA("net", decay=0.999)},
    )
    wide = {key: p.detach().float() for key, p in model.named_parameters()}
    start = joint.models.average.weight.clone()
    for _ in range(50):
        joint.step(X)
        wide = {key: value.lerp(model.get_parameter(key).detach().float(), 1 - 0.999) for key, value in wide.items()}
    assert joint.models.average.weight.dtype == dtype
    assert not torch.equal(start, joint.models.average.weight)
    for key, p in joint.models.average.named_parameters():
        assert torch.equal(p, wide[key].to(dtype)), key


def low_joint(decay=0.99):
    fit = lambda m, x: {"fit": (m.net(x.bfloat16()) - 1).float().square().mean()}  # noqa: E731
    return joint_of(low(), fit, followers={"average": EMA("net", decay=decay)})


def test_an_average_in_few_bits_is_resumed_to_the_last_bit(tmp_path, same):
    whole, first, second = low_joint(), low_joint(), low_joint()
    for _ in range(9):
        whole.step(X)
    for _ in range(4):
        first.step(X)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    copied = copy.deepcopy(first)
    for _ in range(5):
        second.step(X)
        copied.step(X)
    same(whole.state_dict(), second.state_dict())
    same(whole.state_dict(), copied.state_dict())


def test_who_writes_into_the_copy_is_heard():
    joint = low_joint(decay=1.0)
    joint.step(X)
    with torch.no_grad():
        joint.models.average.weight.fill_(3.0)
    joint.step(X)
    assert joint.models.average.weight.eq(3).all()


def test_a_state_whose_average_has_another_shape():
    state = low_joint()
    state.step(X)
    state = state.state_dict()
    state["followers"]["average"]["wide"] |= {"weight": torch.zeros(2, 4), "other": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"(?s)average.weight is \(1, 4\) in the follower, and its average is \(2, 4\)"
    ):
        low_joint().load_state_dict(state)


def test_a_parameter_that_was_frozen_for_good_is_followed_to_its_end(same):
    """What has been trained is averaged also when it no longer moves, after a resume too."""
    joint = joint_of(followers={"average": EMA("net", decay=0.5)})
    joint.step(X)
    joint.models.net[0].weight.requires_grad = False
    behind = (joint.models.net[0].weight - joint.models.average[0].weight).detach()
    other = joint_of(followers={"average": EMA("net", decay=0.5)})
    other.load_state_dict(copy.deepcopy(joint.state_dict()))
    for each in (joint, other):
        each.step(X)
        torch.testing.assert_close(each.models.net[0].weight - each.models.average[0].weight, behind / 2)


def test_a_copy_that_is_given(same):
    """It starts with the values of the model, and does as a deep copy does."""
    given, model = net(seed=5), net()
    joint = joint_of(model, followers={"average": EMA("net", decay=0.9, copy=given)})
    plain = joint_of(followers={"average": EMA("net", decay=0.9)})
    assert joint.models.average is given
    assert not given.training
    for _ in range(3):
        joint.step(X)
        plain.step(X)
    same(plain.state_dict(), joint.state_dict())
    locked = joint_of(Locked(), followers={"target": Copy("net", copy=Locked())})
    locked.step(X)
    assert equal(locked.models.net, locked.models.target)


def test_a_module_that_comes_late():
    """One without buffers is nothing to follow; one with buffers would be missed."""
    model = net()
    joint = joint_of(model, followers={"copy": Copy("net")})
    model.append(nn.Identity())
    joint.step(X)
    model.append(nn.BatchNorm1d(1, affine=False))
    with pytest.raises(PartialStepError, match=r"net.5, which has buffers, was put into the model after"):
        joint.step(X)
