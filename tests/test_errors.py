"""Bad input gets a clear error at the door, and nothing is lost."""

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import StepLR

import cograd
from cograd import EMA, Copy, EachEpoch, Fp16, Joint, Phase, alternate, errors
from cograd.errors import (
    CogradError,
    GradModeError,
    LossError,
    ModelError,
    NonFiniteLossError,
    OptimizerError,
    PartialStepError,
    PhaseError,
    RouteError,
    StateError,
    UnreachedError,
    WeightingError,
)
from cograd.gramian import At, Layerwise, Rows
from cograd.weighting import (
    IMTLL,
    FirstValue,
    Fixed,
    GeometricMean,
    Log,
    RunningMean,
    RunningStd,
    Scheduled,
    SoftOptimalUncertainty,
    Stateful,
    Uncertainty,
    Weighting,
)

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def networks():
    torch.manual_seed(3)
    return {"gen": nn.Sequential(nn.Linear(4, 3), nn.Tanh()), "disc": nn.Linear(3, 1)}


def optimizers(models):
    return {
        "gen": Adam(models["gen"].parameters(), 0.01, amsgrad=True),
        "disc": SGD(models["disc"].parameters(), 0.05, momentum=0.9),
    }


def good(m):
    score = m.disc(m.gen(X))
    return {"disc": lambda: (score - 1).square().mean(), "gen": score.square().mean() + 0.1}


def build(**changes):
    """A small GAN; each batch is itself the function that gives the losses."""
    models = changes.pop("models", None)
    models = networks() if models is None else models
    options = {
        "models": models,
        "losses": lambda m, batch: batch(m),
        "trains": {"disc": "disc", "gen": "gen"},
        "optimizers": None,
        "weighting": RunningMean(beta=0.5),
    } | changes
    if options["optimizers"] is None:
        options["optimizers"] = optimizers(models)
    return Joint(**options)


def says(error, *words):
    """The message holds these words, and the error is a CogradError and a builtin one."""
    assert isinstance(error, CogradError)
    assert isinstance(error, ValueError | RuntimeError | FloatingPointError)
    for word in words:
        assert word in str(error), f"{word!r} is not in: {error}"


# -- the declaration -------------------------------------------------------------------------------------------------


def shared_models():
    layer = nn.Linear(3, 3)
    return {"gen": nn.Sequential(nn.Linear(4, 3), layer), "disc": nn.Sequential(layer, nn.Linear(3, 1))}


def nested_models():
    gen = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    return {"gen": gen, "disc": gen[1]}


def wrapped_models(kind="DistributedDataParallel", inside=False):
    wrapper = type(kind, (nn.Sequential,), {"__module__": "torch.nn.parallel.distributed"})
    wrapped = wrapper(nn.Linear(4, 3))
    return networks() | {"gen": nn.Sequential(wrapped, nn.Tanh()) if inside else wrapped}


def hooked_models():
    models = networks()
    models["disc"].weight.register_post_accumulate_grad_hook(lambda p: None)
    return models


def frozen_models():
    models = networks()
    models["gen"].requires_grad_(False)
    return models


def lazy_models():
    return networks() | {"gen": nn.LazyLinear(3)}


def copied(models):
    return optimizers(copy.deepcopy(models))


def forgetful(models):
    return SGD([*models["gen"].parameters(), models["disc"].weight], 0.1)


def twice(models):
    return optimizers(models) | {"both": SGD([p for model in models.values() for p in model.parameters()], 0.1)}


def one_lbfgs(models):
    return LBFGS([p for model in models.values() for p in model.parameters()])


def around(optimizer, module):
    """As Fabric and Lightning do it: of the class of the optimizer too, with the same groups."""
    wrapper = object.__new__(type(f"Wrapped{type(optimizer).__name__}", (SGD,), {"__module__": module}))
    wrapper.__dict__ |= {"optimizer": optimizer, "param_groups": optimizer.param_groups, "state": optimizer.state}
    return wrapper


def wrapped_optimizers(models):
    return {name: around(optimizer, "accelerate.optimizer") for name, optimizer in optimizers(models).items()}


def wrapped_and_unknown(models):
    return {"gen": around(optimizers(models)["gen"], "lightning.fabric.wrappers"), "disc": 3}


