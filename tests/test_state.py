"""Save and resume: a run that is interrupted goes on bit for bit, and a state that does not fit is refused."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from cograd import Joint, Phase, alternate
from cograd.errors import CogradError, StateError
from cograd.weighting import FirstValue, Fixed, Log, RunningMean, RunningStd, Scheduled


class Master(Optimizer):
    """SGD with momentum for half-precision parameters, which keeps its state in float32."""

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"master": p.float().clone(), "history": [torch.zeros_like(p, dtype=torch.float32)]}
                velocity = group["momentum"] * state["history"][-1] + p.grad.float()
                state["history"] = [*state["history"], velocity][-2:]
                state["master"] -= group["lr"] * velocity
                p.copy_(state["master"])


def batch(step):
    return torch.randn(8, 4)  # from the global random state, as a loader draws it


def gan():
    gen = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))
    disc = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def losses(m, x):
        fake = m.gen(torch.randn(len(x), 2))
        return {
            "disc": lambda: (m.disc(x) - 1).square().mean() + m.disc(fake).square().mean(),
            "gen": lambda: (m.disc(fake) - 1).square().mean(),
        }

    return Joint(
        models={"gen": gen, "disc": disc},
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers={
            "gen": Adam(gen.parameters(), 0.01, amsgrad=True),
            "disc": SGD(disc.parameters(), 0.05, momentum=0.9, nesterov=True),
        },
        phases=alternate("disc", "gen", every={"gen": 3}, repeat={"disc": 2}),
    )


def multi(weighting, **options):
    models = {
        "trunk": nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()),
        "left": nn.Linear(8, 1),
        "right": nn.Linear(8, 1),
    }

    def losses(m, x):
        z = m.trunk(x)
        absent = torch.rand(()) < 0.3
        return {
            "left": (m.left(z).squeeze(1) - x.sum(1)).square().mean() + 0.1,
            "right": None if absent else 30 * (m.right(z).squeeze(1) - x.prod(1)).square().mean() + 0.1,
        }

    return Joint(
        models=models,
        losses=losses,
        **{"optimizers": partial(Adam, lr=0.01), "weighting": weighting, "weights": {"left": 0.5}} | options,
    )


def half():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(torch.bfloat16)
    return Joint(
        models={"net": net},
        losses=lambda m, x: {"fit": m.net(x.bfloat16()).square().mean()},
        optimizers=Master(net.parameters()),
        weighting=RunningMean(beta=0.5),
    )


def closure():
    models = {"net": nn.Linear(4, 2), "head": nn.Linear(2, 1)}
    return Joint(
        models=models,
        losses=lambda m, x: {"fit": (m.head(m.net(x).tanh()).squeeze() - x.sum(1)).square().mean()},
        optimizers={
            "net": LBFGS(models["net"].parameters(), lr=0.2, max_iter=3, history_size=4),
            "head": Adam(models["head"].parameters(), 0.01),
        },
        phases=[Phase("net"), Phase("head", every=2)],
        weighting=FirstValue(),
    )


def frozen():
    joint = multi(RunningStd(), phases=[Phase(("trunk", "left", "right")), Phase("left", start=3)])
    joint.models.trunk[0].bias.requires_grad_(False)
    joint.models.trunk[1].eval()
    return joint


CONFIGURATIONS = {
    "GAN in turns": gan,
    "plain sum": partial(multi, None),
    "FirstValue": partial(multi, FirstValue()),
    "RunningMean": partial(multi, RunningMean(beta=0.7)),
    "RunningStd": partial(multi, RunningStd(beta=0.7)),
    "Scheduled": partial(multi, Scheduled({"right": lambda step: step / 8})),
    "Log": partial(multi, Log()),
    "a rule per phase": partial(
        multi, RunningMean(), phases=[Phase(("trunk", "left"), weighting=FirstValue()), Phase("right")]
    ),
    "one optimizer": lambda: one_optimizer(),
    "bfloat16 with float32 state": half,
    "LBFGS": closure,
    "frozen and in eval mode": frozen,
}


def one_optimizer():
    joint = multi(RunningStd())
    models = {name: joint.models[name] for name in joint.models}
    groups = [{"params": model.parameters(), "lr": 0.01 * (i + 1)} for i, model in enumerate(models.values())]
    return multi_over(models, SGD(groups, momentum=0.9, weight_decay=0.01))


def multi_over(models, optimizer):
    return Joint(
        models=models,
        losses=lambda m, x: {"l": m.left(m.trunk(x)).square().mean(), "r": m.right(m.trunk(x)).square().mean()},
        optimizers=optimizer,
        weighting=RunningStd(),
    )


def saved(joint):
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def fresh(configuration, seed):
    torch.manual_seed(seed)
    return CONFIGURATIONS[configuration]()


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_resumed_run_equals_the_uninterrupted_one(configuration, at, picture, same):
    whole = fresh(configuration, seed=1)
    torch.manual_seed(2)
    for step in range(at):
        whole.step(batch(step))
    state, random = saved(whole), torch.get_rng_state()
    whole_reports = [whole.step(batch(step)).losses for step in range(at, at + 5)]

    resumed = fresh(configuration, seed=99)
    with pytest.raises(AssertionError):
        same(state["models"], saved(resumed)["models"])
    resumed.load_state_dict(state)
    torch.set_rng_state(random)
    reports = [resumed.step(batch(step)).losses for step in range(at, at + 5)]
    same(whole_reports, reports)
    a, b = picture(whole), picture(resumed)
    a.pop("grad objects")
    b.pop("grad objects")
    same(a, b)
    same(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_state_can_be_loaded_into_a_joint_that_has_run(configuration, same):
    first, second = fresh(configuration, seed=1), fresh(configuration, seed=7)
    for step in range(4):
        first.step(batch(step))
    for step in range(6):
        second.step(batch(step))
    state = saved(first)
    second.load_state_dict(state)
    same(state, second.state_dict())


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_loading_does_not_alias_the_state(configuration, same):
    first, second, third = (fresh(configuration, seed) for seed in (1, 2, 3))
    for step in range(3):
        first.step(batch(step))
    state = saved(first)
    second.load_state_dict(state)
    for tensor in tensors(state):
        tensor.fill_(13 if not tensor.is_floating_point() else 1e6)
    state["updates"].clear()
    same(first.state_dict(), second.state_dict())

    state = saved(first)
    third.load_state_dict(state)
    torch.manual_seed(0)
    third.step(batch(0))
    same(first.state_dict(), state)  # stepping on does not change it either


def tensors(value):
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors(v)
    elif isinstance(value, list):
        for v in value:
            yield from tensors(v)


def test_optimizer_state_keeps_its_dtype():
    joint, other = fresh("bfloat16 with float32 state", 1), fresh("bfloat16 with float32 state", 2)
    joint.step(batch(0))
    other.load_state_dict(saved(joint))
    (optimizer,) = other.optimizers.values()
    parameter = other.models.net[0].weight
    assert parameter.dtype == torch.bfloat16
    assert optimizer.state[parameter]["master"].dtype == torch.float32
    assert [v.dtype for v in optimizer.state[parameter]["history"]] == [torch.float32] * 2


def test_train_and_requires_grad_flags_are_restored():
    joint, other = multi(None), multi(None)
    joint.models.trunk[1].eval()
    joint.models.left.bias.requires_grad_(False)
    other.models.trunk[0].weight.requires_grad_(False)
    other.models.right.eval()
    other.load_state_dict(saved(joint))
    assert [m.training for m in other.models.trunk] == [True, False, True]
    assert other.models.right.training
    flags = {
        f"{name}.{key}": p.requires_grad for name in other.models for key, p in other.models[name].named_parameters()
    }
    assert {key for key, flag in flags.items() if not flag} == {"left.bias"}
    before = other.models.left.bias.clone()
    other.step(batch(0))
    assert other.models.left.bias.equal(before)


def test_the_phase_position_is_restored():
    joint, other = gan(), gan()
    for step in range(4):
        joint.step(batch(step))
    other.load_state_dict(saved(joint))
    assert (other.steps, other.updates) == (4, {"gen": 1, "disc": 8})
    assert [len(other.step(batch(step)).phases) for step in range(4, 7)] == [2, 3, 2]


def test_learning_rates_that_were_changed_are_restored():
    joint, other = gan(), gan()
    joint.optimizers["gen"].param_groups[0]["lr"] = 0.125
    other.load_state_dict(saved(joint))
    assert other.optimizers["gen"].param_groups[0]["lr"] == 0.125


def test_the_state_is_the_live_one_as_that_of_a_module():
    joint = gan()
    weight = joint.state_dict()["models"]["gen"]["0.weight"]
    assert weight.data_ptr() == joint.models.gen[0].weight.data_ptr()


# -- states that do not fit ------------------------------------------------------------------------------------------


def parts(
    *,
    hidden=3,
    layers=("relu",),
    optimizer=Adam,
    phases=None,
    weighting=None,
    names=("net", "head"),
    optimizers=None,
    bias=True,
    dtype=torch.float32,
    tracked=True,
):
    torch.manual_seed(0)
    extra = {"relu": nn.ReLU(), "dropout": nn.Dropout(), "norm": nn.BatchNorm1d(hidden, track_running_stats=tracked)}
    net = nn.Sequential(nn.Linear(4, hidden), *(extra[layer] for layer in layers))
    models = dict(zip(names, (net.to(dtype), nn.Linear(hidden, 1, bias=bias).to(dtype)), strict=True))
    if phases is not None:
        phases = phases(*names)
    return Joint(
        models=models,
        losses=lambda m, x: {"fit": m[names[1]](m[names[0]](x.to(dtype))).square().mean()},
        optimizers=optimizers(models) if optimizers else optimizer,
        phases=phases,
        weighting=weighting,
    )


MISFITS = {
    "wider": (
        {"hidden": 5},
        ["net.0.weight is (3, 4) torch.float32 in the model, (5, 4)", "net.0.bias", "head.weight"],
    ),
    "another dtype": ({"dtype": torch.float64}, ["net.0.weight is (3, 4) torch.float32 in the model", "torch.float64"]),
    "a layer more, with parameters": (
        {"layers": ("relu", "norm")},
        ["net.2.weight is in the state, not in the model", "net.2.running_mean", "net.2.num_batches_tracked"],
    ),
    "a layer more, without parameters": (
        {"layers": ("relu", "dropout")},
        ["module net.2 is in the state, not in the model"],
    ),
    "a layer less, without parameters": ({"layers": ()}, ["module net.1 is in the model, not in the state"]),
    "without bias": (
        {"bias": False},
        ["head.bias is in the model, not in the state", "optimizer 'head'", "[2]", "[1]"],
    ),
    "other model names": (
        {"names": ("net", "tail")},
        ["The models are 'net', 'head'; the state has 'net', 'tail'", "The optimizers are 'net', 'head'"],
    ),
    "one optimizer": (
        {"optimizers": lambda models: Adam([p for m in models.values() for p in m.parameters()])},
        ["The optimizers are 'net', 'head'; the state has 'optimizer'"],
    ),
    "other groups": (
        {
            "optimizers": lambda models: {
                "net": Adam([{"params": [p]} for p in models["net"].parameters()]),
                "head": Adam(models["head"].parameters()),
            }
        },
        ["optimizer 'net' has parameter groups of sizes [2]; the state has [1, 1]"],
    ),
    "another kind of optimizer": (
        {"optimizer": SGD},
        ["optimizer 'net' is Adam; the state is of SGD", "optimizer 'head' is Adam; the state is of SGD"],
    ),
    "a similar kind of optimizer": ({"optimizer": torch.optim.AdamW}, ["optimizer 'net' is Adam", "AdamW"]),
    "other phases": (
        {"phases": alternate},
        ["The phases are 'update net, head'; the state has 'update net', 'update head'"],
    ),
    "other intervals": (
        {"phases": lambda *names: [Phase(names, every=2)]},
        ["The phases are 'update net, head'; the state has 'update net, head, every 2 batches'"],
    ),
    "another offset": (
        {"phases": lambda *names: [Phase(names, offset=1)]},
        ["The phases are 'update net, head'; the state has 'update net, head, from batch 2'"],
    ),
    "another weighting": (
        {"weighting": RunningStd()},
        ["The weighting of the phase 'update net, head' is None; the state has RunningStd"],
    ),
    "several": (
        {"hidden": 5, "weighting": Log(), "optimizer": SGD},
        [
            " problems:\n",
            "net.0.weight is (3, 4)",
            "net.0.bias is (3,)",
            "head.weight is (1, 3)",
            "optimizer 'net' is Adam; the state is of SGD",
            "is None; the state has Log",
        ],
    ),
}


def trained(**options):
    joint = parts(**options)
    for step in range(3):
        joint.step(batch(step))
    return joint


@pytest.mark.parametrize("case", MISFITS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(case, steps, picture, same):
    options, words = MISFITS[case]
    state = saved(trained(**options))
    joint = parts()
    for step in range(steps):
        joint.step(batch(step))
    before = picture(joint)
    with pytest.raises(StateError) as caught:
        joint.load_state_dict(state)
    assert isinstance(caught.value, ValueError)
    advice = "Build the Joint as it was when the state was taken, or load single models from it"
    for word in ("This state does not fit, and nothing was loaded", *words, advice, 'state["models"]["net"]'):
        assert word in str(caught.value)
    same(before, picture(joint))
    joint.load_state_dict(saved(trained()))
    assert joint.steps == 3


@pytest.mark.parametrize("rule", [FirstValue(), RunningMean(), RunningStd(), Fixed(), Log()], ids=lambda r: repr(r))
def test_the_weighting_must_be_of_the_same_rule(rule):
    joint = parts(weighting=rule)
    with pytest.raises(
        StateError, match=r"The weighting of the phase 'update net, head' is \w+; the state has Scheduled"
    ):
        joint.load_state_dict(saved(parts(weighting=Scheduled({}))))


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"format": 99},
        {"format": 1},
        nn.Linear(1, 1).state_dict(),
        {"format": 1, "steps": 3, "models": {}},
    ],
)
def test_what_is_no_state_is_refused(state, picture, same):
    joint = trained()
    before = picture(joint)
    with pytest.raises(StateError, match="nothing was loaded"):
        joint.load_state_dict(state)
    same(before, picture(joint))


@pytest.mark.parametrize(
    "key", ["steps", "updates", "losses", "models", "training", "requires_grad", "optimizers", "phases"]
)
def test_a_state_with_a_part_missing_is_refused(key, picture, same):
    joint = trained()
    state = copy.deepcopy(joint.state_dict())
    del state[key]
    before = picture(joint)
    with pytest.raises(StateError, match=f"'{key}'"):
        joint.load_state_dict(state)
    same(before, picture(joint))


def test_a_model_of_the_state_that_was_renamed_is_named_once():
    with pytest.raises(CogradError) as caught:
        parts().load_state_dict(saved(parts(names=("net", "tail"))))
    assert str(caught.value).count("The models are") == 1


def refusal(joint, state):
    with pytest.raises(StateError) as caught:
        joint.load_state_dict(state)
    return str(caught.value)


def test_the_nearest_of_the_other_names_is_named():
    text = refusal(parts(names=("net", "critc")), saved(parts(names=("net", "critic"))))
    assert (
        "The models are 'net', 'critc'; the state has 'net', 'critic'. It has no 'critc'. Did you mean 'critic'?"
        in text
    )
    assert "The optimizers are 'net', 'critc'; the state has 'net', 'critic'. It has no 'critc'." in text
    text = refusal(parts(names=("net", "head")), saved(parts(names=("net", "x"))))
    assert "Did you mean" not in text


def test_modules_are_not_listed_where_parameters_or_buffers_differ():
    text = refusal(parts(), saved(parts(layers=("relu", "norm", "dropout"))))
    assert "net.2.weight is in the state" in text
    assert "module" not in text
    assert "net.3" not in text


def test_of_many_differences_the_first_are_listed_and_the_others_counted():
    text = refusal(parts(), saved(parts(layers=("relu", "norm", "norm", "norm"), weighting=Log())))
    assert "17 problems:" in text
    assert sum(line.startswith("  - ") for line in text.splitlines()) == 12 + 1
    assert "\n  - and 5 more\n" in text
    assert "is None; the state has Log" in text  # what many differences of weights do not hide


def test_twelve_differences_are_listed_whole():
    text = refusal(parts(), saved(parts(layers=("relu", "norm", "norm"), weighting=Log())))
    assert "12 problems:" in text
    assert " more" not in text


def test_what_is_no_state_is_refused_with_what_to_pass():
    text = refusal(parts(), nn.Linear(1, 1).state_dict())
    assert "A Joint loads what Joint.state_dict() returned" in text
    assert "state[" not in text