DECLARATIONS = {
    "models is a generator": (
        {"models": ((name, model) for name, model in networks().items())},
        ModelError,
        ["models maps names to modules", "generator", "read only once"],
    ),
    "models is empty": ({"models": nn.ModuleDict()}, ModelError, ["models maps names to modules", "ModuleDict"]),
    "models is a list": ({"models": [nn.Linear(1, 1)]}, ModelError, ["models maps names to modules", "found [Linear("]),
    "a model is a generator of parameters": (
        {"models": networks() | {"gen": nn.Linear(2, 2).parameters()}},
        ModelError,
        ["models['gen'] must be an nn.Module", "generator", "read only once"],
    ),
    "a model's name is a number": (
        {"models": {1: nn.Linear(1, 1)}, "trains": None},
        ModelError,
        ["name must be a non-empty string", "found 1"],
    ),
    "two models share a layer": (
        {"models": shared_models()},
        ModelError,
        [
            "models['gen'] and models['disc'] share parameters",
            "gen.1.weight is disc.0.weight and 1 more",
            "Name the shared part as a model of its own",
        ],
    ),
    "a model inside another": (
        {"models": nested_models()},
        ModelError,
        ["models['disc'] is gen.1, inside models['gen']", "Name the parts of 'gen'"],
    ),
    "the same model twice": (
        {"models": dict.fromkeys(["gen", "disc"], nn.Linear(4, 1))},
        ModelError,
        ["models['gen']", "is the same module as", "models['disc']"],
    ),
    "DistributedDataParallel": (
        {"models": wrapped_models()},
        ModelError,
        ["models['gen'] is wrapped in DistributedDataParallel", "Pass the module that it wraps"],
    ),
    "FullyShardedDataParallel inside": (
        {"models": wrapped_models("FullyShardedDataParallel", inside=True)},
        ModelError,
        ["models['gen'] is wrapped in FullyShardedDataParallel", "Pass the module that it wraps"],
    ),
    "optimizer in backward": (
        {"models": hooked_models()},
        ModelError,
        ["disc.weight has a hook", "optimizer in backward", "Remove the hook"],
    ),
    "lazy parameters": (
        {"models": lazy_models(), "optimizers": SGD([torch.zeros(1, requires_grad=True)])},
        ModelError,
        ["gen.weight is lazy", "Run one batch"],
    ),
    "several model problems": (
        {"models": {"a": nn.Linear(1, 1).parameters(), "b": 3.0, "": nn.Linear(1, 1)}, "optimizers": SGD},
        ModelError,
        ["3 problems:", "\n  - models['a']", "\n  - models['b']", "found 3.0", "\n  - A model's name"],
    ),
    "losses is no function": (
        {"losses": {"gen": 1}},
        LossError,
        ["losses must be a function losses(models, batch)", "{'gen': 1}"],
    ),
    "check is unknown": ({"check": "never"}, LossError, ["check must be 'now', 'late' or 'off'", "'never'"]),
    "trains names an unknown model": (
        {"trains": {"disc": "disk", "gen": ["gen", "critic"]}},
        RouteError,
        [
            "2 problems:",
            "trains['disc'] names model 'disk', which does not exist. Known models: 'gen', 'disc'.",
            "Did you mean 'disc'?",
            "trains['gen'] names model 'critic', which does not exist. Known models: 'gen', 'disc'.",
        ],
    ),
    "trains is a list": ({"trains": ["gen"]}, RouteError, ["trains maps losses to models", "found ['gen']"]),
    "trains from models to losses": (
        {"trains": {"disc": "real", "gen": ["fake"]}},
        RouteError,
        ["trains maps losses to models, but 'disc' is a model and 'real' is none", "turn it round: {'real': 'disc'}"],
    ),
    "losses is a loss of torch": ({"losses": nn.MSELoss()}, LossError, ["losses(models, batch)", "the module MSELoss"]),
    "trains nothing": ({"trains": {"gen": []}}, RouteError, ["trains['gen'] is empty", "Known models"]),
    "trains a number": ({"trains": {"gen": 5}}, RouteError, ["trains['gen']", "5", "Known models"]),
    "trains None": ({"trains": {"gen": None}}, RouteError, ["trains['gen']", "None", "Known models"]),
    "trains a list in a list": ({"trains": {"gen": [["gen"]]}}, RouteError, ["trains['gen']", "['gen']"]),
    "optimizer of a copy": (
        {"optimizers": copied},
        OptimizerError,
        [
            "gen.0.weight (and 1 more) of model 'gen' can be trained but is in no optimizer",
            "optimizers['gen'] holds 2 parameter(s) of no model, the first of shape (3, 4)",
            "It has the shape of gen.0.weight: was the model copied",
            "optimizers['disc'] holds 2",
            "make the optimizer from the models' parameters",
        ],
    ),
    "parameter in no optimizer": (
        {"optimizers": forgetful},
        OptimizerError,
        ["disc.bias of model 'disc' can be trained but is in no optimizer", "freeze it with requires_grad_(False)"],
    ),
    "parameter in two optimizers": (
        {"optimizers": twice},
        OptimizerError,
        [
            "gen.0.weight ('gen' and 'both') (and 3 more) is in more than one optimizer, so it would step twice in the "
            "phase 'update gen, disc'. Keep it in one, or say which one serves the phase: Phase(['gen', 'disc'], "
            "optimizers='both')."
        ],
    ),
    "optimizers that Accelerate has wrapped": (
        {"optimizers": wrapped_optimizers},
        OptimizerError,
        [
            "2 problems:",
            "optimizers['gen'] is the wrapper WrappedAdam that accelerate puts around Adam",
            "optimizers['disc'] is the wrapper WrappedSGD that accelerate puts around SGD",
            "Pass the optimizer as it was before, or its .optimizer",
        ],
    ),
    "an optimizer that Fabric has wrapped, and a number": (
        {"optimizers": wrapped_and_unknown},
        OptimizerError,
        ["2 problems:", "optimizers['gen'] is the wrapper WrappedAdam that lightning", "optimizers['disc'] must be"],
    ),
    "a model is a parameter": (
        {"models": networks() | {"gen": nn.Parameter(torch.ones(1))}},
        ModelError,
        ["models['gen'] must be an nn.Module; found a float32 tensor of shape (1,)", "nn.ParameterList([nn.Para"],
    ),
    "a model is a list of modules": (
        {"models": networks() | {"gen": [nn.Linear(4, 3)]}},
        ModelError,
        ["models['gen'] must be an nn.Module; found [Linear(", "Make one of them: nn.ModuleList([...])"],
    ),
    "a model is a class": (
        {"models": networks() | {"gen": nn.Tanh}},
        ModelError,
        ["models['gen'] must be an nn.Module; found the class Tanh. Make one of it: Tanh(...)"],
    ),
    "optimizers is a name": (
        {"optimizers": "adam"},
        OptimizerError,
        ["optimizers must be an optimizer, a factory such as partial(Adam", "found 'adam'"],
    ),
    "optimizers is an empty mapping": ({"optimizers": {}}, OptimizerError, ["optimizers holds none", "partial(Adam"]),
    "a list of optimizers without a name": (
        {"optimizers": lambda models: list(optimizers(models).values())},
        OptimizerError,
        ["optimizers must be an optimizer, a factory", "or a mapping from names to optimizers", "found [Adam"],
    ),
    "optimizers is a generator": (
        {"optimizers": (o for o in ())},
        OptimizerError,
        ["optimizers must be an optimizer, a factory", "found a generator"],
    ),
    "parameters instead of an optimizer": (
        {"optimizers": {"gen": nn.Linear(1, 1).parameters(), "disc": nn.Linear(1, 1)}},
        OptimizerError,
        ["2 problems:", "optimizers['gen'] must be", "a generator", "the module Linear", "Adam(net.parameters())"],
    ),
    "an empty list of optimizers": ({"optimizers": {"gen": [], "*": SGD}}, OptimizerError, ["'gen'] is an empty list"]),
    "a factory for no model": (
        {"optimizers": {"gem": SGD, "*": SGD}},
        OptimizerError,
        ["optimizers['gem'] is a factory, and names no model. Known models: 'gen', 'disc'. Did you mean 'gen'?"],
    ),
    "a factory for a frozen model": (
        {"models": frozen_models(), "optimizers": {"gen": SGD, "disc": SGD}},
        OptimizerError,
        ["optimizers['gen'] is a factory, but 'gen' has no parameter that requires grad. Leave it out."],
    ),
    "no factory for the rest": (
        {"optimizers": lambda models: {"gen": SGD, "*": SGD(models["disc"].parameters())}},
        OptimizerError,
        ["optimizers['*'] is for the models that no other entry names", "must be a factory", "found SGD"],
    ),
    "a factory that takes something else": (
        {"optimizers": {"gen": lambda: SGD, "*": SGD}},
        OptimizerError,
        ["optimizers['gen'] must be a function f(parameters)", "Let it take 1 argument: parameters"],
    ),
    "a factory that fails": (
        {"optimizers": partial(SGD, lr=-1.0)},
        OptimizerError,
        ["optimizers is a factory that fails on the parameters of 'gen' (ValueError: Invalid learning rate: -1.0)"],
    ),
    "factory of something else": (
        {"optimizers": list},
        OptimizerError,
        ["What optimizers makes for 'gen' must be a torch.optim.Optimizer or a list of them; found in a list a fl"],
    ),
    "one optimizer under two names": (
        {"optimizers": lambda models: optimizers(models) | {"again": optimizers(models)["gen"]}},
        OptimizerError,
        ["is in more than one optimizer"],
    ),
    "one object under two names": (
        {"optimizers": lambda models: dict.fromkeys(("one", "two"), optimizers(models)["gen"])},
        OptimizerError,
        ["optimizers['two'] is the same object as optimizers['one']"],
    ),
    "two optimizers of one name": (
        {"optimizers": lambda models: {"gen": [optimizers(models)["gen"]], "gen[0]": optimizers(models)["disc"]}},
        OptimizerError,
        ["Two optimizers have the name 'gen[0]'"],
    ),
    "a phase with an unknown optimizer": (
        {"optimizers": SGD, "phases": [Phase("gen", optimizers="gem"), Phase("disc")]},
        OptimizerError,
        ["The phase 'update gen, with the optimizer gem' names optimizer 'gem'", "Did you mean 'gen'?"],
    ),
    "a phase without the optimizer of its model": (
        {"optimizers": SGD, "phases": [Phase(["gen", "disc"], optimizers="gen")]},
        OptimizerError,
        [
            "disc.weight (and 1 more) is updated in the phase 'update gen, disc, with the optimizer gen', but is in "
            "none of its optimizers 'gen'. It is in 'disc': name that one too, or take its model out.",
            "optimizers['disc'] is named by no phase, so it would never step",
        ],
    ),
    "LBFGS in a shared phase": (
        {"optimizers": lambda models: optimizers(models) | {"gen": LBFGS(models["gen"].parameters())}},
        OptimizerError,
        [
            "optimizer 'gen' evaluates the losses itself",
            "with 'disc'",
            "optimizers=LBFGS([p for model in models.values() for p in model.parameters()])",
            "cograd.alternate",
        ],
    ),
    "LBFGS over two phases": (
        {"optimizers": one_lbfgs, "phases": alternate("gen", "disc")},
        OptimizerError,
        ["optimizer 'optimizer' evaluates the losses itself", "'update gen'", "must update all of its models"],
    ),
    "LBFGS model with two phases": (
        {
            "optimizers": lambda models: optimizers(models) | {"gen": LBFGS(models["gen"].parameters())},
            "phases": alternate("gen", "disc", "gen"),
        },
        OptimizerError,
        ["optimizer 'gen' evaluates the losses itself", "no other phase"],
    ),
    "a loss for a frozen model only": (
        {"models": frozen_models(), "optimizers": lambda models: SGD(models["disc"].parameters())},
        RouteError,
        ["trains['gen'] names 'gen', which no phase updates", "no parameter that requires grad", "unfreeze the model"],
    ),
    "a phase of an unknown model": (
        {"phases": [Phase("gen"), Phase("dics")]},
        PhaseError,
        ["'update dics' names model 'dics'", "Known models: 'gen', 'disc'", "Did you mean 'disc'?"],
    ),
    "a model without a phase": (
        {"phases": Phase("gen")},
        PhaseError,
        ["No phase updates 'disc'", "requires_grad_(False)"],
    ),
    "phases holds names": (
        {"phases": ["gen", "disc"]},
        PhaseError,
        ["phases must be Phase objects", "cograd.alternate('gen', 'disc')", "found 'gen'"],
    ),
    "phases is a number": ({"phases": 2}, PhaseError, ["phases must be Phase objects", "found 2"]),
    "weight is nan": (
        {"weights": {"gen": math.nan}},
        WeightingError,
        ["weights['gen'] must be a finite number, or a function of the step that gives one; found nan"],
    ),
    "weights are bad": (
        {"weights": {"gen": "1", "disc": torch.ones(())}},
        WeightingError,
        ["2 problems:", "weights['gen'] must be a finite number, or a function", "found '1'", "weights['disc']"],
    ),
    "weights is a list": ({"weights": [1, 2]}, WeightingError, ["weights maps losses to numbers", "found [1, 2]"]),
    "weights is a number": ({"weights": 2.0}, WeightingError, ["weights maps losses to numbers", "found 2.0"]),
    "weighting is a name": ({"weighting": "pcgrad"}, WeightingError, ["A weighting is a rule", "'pcgrad'"]),
    "weighting is a class": ({"weighting": FirstValue}, WeightingError, ["A weighting is a rule", "FirstValue()"]),
    "weighting has a state already": (
        {"weighting": Stateful(FirstValue())},
        WeightingError,
        ["pass the bare rule: FirstValue(", "a Joint keeps one for each phase"],
    ),
    "a phase's weighting is zero": (
        {"phases": [Phase("gen"), Phase("disc", weighting=0)]},
        WeightingError,
        ["A weighting is a rule", "found 0"],
    ),
    "a phase's weighting is a name": (
        {"phases": [Phase("gen"), Phase("disc", weighting="log")]},
        WeightingError,
        ["A weighting is a rule", "'log'"],
    ),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_a_bad_declaration_is_refused_and_leaves_the_parts_usable(case, same):
    changes, kind, words = DECLARATIONS[case]
    changes = dict(changes)
    models = changes.get("models")
    own = networks() if models is None else models
    if models is None:
        changes["models"] = own
    if callable(changes.get("optimizers")) and getattr(changes["optimizers"], "__module__", "") == __name__:
        changes["optimizers"] = changes["optimizers"](own)
    elif models is not None and "optimizers" not in changes:
        changes["optimizers"] = SGD([torch.zeros(1, requires_grad=True)])
    parts = own if isinstance(own, dict) else {}
    parameters = [p for model in parts.values() if isinstance(model, nn.Module) for p in model.parameters()]
    before = [(p, p.requires_grad, None if case == "lazy parameters" else p.detach().clone()) for p in parameters]
    with pytest.raises(kind) as caught:
        build(**changes)
    says(caught.value, *words)
    for p, flag, value in before:
        assert p.requires_grad == flag
        assert p.grad is None
        if value is not None:
            same(value, p.detach())
    if models is None:
        build(models=own).step(good)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Phase([]), ["Phase(): models must name at least one model; found []."]),
        (lambda: Phase("gen", losses=()), ["Phase('gen'): losses must name at least one loss, or be None"]),
        (lambda: Phase("gen", every=0), ["Phase('gen'): every must be a whole number of at least 1; found 0."]),
        (lambda: Phase("gen", repeat=1.5), ["repeat must be a whole number of at least 1; found 1.5."]),
        (lambda: Phase("gen", start=-1), ["start must be a whole number of at least 0; found -1."]),
        (lambda: Phase("gen", start=7, stop=7), ["stop must be a whole number of at least 8; found 7."]),
        (lambda: Phase("gen", every="2", repeat=0), ["2 problems:", "found '2'", "found 0"]),
        (lambda: Phase("gen", start="soon", stop=3), ["start must be a whole number of at least 0; found 'soon'."]),
        (lambda: Phase("gen", start=None), ["start must be a whole number", "found None"]),
        (lambda: Phase(5), ["models", "found 5"]),
        (lambda: Phase(("gen", 5)), ["models", "found ('gen', 5)"]),
        (lambda: Phase(["gen", ["disc"]]), ["models", "found ['gen', ['disc']]"]),
        (lambda: Phase("gen", losses=5), ["losses", "found 5"]),
        (lambda: cograd.together("gen", 5), ["models", "5"]),
        (lambda: alternate("gen", 5), ["models", "found 5"]),
        (
            lambda: alternate("gen", "disc", every={"dics": 5}),
            ["alternate(every=...) names 'dics', which takes no turn", "'gen', 'disc'", "Did you mean 'disc'?"],
        ),
        (lambda: alternate("gen", repeat={"disc": 5}), ["alternate(repeat=...) names 'disc'", "Known turns: 'gen'"]),
        (lambda: alternate("gen", every=5), ["alternate(every=...)", "found 5"]),
        (lambda: Phase("gen", offset=-1), ["Phase('gen'): offset must be a whole number of at least 0; found -1"]),
        (lambda: Phase("gen", offset=1.0), ["offset", "found 1.0"]),
        (lambda: alternate("gen", offset={"dics": 0}), ["alternate(offset=...) names 'dics'"]),
        (lambda: alternate("gen", every={"gen": 0}), ["Phase('gen'): every", "found 0"]),
    ],
)
def test_a_bad_phase_is_refused(make, words):
    with pytest.raises(PhaseError) as caught:
        make()
    says(caught.value, *words)


# -- the losses ------------------------------------------------------------------------------------------------------


def replaced(name, make):
    """``good`` with one loss replaced by ``make(models)``."""
    return lambda m: good(m) | {name: make(m)}


def fake_loss(m):
    return m.disc(m.gen(X)).mean()


class BrokenError(Exception):
    pass


def broken():
    raise BrokenError("the user's own")


LOSSES = {
    "not a mapping": (fake_loss, LossError, ["The losses must be a mapping", "float32 tensor"]),
    "None": (
        lambda m: None,
        LossError,
        ["The losses must be a mapping", "found None. Does the losses function end with return?"],
    ),
    "pairs": (lambda m: list(good(m).items()), LossError, ["The losses must be a mapping", "found [("]),
    "a name that is no string": (lambda m: good(m) | {3: fake_loss(m)}, LossError, ["name", "string", "3"]),
    "a vector": (
        replaced("gen", lambda m: m.disc(m.gen(X))),
        LossError,
        ["loss 'gen' must be one number; found shape (6, 1)", "gen.mean()", "gen.sum()"],
    ),
    "nothing": (
        replaced("gen", lambda m: m.disc(m.gen(X[:0])).squeeze()),
        LossError,
        ["loss 'gen' must be one number; found shape (0,)", "gen.mean()"],
    ),
    "integers": (
        replaced("gen", lambda m: (m.disc(m.gen(X)) > 0).sum()),
        LossError,
        ["loss 'gen' must be a floating tensor", "torch.int64", "argmax"],
    ),
    "complex": (
        replaced("gen", lambda m: torch.complex(fake_loss(m), fake_loss(m))),
        LossError,
        ["loss 'gen' must be a floating tensor", "complex64"],
    ),
    "a float": (
        replaced("gen", lambda m: 0.5),
        LossError,
        ["loss 'gen' must be a tensor; found 0.5", "its graph is gone"],
    ),
    "numpy": (
        replaced("gen", lambda m: fake_loss(m).detach().numpy()),
        LossError,
        ["loss 'gen' must be a tensor; found array(", "its graph is gone"],
    ),
    "zero for an absent loss": (
        replaced("gen", lambda m: 0),
        LossError,
        ["loss 'gen' must be a tensor; found 0. If it is absent from this batch, return None."],
    ),
    "parts in a tuple": (
        replaced("gen", lambda m: (fake_loss(m), fake_loss(m))),
        LossError,
        ["loss 'gen' must be a tensor; found (tensor(", "Give each part a name of its own, or add them up"],
    ),
    "a word": (
        replaced("gen", lambda m: "mse"),
        LossError,
        ["loss 'gen' must be a tensor; found 'mse'. Return what a loss function gives"],
    ),
    "a callable of a callable": (
        replaced("gen", lambda m: lambda: good),
        LossError,
        ["loss 'gen' must be a tensor; found the function good"],
    ),
    "no graph": (
        replaced("gen", lambda m: fake_loss(m).detach()),
        LossError,
        ["loss 'gen' does not require grad", "detach()", "return None"],
    ),
    "no graph, lazily": (
        replaced("gen", lambda m: lambda: torch.tensor(1.0)),
        LossError,
        ["loss 'gen' does not require grad", "a tensor built anew"],
    ),
    "requires_grad by hand": (
        replaced("gen", lambda m: torch.tensor(1.0).requires_grad_()),
        LossError,
        ["loss 'gen' is a leaf on which requires_grad was set by hand", "Look for what cut it"],
    ),
    "requires_grad by hand, with a graph": (
        replaced("gen", lambda m: fake_loss(m).detach().requires_grad_() * 1),
        UnreachedError,
        ["loss 'gen' is declared to train 'gen'", "no gradient flows", "detach()", "take the model out of trains"],
    ),
    "cut before the generator": (
        replaced("gen", lambda m: m.disc(m.gen(X).detach()).mean()),
        UnreachedError,
        ["loss 'gen' is declared to train 'gen'", "no gradient flows", "detach()"],
    ),
    "nan": (replaced("gen", lambda m: fake_loss(m) * math.nan), NonFiniteLossError, ["loss 'gen' is nan"]),
    "inf": (
        replaced("gen", lambda m: fake_loss(m) + math.inf),
        NonFiniteLossError,
        ["loss 'gen' is inf", "no parameter has moved"],
    ),
    "exception": (replaced("gen", lambda m: broken()), BrokenError, ["the user's own"]),
    "exception, lazily": (replaced("gen", lambda m: broken), BrokenError, ["the user's own"]),
}


@pytest.mark.parametrize("phases", [None, alternate("gen", "disc")], ids=["at once", "in turns"])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("case", LOSSES)
def test_a_bad_loss_is_refused_and_nothing_is_lost(case, steps, phases, picture, same):
    bad, kind, words = LOSSES[case]
    if phases and case == "cut before the generator":  # the discriminator is frozen, so no graph is left
        kind, words = LossError, ["loss 'gen' does not require grad", "Look for what cut it"]
    joint, twin = build(phases=phases), build(phases=phases)
    for _ in range(steps):
        joint.step(good)
        twin.step(good)
    for p in joint.models.gen.parameters():
        p.grad = torch.full_like(p, 5.0)
    before = picture(joint)
    with pytest.raises(kind) as caught:
        joint.step(bad)
    if kind is BrokenError:
        assert str(caught.value) == "the user's own"
    else:
        says(caught.value, *words)
    same(before, picture(joint))
    for _ in range(2):
        joint.step(good)
        twin.step(good)
    same(picture(twin), picture(joint))


@pytest.mark.parametrize("bad", ["not a mapping", "a float", "a vector", "integers", "a name that is no string"])
def test_evaluate_and_plan_refuse_the_same_losses(bad, picture, same):
    joint = build()
    joint.step(good)
    make, kind, words = LOSSES[bad]
    before = picture(joint)
    for look in (joint.evaluate, joint.plan):
        with pytest.raises(kind) as caught:
            look(make)
        says(caught.value, *words)
        same(before, picture(joint))


def test_a_parameter_of_no_model_is_refused_on_the_first_batch(picture, same):
    joint = build()
    before = picture(joint)
    with pytest.raises(RouteError) as caught:
        joint.step(replaced("gen", lambda m: fake_loss(m) + nn.Parameter(torch.ones(7)).sum()))
    says(caught.value, "shape (7,)", "none of the models 'gen', 'disc'", "as a model too", "freeze it")
    same(before, picture(joint))
    joint.step(good)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trains": {"disc": "disc", "gne": "gen"}}, ["trains['gne'] names loss 'gne'"]),
        ({"weights": {"gne": 2.0}}, ["weights['gne'] names loss 'gne'"]),
        (
            {"phases": [Phase("gen"), Phase("disc", losses=("disc", "gne"))]},
            ["the phase 'update disc, by disc, gne' names loss 'gne'"],
        ),
    ],
    ids=["trains", "weights", "phases"],
)
def test_an_unknown_loss_name_is_refused_on_the_first_batch(changes, words, picture, same):
    joint = build(**changes)
    before = picture(joint)
    with pytest.raises(CogradError) as caught:
        joint.step(good)
    assert isinstance(caught.value, RouteError | PhaseError | WeightingError)
    says(
        caught.value,
        *words,
        "did not return",
        "Known losses: 'disc', 'gen'",
        "Did you mean 'gen'?",
        "return it as None when it is not",
    )
    same(before, picture(joint))
    joint.step(lambda m: good(m) | {"gne": None} | {"gne": good(m)["gen"]})
    assert joint.steps == 1


def test_several_unknown_losses_are_reported_together():
    joint = build(trains={"disc": "disc", "gne": "gen"}, weights={"dics": 1.0})
    with pytest.raises(RouteError) as caught:
        joint.step(good)
    says(caught.value, "2 problems:", "trains['gne']", "weights['dics']", "Did you mean 'disc'?")


@pytest.mark.parametrize("phases", [None, alternate("gen", "disc")], ids=["at once", "in turns"])
def test_a_model_that_no_loss_trains_is_refused(phases, picture, same):
    joint = build(trains={"disc": "disc", "gen": "disc"}, phases=phases)
    before = picture(joint)
    with pytest.raises(PhaseError) as caught:
        joint.step(good)
    says(caught.value, "updates 'gen', but none of the losses 'disc', 'gen' trains it", "in trains", "take 'gen' out")
    same(before, picture(joint))
    joint.step(lambda m: good(m) | {"late": lambda: fake_loss(m)})
    assert joint.updates == {"gen": 1, "disc": 1}


def test_a_phase_whose_losses_leave_a_model_untrained_is_refused():
    joint = build(trains={"disc": "disc"}, phases=[Phase("gen", losses="disc"), Phase("disc")])
    with pytest.raises(PhaseError) as caught:
        joint.step(good)
    says(caught.value, "updates 'gen', but none of the losses 'disc', 'gen' trains it there")


# -- losses that reach nothing ---------------------------------------------------------------------------------------


def three(**changes):
    torch.manual_seed(1)
    models = {"trunk": nn.Linear(4, 3), "left": nn.Linear(3, 1), "right": nn.Linear(3, 1)}
    return Joint(models=models, losses=lambda m, batch: batch(m), optimizers=Adam, **changes)


def both(m, cut=lambda x: x):
    z = m.trunk(X)
    return {"a": m.left(cut(z)).square().mean(), "b": m.right(z).square().mean()}


def cut_all(m):
    z = m.trunk(X).detach()
    return {"a": m.left(z).square().mean(), "b": m.right(z).square().mean()}


@pytest.mark.parametrize("steps", [0, 3])
def test_a_single_loss_cut_from_a_declared_model(steps, picture, same):
    joint = three(trains={"a": ["trunk", "left", "right"]})

    def whole(m):
        z = m.trunk(X)
        return {"a": (m.left(z) * m.right(z)).mean()}

    def broken_way(m):
        z = m.trunk(X).detach()
        return {"a": (m.left(z) * m.right(z)).mean()}

    for _ in range(steps):
        joint.step(whole)
    before = picture(joint)
    with pytest.raises(UnreachedError) as caught:
        joint.step(broken_way)
    says(caught.value, "loss 'a' is declared to train 'trunk'", "detach()", "out of trains")
    same(before, picture(joint))
    joint.step(whole)


@pytest.mark.parametrize("steps", [0, 3])
def test_every_loss_cut_from_a_declared_model(steps, picture, same):
    joint = three(trains={"a": ["trunk", "left"], "b": ["trunk", "right"]})
    for _ in range(steps):
        joint.step(both)
    before = picture(joint)
    with pytest.raises(UnreachedError) as caught:
        joint.step(cut_all)
    says(caught.value, "is declared to train 'trunk'", "detach()")
    same(before, picture(joint))
    joint.step(both)


@pytest.mark.parametrize("steps", [0, 3])
def test_one_of_two_losses_cut_from_a_declared_model(steps, picture, same):
    joint = three(trains={"a": ["trunk", "left"], "b": ["trunk", "right"]})
    for _ in range(steps):
        joint.step(both)
    before = picture(joint)
    with pytest.raises(UnreachedError) as caught:
        joint.step(lambda m: both(m, torch.Tensor.detach))
    says(caught.value, "loss 'a' is declared to train 'trunk'", "detach()")
    same(before, picture(joint))
    joint.step(both)


@pytest.mark.parametrize("steps", [0, 3])
def test_one_of_two_losses_cut_where_both_train_everything(steps, picture, same):
    joint = three(trains={"a": ["trunk", "left", "right"], "b": ["trunk", "left", "right"]})

    def mixed(m, cut=lambda x: x):
        z = m.trunk(X)
        return {"a": (m.left(z) * m.right(z)).mean(), "b": (m.left(z) - m.right(cut(z))).square().mean()}

    def without_trunk(m):
        return mixed(m) | {"b": (m.left(m.trunk(X).detach()) - m.right(m.trunk(X).detach())).square().mean()}

    for _ in range(steps):
        joint.step(mixed)
    before = picture(joint)
    with pytest.raises(UnreachedError) as caught:
        joint.step(without_trunk)
    says(caught.value, "loss 'b' is declared to train 'trunk'", "detach()")
    same(before, picture(joint))
    joint.step(mixed)


def test_a_loss_that_trains_only_a_model_without_a_phase_is_refused():
    models = {"student": nn.Linear(4, 1), "teacher": nn.Linear(4, 1).requires_grad_(False)}
    with pytest.raises(RouteError) as caught:
        Joint(models=models, losses=lambda m, x: {}, trains={"soft": "teacher"}, optimizers=Adam)
    says(caught.value, "trains['soft'] names 'teacher'", "requires grad", "unfreeze the model")


@pytest.mark.parametrize("steps", [0, 2])
def test_flags_that_the_losses_function_switches_on(steps, picture, same):
    """The habit of loops by hand: a frozen model is unfrozen where its loss is computed."""
    joint = build(trains={"disc": "disc", "gen": "gen"}, phases=alternate("disc", "gen"))

    def unfreezing(m):
        m.gen.requires_grad_(True)
        return good(m)

    for _ in range(steps):
        joint.step(good)
    before = picture(joint)
    with pytest.raises(ModelError) as caught:
        joint.step(unfreezing)
    same(picture(joint), before)
    says(caught.value, "switches on requires_grad", "update disc", "Leave the flags alone")


@pytest.mark.parametrize("rule", [Fixed({"gne": 2.0}), Scheduled({"gne": 2.0})], ids=["Fixed", "Scheduled"])
def test_a_rule_that_names_an_unknown_loss(rule, picture, same):
    joint = build(weighting=rule)
    before = picture(joint)
    with pytest.raises(WeightingError) as caught:
        joint.step(good)
    says(caught.value, f"{type(rule).__name__} names loss 'gne'", "Did you mean 'gen'?")
    same(before, picture(joint))


def test_an_unknown_model_in_the_losses_function(picture, same):
    joint = build()
    before = picture(joint)
    for ask in (lambda m: m.gan, lambda m: m["gan"]):
        with pytest.raises(ModelError, match=r"There is no model 'gan'\. .*Did you mean 'gen'\?") as caught:
            joint.step(ask)
        assert isinstance(caught.value, AttributeError | KeyError)
    assert not hasattr(joint.models, "gan")
    same(before, picture(joint))


def test_a_plan_for_a_batch_needs_gradients():
    joint = build()
    with torch.no_grad(), pytest.raises(GradModeError, match=r"plan\(\) needs gradients"):
        joint.plan(good)


def test_a_search_that_ends_at_nan_is_not_passed_over():
    net = nn.Linear(2, 1)
    calls = []

    def losses(m, x):
        calls.append(1)
        return {"l": m.net(x).square().mean() * (1.0 if len(calls) == 1 else torch.nan)}

    joint = Joint(models={"net": net}, losses=losses, optimizers=torch.optim.LBFGS(net.parameters(), max_iter=4))
    with pytest.raises(PartialStepError) as caught:
        joint.step(torch.randn(8, 2))
    says(caught.value, "NaN", "last checkpoint")


def test_a_model_cut_from_all_losses_without_declared_routes(picture, same):
    joint = three()
    joint.step(both)
    before = picture(joint)
    with pytest.raises(UnreachedError) as caught:
        joint.step(cut_all)
    says(caught.value, "updates 'trunk', but no gradient flows to it from any of its losses ('a', 'b')", "detach()")
    same(before, picture(joint))
    joint.step(both)


def test_after_a_loss_without_graph_was_refused_it_may_be_absent():
    models = {"left": nn.Linear(4, 1), "right": nn.Linear(4, 1)}
    joint = Joint(models=models, losses=lambda m, batch: batch(m), optimizers=SGD)
    with pytest.raises(LossError):
        joint.step(lambda m: {"a": m.left(X).mean(), "b": m.right(X).mean().detach()})
    report = joint.step(lambda m: {"a": m.left(X).mean(), "b": None})
    assert report.skipped == ("right",)
    assert joint.updates == {"left": 1, "right": 0}


def test_in_turns_a_loss_of_no_model_at_all_is_refused(picture, same):
    torch.manual_seed(0)
    models = {"left": nn.Linear(4, 1), "right": nn.Linear(4, 1)}
    joint = Joint(models=models, losses=lambda m, batch: batch(m), optimizers=SGD, phases=alternate("left", "right"))
    with pytest.raises(LossError) as caught:
        joint.step(lambda m: {"a": m.left(X).mean(), "b": m.right(X).mean(), "c": torch.tensor(1.0)})
    says(caught.value, "loss 'c' does not require grad", "return None")
    assert joint.updates == {"left": 1, "right": 0}  # noticed when the last phase had no use for it either


# -- not finite ------------------------------------------------------------------------------------------------------


def late_nan(m):
    return good(m) | {"gen": fake_loss(m) * math.nan}


def test_late_checking_tells_one_step_later(picture, same):
    joint = build(check="late", weighting=None)
    joint.step(good)
    joint.step(late_nan)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError) as caught:
        joint.step(good)
    says(caught.value, "loss 'gen' is nan", "one step ago", "its update has been made")
    same(before, picture(joint))
    joint.step(lambda m: {"disc": torch.zeros(()) * m.disc.weight.sum(), "gen": 0 * m.gen[0].weight.nan_to_num().sum()})


def test_late_checking_forgets_a_step_that_was_undone():
    joint = three(check="late")
    joint.step(both)
    with pytest.raises(UnreachedError):
        joint.step(lambda m: {name: loss * math.nan for name, loss in cut_all(m).items()})
    joint.step(both)
    assert joint.steps == 2


def test_unchecked_losses_go_through():
    joint = build(check="off", weighting=None)
    joint.step(late_nan)
    joint.step(good)
    assert joint.models.gen[0].weight.isnan().all()


class Careless(Weighting):
    """Divides by zero at the second batch."""

    needs = frozenset({"losses"})

    def weigh(self, seen, state):
        return seen.losses / (1 - seen.step), state


@pytest.mark.parametrize(
    ("rule", "kind", "what"),
    [
        (Log(), NonFiniteLossError, ["the weight of loss 'gen' is nan", "Log needs positive losses, and 'gen' is -"]),
        (GeometricMean(), NonFiniteLossError, ["GeometricMean needs positive losses, and 'gen' is -", "RunningMean()"]),
        (IMTLL(), NonFiniteLossError, ["IMTLL needs losses that are not negative, and 'gen' is -", "add a constant"]),
        (Uncertainty(), NonFiniteLossError, ["Uncertainty needs losses that are not negative, and 'gen' is -"]),
        (SoftOptimalUncertainty(), NonFiniteLossError, ["SoftOptimalUncertainty needs losses that are not negative"]),
        (Careless(), NonFiniteLossError, ["the weight of loss", "Look at the rule: Careless gave it"]),
        (Scheduled({"gen": lambda step: math.nan if step else 1.0}), WeightingError, ["'gen'", "found nan at step 1"]),
        (Scheduled({"gen": lambda step: math.inf if step else 1.0}), WeightingError, ["'gen'", "found inf at step 1"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Weighting) else "",
)
def test_a_weight_that_is_not_finite_is_refused(rule, kind, what, picture, same):
    joint, twin = build(weighting=rule), build(weighting=rule)
    joint.step(good)
    twin.step(good)
    negative = replaced("gen", lambda m: -good(m)["gen"])
    before = picture(joint)
    with pytest.raises(kind) as caught:
        joint.step(negative)
    says(caught.value, *what)
    assert "learning rate" not in str(caught.value)
    same(before, picture(joint))
    if isinstance(rule, Log):
        joint.step(good)
        twin.step(good)
        same(picture(twin), picture(joint))


def test_a_refused_loss_is_forgotten_even_if_the_next_batch_has_none():
    joint = build(weighting=FirstValue(), trains={"disc": "disc", "gen": "gen"})
    with pytest.raises(NonFiniteLossError):
        joint.step(late_nan)
    joint.step(lambda m: {"disc": None, "gen": None})
    report = joint.step(good)
    assert report.weights["gen"].item() == pytest.approx(1 / report.losses["gen"].item())


# -- where gradients are switched off --------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_a_step_without_gradients_is_refused(off, picture, same):
    joint = build()
    joint.step(good)
    before = picture(joint)
    with off(), pytest.raises(GradModeError) as caught:
        joint.step(good)
    says(caught.value, "step() needs gradients", "no_grad or inference_mode", "evaluate()")
    same(before, picture(joint))
    joint.step(good)


# -- the drop-in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"losses": 3.0}, LossError, ["The losses must be a mapping", "found 3.0"]),
        ({"losses": {1: None}}, LossError, ["name", "string", "1"]),
        ({"losses": {"a": None, "b": None}}, LossError, ["nothing to differentiate", "'a', 'b'"]),
        ({"losses": {}}, LossError, ["nothing to differentiate"]),
        (
            {"losses": {"a": torch.ones(2, requires_grad=True)}},
            LossError,
            ["loss 'a' must be one number", "shape (2,)"],
        ),
        ({"losses": {"a": torch.ones(())}}, LossError, ["loss 'a' does not require grad"]),
        ({"trains": {"gen": "gem"}}, RouteError, ["trains['gen'] names model 'gem'", "Did you mean 'gen'?"]),
        ({"trains": {"gen": 1}}, RouteError, ["trains['gen']", "1"]),
        ({"trains": {"gne": "gen"}}, RouteError, ["trains['gne'] names loss 'gne'", "Did you mean 'gen'?"]),
        (
            {"trains": {"gen": "gen"}, "models": {}},
            RouteError,
            ["trains names models, and there are none. Give models={name: module}"],
        ),
        ({"weights": {"gne": 1.0}}, CogradError, ["weights['gne'] names loss 'gne'", "Did you mean 'gen'?"]),
        ({"weights": {"gen": math.inf}}, WeightingError, ["weights['gen'] must be a finite number", "found inf"]),
        ({"weights": {"gen": "big"}}, WeightingError, ["weights['gen'] must be a finite number", "found 'big'"]),
        ({"weights": 2.0}, WeightingError, ["weights maps losses to numbers", "found 2.0"]),
        (
            {"weighting": FirstValue()},
            WeightingError,
            ["FirstValue remembers earlier steps", "balance = cograd.weighting.Stateful(FirstValue(floor=1e-12))"],
        ),
        ({"weighting": "log"}, WeightingError, ["A weighting is a rule", "'log'"]),
        ({"models": [nn.Linear(1, 1)]}, ModelError, ["models maps names to modules", "found [Linear("]),
        ({"models": {"gen": "gen"}}, ModelError, ["models['gen'] must be a module or its parameters", "str"]),
        ({"models": {"gen": [1, 2]}}, ModelError, ["models['gen'] must be a module or its parameters", "list"]),
    ],
)
def test_the_drop_in_refuses_and_touches_nothing(options, kind, words):
    models = networks()
    options = {"losses": good(cograd.Models(models)), "models": models} | options
    losses = options.pop("losses")
    for call in (cograd.backward, cograd.grad):
        with pytest.raises(kind) as caught:
            call(losses, **options)
        says(caught.value, *words)
    assert all(p.grad is None and p.requires_grad for model in models.values() for p in model.parameters())
    cograd.backward(good(cograd.Models(models)), models=models)


def test_the_drop_in_refuses_an_exhausted_generator():
    models = networks()
    parameters = (p for p in models["gen"].parameters())
    assert len(list(parameters)) == 2
    for call in (cograd.backward, cograd.grad):
        with pytest.raises(ModelError) as caught:
            call(good(cograd.Models(models)), models={"gen": parameters})
        says(caught.value, "models['gen']", "generator with none", "read only once", "pass the module, or a list")


def test_the_drop_in_reads_a_fresh_generator():
    models = networks()
    gradients = cograd.grad(
        good(cograd.Models(models)), models={name: iter(model.parameters()) for name, model in models.items()}
    )
    assert list(gradients["gen"]) == ["0", "1"]
    assert all(g is not None for named in gradients.values() for g in named.values())


def test_the_drop_in_forgets_what_a_refused_call_saw():
    balance = Stateful(RunningMean())
    models = networks()
    named = cograd.Models(models)
    cograd.backward(good(named), weighting=balance)
    before = copy.deepcopy(balance.state_dict())
    with pytest.raises(UnreachedError):
        cograd.backward(
            good(named) | {"extra": named.disc(X[:, :3]).mean()},
            models=models,
            trains={"extra": "gen"},
            weighting=balance,
        )
    assert balance.state_dict() == before


# -- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fixed({"gen": math.nan}), ["Fixed", "'gen'", "finite number", "nan"]),
        (lambda: Fixed({"gen": "1"}), ["Fixed", "'gen'", "finite number", "'1'"]),
        (lambda: Scheduled({"gen": "linear"}), ["Scheduled", "'gen'", "number", "'linear'"]),
        (lambda: RunningMean(beta=1.0), ["RunningMean", "beta", "[0, 1)", "1.0"]),
        (lambda: RunningMean(beta=-0.1), ["RunningMean", "beta", "[0, 1)", "-0.1"]),
        (lambda: RunningStd(beta="0.9"), ["RunningStd", "beta", "[0, 1)", "'0.9'"]),
        (lambda: RunningStd(floor=-1.0), ["RunningStd", "floor", "-1.0"]),
        (lambda: FirstValue(floor=-1.0), ["FirstValue", "floor", "-1.0"]),
        (lambda: Stateful("log"), ["A weighting is a rule", "'log'"]),
        (lambda: Stateful(FirstValue), ["the class FirstValue", "FirstValue()"]),
        (lambda: Stateful(Stateful(FirstValue())), ["pass the bare rule: FirstValue("]),
        (lambda: Stateful(Greedy()), ["Greedy needs 'hessian'", "'gramian'"]),
        (lambda: Stateful(cograd.weighting.Log(), refresh=2), ["refresh=2", "Log needs none"]),
        (lambda: Stateful(cograd.weighting.FromGramian(len), refresh=0), ["refresh", "at least 1", "0"]),
    ],
)
def test_a_bad_rule_is_refused(make, words):
    with pytest.raises(WeightingError) as caught:
        make()
    says(caught.value, *words)


class Greedy(cograd.weighting.Weighting):
    needs = frozenset({"losses", "hessian"})

    def weigh(self, seen, state):
        raise NotImplementedError


# -- the classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ModelError, ValueError),
        (OptimizerError, ValueError),
        (RouteError, ValueError),
        (PhaseError, ValueError),
        (WeightingError, ValueError),
        (LossError, ValueError),
        (NonFiniteLossError, FloatingPointError),
        (NonFiniteLossError, LossError),
        (UnreachedError, RuntimeError),
        (cograd.errors.PassError, RuntimeError),
        (GradModeError, RuntimeError),
        (PartialStepError, RuntimeError),
        (StateError, ValueError),
    ],
)
def test_each_error_is_also_a_builtin(kind, builtin):
    assert issubclass(kind, CogradError)
    assert issubclass(kind, builtin)


# -- anything at all -------------------------------------------------------------------------------------------------

names = st.sampled_from(["gen", "disc", "gne", "", "a b"])
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    st.text(max_size=2),
    st.just([["gen"]]),
    st.just(object()),
)
one_or_more = st.one_of(names, st.lists(names, max_size=3), junk)


def mappings(values):
    return st.one_of(junk, st.dictionaries(st.one_of(names, st.integers(0, 1)), values, max_size=3))


@st.composite
def phases(draw):
    def phase():
        options = {}
        for field in ("every", "repeat", "start", "stop"):
            if draw(st.booleans()):
                options[field] = draw(junk)
        if draw(st.booleans()):
            options["losses"] = draw(one_or_more)
        if draw(st.booleans()):
            options["weighting"] = draw(st.one_of(junk, st.just(Log())))
        return Phase(draw(one_or_more), **options)

    kind = draw(st.sampled_from(["none", "junk", "list", "alternate"]))
    if kind == "none":
        return lambda: None
    if kind == "junk":
        value = draw(junk)
        return lambda: value
    if kind == "alternate":
        turns, every = draw(st.lists(one_or_more, max_size=3)), draw(mappings(junk))
        return lambda: alternate(*turns, every=every)
    made = []
    for _ in range(draw(st.integers(0, 2))):
        try:
            made.append(phase())
        except CogradError:
            made.append(Phase("gen"))
    return lambda: made


LOSS_VALUES = {
    "score": lambda m: fake_loss(m),
    "lazy score": lambda m: lambda: fake_loss(m),
    "vector": lambda m: m.disc(m.gen(X)),
    "detached": lambda m: fake_loss(m).detach(),
    "leaf": lambda m: torch.ones((), requires_grad=True),
    "parameter": lambda m: m.disc.bias,
    "nan": lambda m: fake_loss(m) * math.nan,
    "half": lambda m: fake_loss(m).to(torch.float16),
    "integer": lambda m: torch.tensor(1),
    "none": lambda m: None,
    "lazy none": lambda m: lambda: None,
    "float": lambda m: 1.0,
    "word": lambda m: "loss",
    "list": lambda m: [fake_loss(m)],
    "cut": lambda m: m.disc(m.gen(X).detach()).mean(),
}
loss_dicts = st.one_of(
    st.just(good),
    st.sampled_from([lambda m: None, lambda m: [], lambda m: {}, fake_loss]),
    st.dictionaries(
        st.one_of(names, st.integers(0, 1)), st.sampled_from(sorted(LOSS_VALUES)), min_size=1, max_size=3
    ).map(lambda chosen: lambda m: {name: LOSS_VALUES[value](m) for name, value in chosen.items()}),
)


HALVE = partial(StepLR, step_size=1, gamma=0.5)
GOOD = {
    "trains": {"disc": "disc", "gen": "gen"},
    "weights": None,
    "weighting": None,
    "check": "now",
    "missing": "allow",
    "losses": lambda m, batch: batch(m),
    "phases": lambda: alternate("gen", "disc"),
}
BAD = {
    "trains": mappings(one_or_more),
    "weights": mappings(junk),
    "weighting": st.one_of(junk, st.sampled_from([Log(), FirstValue(), Fixed({"gen": 0.0})])),
    "check": junk,
    "missing": st.one_of(junk, st.just("raise")),
    "phases": phases(),
    "models": mappings(st.one_of(junk, st.builds(lambda: nn.Linear(4, 3)))),
    "optimizers": mappings(st.one_of(junk, st.just(SGD))),
    "losses": junk,
    "clip": st.one_of(mappings(junk), st.dictionaries(st.tuples(names, names), junk, max_size=2)),
    "accumulate": mappings(st.integers(-1, 3) | junk),
    "schedulers": mappings(st.one_of(junk, st.sampled_from([HALVE, EachEpoch(HALVE), EachEpoch(HALVE, "val"), SGD]))),
    "followers": mappings(st.one_of(junk, st.sampled_from([EMA("gen"), Copy("disc", every=2), EMA("gne")]))),
    "precision": st.one_of(junk, st.sampled_from(["bf16", "fp16", Fp16(skip="one", scale=2.0)])),
    "gramian": st.one_of(junk, st.sampled_from([Rows(), Layerwise(), At("gen"), At("gne")])),
    "refresh": junk,
    "watch": junk,
}


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    spoilt=st.sets(st.sampled_from(sorted(BAD)), max_size=2),
    batches=st.lists(loss_dicts, min_size=1, max_size=3),
)
def test_whatever_is_declared_the_error_is_a_cograd_error_and_nothing_is_lost(data, spoilt, batches, picture, same):
    options = GOOD | {name: data.draw(BAD[name], label=name) for name in sorted(spoilt)}
    models = networks()
    options.setdefault("models", models)
    options.setdefault("optimizers", SGD)
    try:
        joint = Joint(**options | {"phases": options["phases"]()})
    except CogradError as error:
        says(error)
        build(models=models).step(good)
        return
    first = joint.phases[0].models
    for batch in batches:
        for name in first:
            for p in joint.models[name].parameters():
                p.grad = torch.ones_like(p)
        before = picture(joint)
        try:
            joint.step(batch)
        except CogradError as error:
            says(error)
            after = picture(joint)
            same(before["requires_grad"], after["requires_grad"])
            if before["updates"] == after["updates"] and "accumulate" not in spoilt:  # it failed in the first phase
                same(before, after)
        joint.end_epoch({"val": 1.0})
        joint.state_dict()


# -- the words themselves --------------------------------------------------------------------------------------------


class Unprintable:
    def __repr__(self):
        raise BrokenError("no repr")


class Plain:
    """It has no repr of its own."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (nn.Linear(1, 1), "the module Linear"),
        (torch.tensor(float("nan")), "a float32 tensor of shape ()"),
        (fake_loss, "the function fake_loss"),
        (FirstValue, "the class FirstValue"),
        ((i for i in ()), "a generator, which can be read only once"),
        (Plain(), "an object of type Plain"),
        (Unprintable(), "an object of type Unprintable, whose repr fails"),
        ({"a": Unprintable()}, "an object of type dict, whose repr fails"),
        (nn.ModuleDict({"a": nn.ReLU()}), "the module ModuleDict"),
        ("a\nb", r"'a\nb'"),
    ],
)
def test_what_was_found_is_shown_on_one_line(value, text):
    assert errors.shown(value) == text


def test_what_is_long_is_cut():
    text = errors.shown(list(range(1000)))
    assert text.startswith("[0, 1, 2, ")
    assert text.endswith("... of type list")
    assert len(text) < 130


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("dics", ["disc", "gen"], "disc"),
        ("gem", ["gen", "disc"], "gen"),
        ("Gen", ["gen", "disc"], "gen"),
        ("disc", ["discriminator", "generator"], "discriminator"),
        ("sum", ["val/sum", "val/mean"], "val/sum"),
        ("won", ["one", "two"], None),
        ("encoder", ["decoder"], None),
        ("a", ["b", "c"], None),
        ("net3", ["net1", "net2"], None),
        ("sum", ["val/sum", "loss/sum"], None),
        ("", ["gen"], None),
        ("dics", ["disc", 3, None], "disc"),
        (None, ["net"], None),
    ],
)
def test_a_suggestion_is_made_only_where_it_is_not_silly(name, known, near):
    assert errors.nearest(name, known) == (f" Did you mean {near!r}?" if near else "")


@pytest.mark.parametrize("look", ["step", "plan"])
def test_an_error_of_your_own_says_in_which_phase_and_loss_and_on_which_batch(look):
    def losses(m, batch):
        return {"gen": lambda: m.disc(m.gen(batch)).mean(), "disc": m.disc(batch[:, :3]).mean()}

    joint = build(losses=losses)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        getattr(joint, look)(torch.ones(2, 7))
    where, batch = caught.value.__notes__
    assert where.startswith("This was in the phase 'update gen, disc', in loss 'gen', at test_errors.py")
    assert batch == "The batch is float32 [2, 7]."
