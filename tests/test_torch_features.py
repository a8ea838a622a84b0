"""What people do with torch besides ``Linear`` and ``Adam``: each against the same loop written by hand."""

from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrizations
from torch.optim import LBFGS, SGD, Adam, SparseAdam
from torch.utils.checkpoint import checkpoint

import cograd
from cograd.errors import ModelError, OptimizerError, PassError, UnreachedError

MOMENTUM = partial(SGD, lr=5e-2, momentum=0.9, weight_decay=0.1)
BATCHES = [torch.randn(8, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]


def mlp(*widths):
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def assert_same_training(models, by_hand, joint, batches=BATCHES, prepare=lambda model: model):
    """Parameters and buffers end bit for bit where the loop by hand leaves them. Returns the joint.

    The joint is given ``prepare(model)`` for each model.
    """
    torch.manual_seed(0)
    mine = models()
    torch.manual_seed(0)
    theirs = models()
    torch.manual_seed(1)
    joint = joint({name: prepare(model) for name, model in mine.items()})
    for batch in batches:
        joint.step(batch)
    torch.manual_seed(1)
    by_hand(theirs, batches)
    for name in mine:
        expected = theirs[name].state_dict()
        for key, value in mine[name].state_dict().items():
            assert torch.equal(value, expected[key]), f"{name}.{key}"
    return joint


def one_total(total, optimizer=MOMENTUM):
    """By hand: one loss, one backward, one step for each model."""

    def by_hand(m, batches):
        optimizers = [optimizer(model.parameters()) for model in m.values()]
        for x in batches:
            loss = total(m, x)
            for o in optimizers:
                o.zero_grad()
            loss.backward()
            for o in optimizers:
                o.step()

    return by_hand


def declare(losses, optimizers=MOMENTUM, **options):
    return lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizers, **options)


# -- a GAN, which several features are tried on ------------------------------------------------------------------------

ROUTES = {"disc": "disc", "gen": "gen"}


def gan():
    return {"gen": mlp(3, 6, 4), "disc": mlp(4, 6, 1)}


def gan_losses(m, real):
    fake = m["gen"](torch.randn(len(real), 3))
    return {
        "disc": lambda: m["disc"](fake).square().mean() + (m["disc"](real) - 1).square().mean(),
        "gen": lambda: (m["disc"](fake) - 1).square().mean(),
    }


def gan_at_once(m, batches):
    gen, disc = list(m["gen"].parameters()), list(m["disc"].parameters())
    opt_gen, opt_disc = MOMENTUM(gen), MOMENTUM(disc)
    for real in batches:
        losses = gan_losses(m, real)
        disc_loss, gen_loss = losses["disc"](), losses["gen"]()
        disc_grads = torch.autograd.grad(disc_loss, disc, retain_graph=True)
        gen_grads = torch.autograd.grad(gen_loss, gen)
        for p, g in zip([*disc, *gen], [*disc_grads, *gen_grads], strict=True):
            p.grad = g
        opt_disc.step()
        opt_gen.step()


def gan_in_turns(m, batches, after_turn=lambda frozen: None):
    optimizers = {name: MOMENTUM(model.parameters()) for name, model in m.items()}
    for real in batches:
        for name, frozen in (("disc", "gen"), ("gen", "disc")):
            m[frozen].requires_grad_(False)
            put_back = after_turn(m[frozen])
            optimizers[name].zero_grad()
            gan_losses(m, real)[name]().backward()
            optimizers[name].step()
            m[frozen].requires_grad_(True)
            if put_back:
                put_back()


IN_TURNS = cograd.alternate("disc", "gen")


# -- optimizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs(search):
    """The phase is the closure."""
    lbfgs = partial(LBFGS, lr=0.5, max_iter=4, line_search_fn=search)

    def terms(m, x):
        y = m["net"](x)
        return mse_loss(y, x[:, :1]), y.square().mean()

    def by_hand(m, batches):
        optimizer = lbfgs(m["net"].parameters())
        for x in batches:

            def closure(x=x):
                optimizer.zero_grad()
                fit, small = terms(m, x)
                loss = fit + 0.1 * small
                loss.backward()
                return loss

            optimizer.step(closure)

    def losses(m, x):
        fit, small = terms(m, x)
        return {"fit": fit, "small": small}

    assert_same_training(lambda: {"net": mlp(4, 5, 1)}, by_hand, declare(losses, lbfgs, weights={"small": 0.1}))


def test_lbfgs_over_several_models_and_passes():
    """Every evaluation of the closure takes the declared gradients, here in two passes."""

    def losses(m, x):
        hidden = m["body"](x)
        return {"small": hidden.square().mean(), "y": mse_loss(m["head"](hidden), x[:, :1])}

    def by_hand(m, batches):
        body, head = list(m["body"].parameters()), list(m["head"].parameters())
        optimizer = LBFGS([*body, *head], lr=0.3, max_iter=4)
        for x in batches:

            def closure(x=x):
                now = losses(m, x)
                gradients = torch.autograd.grad(now["small"], body, retain_graph=True)
                for p, g in zip([*body, *head], [*gradients, *torch.autograd.grad(now["y"], head)], strict=True):
                    p.grad = g
                return now["small"] + now["y"]

            optimizer.step(closure)

    def joint(m):
        optimizer = LBFGS([p for model in m.values() for p in model.parameters()], lr=0.3, max_iter=4)
        return cograd.Joint(models=m, losses=losses, trains={"y": "head"}, optimizers=optimizer)

    assert_same_training(lambda: {"body": mlp(4, 5, 3), "head": mlp(3, 1)}, by_hand, joint)


def test_lbfgs_in_turns_with_adam():
    def losses(m, x):
        return {"y": mse_loss(m["head"](m["body"](x)), x[:, :1])}

    def by_hand(m, batches):
        adam, lbfgs = Adam(m["body"].parameters(), lr=1e-2), LBFGS(m["head"].parameters(), max_iter=5)
        for x in batches:
            adam.zero_grad()
            losses(m, x)["y"].backward()
            adam.step()

            def closure(x=x):
                lbfgs.zero_grad()
                loss = losses(m, x)["y"]
                loss.backward()
                return loss

            lbfgs.step(closure)

    def joint(m):
        own = {"body": Adam(m["body"].parameters(), lr=1e-2), "head": LBFGS(m["head"].parameters(), max_iter=5)}
        return cograd.Joint(models=m, losses=losses, optimizers=own, phases=cograd.alternate("body", "head"))

    trained = assert_same_training(lambda: {"body": mlp(4, 5, 3), "head": mlp(3, 1)}, by_hand, joint)
    assert trained.updates == {"body": 5, "head": 5}


def test_sparse_gradients():
    def models():
        return {"embed": nn.Embedding(10, 3, sparse=True), "head": mlp(3, 1)}

    def loss(m, batch):
        return (m["head"](m["embed"](batch)) - 1).square().mean()

    norms = []

    def by_hand(m, batches):
        sparse, dense = SparseAdam(m["embed"].parameters(), lr=1e-2), Adam(m["head"].parameters(), lr=1e-2)
        for batch in batches:
            sparse.zero_grad()
            dense.zero_grad()
            loss(m, batch).backward()
            norms.append(m["embed"].weight.grad.to_dense().norm())
            sparse.step()
            dense.step()

    reports = []

    def joint(m):
        own = {"embed": SparseAdam(m["embed"].parameters(), lr=1e-2), "head": Adam(m["head"].parameters(), lr=1e-2)}
        built = cograd.Joint(models=m, losses=lambda m, x: {"y": loss(m, x)}, optimizers=own, grad_norms=True)
        step = built.step
        built.step = lambda batch: reports.append(step(batch))
        return built

    batches = [torch.tensor([1, 1, 7, 2]), torch.tensor([0, 9, 9, 9]), torch.tensor([1, 2, 3, 4])]
    assert_same_training(models, by_hand, joint, batches)
    for report, norm in zip(reports, norms, strict=True):
        torch.testing.assert_close(report.grad_norms["embed"], norm)


def test_sparse_gradients_in_several_passes():
    embed, head = nn.Embedding(10, 3, sparse=True), nn.Linear(3, 1)
    y = head(embed(torch.tensor([1, 1, 7])))
    report = cograd.backward(
        {"small": lambda: y.square().sum(), "large": lambda: -y.sum()},
        models={"embed": embed, "head": head},
        trains={"large": "embed", "small": ["embed", "head"]},
    )
    assert len(report.plan.passes) == 2
    y = head(embed(torch.tensor([1, 1, 7])))
    (expected,) = torch.autograd.grad(y.square().sum() - y.sum(), embed.weight)
    assert embed.weight.grad.is_sparse
    torch.testing.assert_close(embed.weight.grad.to_dense(), expected.to_dense())


# -- number formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_and_losses_of_another_dtype(dtype):
    def models():
        return {"body": mlp(4, 6, 3).to(dtype), "head": mlp(3, 1).to(dtype)}

    def terms(m, x):
        hidden = m["body"](x.to(dtype))
        return hidden.square().mean(), m["head"](hidden).exp().mean()

    def total(m, x):
        small, fit = terms(m, x)
        if dtype == torch.bfloat16:  # 0.7 times a bfloat16 is not 0.7 of it
            small, fit = small.float(), fit.float()
        return 0.7 * small + 0.1 * fit

    def losses(m, x):
        return dict(zip(("small", "fit"), terms(m, x), strict=True))

    assert_same_training(models, one_total(total), declare(losses, weights={"small": 0.7, "fit": 0.1}))


def test_losses_of_two_dtypes():
    def models():
        return {"half": mlp(4, 3, 1).to(torch.bfloat16), "double": mlp(4, 3, 1).double()}

    def losses(m, x):
        return {"half": m["half"](x.bfloat16()).square().mean(), "double": m["double"](x.double()).square().mean()}

    def total(m, x):
        now = losses(m, x)
        return 0.3 * now["half"].float() + 0.1 * now["double"]

    assert_same_training(models, one_total(total), declare(losses, weights={"half": 0.3, "double": 0.1}))


# -- compiled, checkpointed, parametrised ------------------------------------------------------------------------------


@pytest.fixture
def donated_buffers():
    """Set whether a compiled backward may overwrite what its forward saved."""
    torch._dynamo.reset()
    with ExitStack() as stack:
        yield lambda allowed: stack.enter_context(torch._functorch.config.patch(donated_buffer=allowed))
    torch._dynamo.reset()


# dynamo looks at .grad of whatever comes into a compiled region, in plain torch too
FROM_DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


compiled = partial(torch.compile, backend="aot_eager")


@FROM_DYNAMO
@pytest.mark.usefixtures("donated_buffers")
def test_compiled_models_in_one_pass():
    def total(m, x):
        return mse_loss(m["b"](m["a"](x)), x[:, :1])

    def models():
        return {"a": mlp(4, 5, 3), "b": mlp(3, 1)}

    joint = declare(lambda m, x: {"y": total(m, x)})
    assert_same_training(models, one_total(total), joint, prepare=compiled)


@FROM_DYNAMO
@pytest.mark.usefixtures("donated_buffers")
def test_compiled_models_in_turns():
    """Freezing changes flags that compiled code was specialised for."""
    assert_same_training(gan, gan_in_turns, declare(gan_losses, trains=ROUTES, phases=IN_TURNS), prepare=compiled)


def one_score(m, real):
    """Both losses read one forward of the discriminator, so that its backward runs twice."""
    score = m["disc"](m["gen"](torch.randn(len(real), 3)))
    disc = score.square().mean() + (m["disc"](real) - 1).square().mean()
    return {"disc": disc, "gen": (score - 1).square().mean()}


def score_of_ones(m, real):
    """The same without random numbers."""
    score = m["disc"](m["gen"](torch.ones(len(real), 3)))
    return {"disc": score.square().mean() + (m["disc"](real) - 1).square().mean(), "gen": (score - 1).square().mean()}


def in_passes(m, batches, losses=one_score, turns=(("disc", "gen"),)):
    """By hand: each loss differentiated for its own model, then both steps."""
    optimizers = {name: MOMENTUM(model.parameters()) for name, model in m.items()}
    for real in batches:
        for turn in turns:
            now = losses(m, real)
            parameters = {name: list(m[name].parameters()) for name in turn}
            for name, mine in parameters.items():
                for p, g in zip(mine, torch.autograd.grad(now[name], mine, retain_graph=True), strict=True):
                    p.grad = g
            for name in turn:
                optimizers[name].step()


@FROM_DYNAMO
def test_compiled_models_in_several_passes_over_separate_operations(donated_buffers):
    donated_buffers(True)
    assert_same_training(gan, gan_at_once, declare(gan_losses, trains=ROUTES), prepare=compiled)


@FROM_DYNAMO
def test_compiled_models_in_several_passes_over_the_same_operations(donated_buffers):
    donated_buffers(True)
    joint = declare(one_score, trains=ROUTES)({name: compiled(model) for name, model in gan().items()})
    with pytest.raises(PassError, match=r"torch\._functorch\.config\.donated_buffer = False"):
        joint.step(BATCHES[0])


@FROM_DYNAMO
def test_compiled_models_without_donated_buffers(donated_buffers):
    donated_buffers(False)
    assert_same_training(gan, in_passes, declare(one_score, trains=ROUTES), prepare=compiled)


@FROM_DYNAMO
@pytest.mark.parametrize("turns", [(("disc", "gen"),), (("disc",), ("gen",))], ids=["at once", "in turns"])
def test_a_losses_function_that_is_compiled_as_a_whole(donated_buffers, turns):
    """One node of the graph holds everything, so that each loss seems to reach every model."""
    donated_buffers(False)
    phases = [cograd.Phase(turn) for turn in turns]
    joint = declare(compiled(score_of_ones), trains=ROUTES, phases=phases)
    assert_same_training(gan, partial(in_passes, losses=score_of_ones, turns=turns), joint)


@pytest.mark.parametrize("phases", [None, IN_TURNS], ids=["at once", "in turns"])
def test_checkpoints(phases):
    """Activations that are computed again in each backward pass."""

    def losses(m, real):
        fake = checkpoint(m["gen"], torch.randn(len(real), 3), use_reentrant=False)
        score = checkpoint(m["disc"], fake, use_reentrant=False)
        return {
            "disc": score.square().mean() + (m["disc"](real) - 1).square().mean(),
            "gen": (score - 1).square().mean(),
        }

    turns = [("disc", "gen")] if phases is None else [("disc",), ("gen",)]
    by_hand = partial(in_passes, turns=turns)  # without checkpoints
    assert_same_training(gan, by_hand, declare(losses, trains=ROUTES, phases=phases))


def test_dropout_inside_a_checkpoint_is_replayed():
    def models():
        return {"a": nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5)), "b": mlp(16, 1)}

    def total(m, x):
        return mse_loss(m["b"](m["a"](x)), x[:, :1])

    def losses(m, x):
        return {"y": mse_loss(m["b"](checkpoint(m["a"], x, use_reentrant=False)), x[:, :1])}

    assert_same_training(models, one_total(total), declare(losses))


def test_reentrant_checkpoints_are_refused():
    def losses(m, x):
        return {"y": m["b"](checkpoint(m["a"], x.requires_grad_(True), use_reentrant=True)).mean()}

    joint = declare(losses)({"a": mlp(4, 5, 3), "b": mlp(3, 1)})
    with pytest.raises(PassError, match="use_reentrant=False"):
        joint.step(BATCHES[0].clone())


@pytest.mark.parametrize("normalise", [parametrizations.spectral_norm, parametrizations.weight_norm])
@pytest.mark.parametrize(
    ("phases", "by_hand"), [(None, gan_at_once), (IN_TURNS, gan_in_turns)], ids=["at once", "in turns"]
)
def test_parametrised_layers(normalise, phases, by_hand):
    def models():
        disc = nn.Sequential(normalise(nn.Linear(4, 6)), nn.Tanh(), normalise(nn.Linear(6, 1)))
        return {"gen": mlp(3, 6, 4), "disc": disc}

    assert_same_training(models, by_hand, declare(gan_losses, trains=ROUTES, phases=phases))


# -- layers with buffers or randomness ---------------------------------------------------------------------------------


def normalised_gan():
    return {
        "gen": nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)),
        "disc": nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)),
    }


@pytest.mark.parametrize(
    ("phases", "by_hand"), [(None, gan_at_once), (IN_TURNS, gan_in_turns)], ids=["at once", "in turns"]
)
def test_running_statistics_move_as_by_hand(phases, by_hand):
    """Those of the frozen model too."""
    assert_same_training(normalised_gan, by_hand, declare(gan_losses, trains=ROUTES, phases=phases))


def test_running_statistics_of_frozen_models_can_be_kept():
    def keep(frozen):
        saved = {key: b.clone() for key, b in frozen.named_buffers()}
        return lambda: frozen.load_state_dict(saved, strict=False)

    joint = declare(gan_losses, trains=ROUTES, phases=IN_TURNS, freeze_buffers=True)
    assert_same_training(normalised_gan, lambda m, batches: gan_in_turns(m, batches, after_turn=keep), joint)


class Average(nn.Module):
    """Puts a new tensor in the place of its buffer, where BatchNorm writes into the old one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=0)
        return self.linear(x - self.mean)


def test_buffers_that_are_assigned_anew_are_kept_too():
    net, other = Average(), mlp(4, 4)
    joint = declare(
        lambda m, x: {"y": m["net"](m["other"](x)).mean()}, phases=cograd.alternate("other", "net"), freeze_buffers=True
    )
    joint = joint({"net": net, "other": other})
    joint.plan(BATCHES[0])
    assert net.mean.tolist() == [0.0] * 4
    joint.step(BATCHES[0])
    with torch.no_grad():
        expected = 0.1 * other(BATCHES[0]).mean(dim=0)  # one forward counts: that of its own phase
    assert torch.equal(net.mean, expected)


@pytest.mark.parametrize(
    ("phases", "by_hand"), [(None, gan_at_once), (IN_TURNS, gan_in_turns)], ids=["at once", "in turns"]
)
def test_dropout_draws_the_same_numbers(phases, by_hand):
    def models():
        disc = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        return {"gen": nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.2), nn.Linear(16, 4)), "disc": disc}

    assert_same_training(models, by_hand, declare(gan_losses, trains=ROUTES, phases=phases))


def test_lstm():
    def models():
        return {"lstm": nn.LSTM(1, 6, num_layers=2, dropout=0.1, batch_first=True), "head": mlp(6, 1)}

    def total(m, x):
        hidden, _ = m["lstm"](x.unsqueeze(2))
        return mse_loss(m["head"](hidden[:, -1]), x[:, :1])

    assert_same_training(
        models,
        one_total(total, partial(Adam, lr=1e-2)),
        declare(lambda m, x: {"y": total(m, x)}, partial(Adam, lr=1e-2)),
    )


def test_slopes_at_the_input():
    """A penalty on the gradient at real data, as StyleGAN's: the batch itself requires grad."""

    def total(m, x):
        x = x.clone().requires_grad_(True)
        score = m["disc"](x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return score.square().mean() + 5 * slope.square().sum(dim=1).mean()

    assert_same_training(lambda: {"disc": mlp(4, 6, 1)}, one_total(total), declare(lambda m, x: {"disc": total(m, x)}))


# -- which parameters train --------------------------------------------------------------------------------------------


def fit(m, x):
    return mse_loss(m["head"](m["body"](x)), x[:, :1])


def body_and_head():
    return {"body": mlp(4, 6, 3), "head": mlp(3, 1)}


def test_parameter_groups_with_their_own_learning_rates():
    def groups(m):
        body = m["body"]
        return SGD(
            [
                {"params": body[0].parameters(), "lr": 0.01},
                {"params": body[2].parameters()},
                {"params": m["head"].parameters(), "lr": 0.3},
            ],
            lr=0.1,
            momentum=0.9,
        )

    def by_hand(m, batches):
        optimizer = groups(m)
        for x in batches:
            optimizer.zero_grad()
            fit(m, x).backward()
            optimizer.step()

    assert_same_training(
        body_and_head,
        by_hand,
        lambda m: cograd.Joint(models=m, losses=lambda m, x: {"y": fit(m, x)}, optimizers=groups(m)),
    )


def changing(change, own=lambda m: {name: MOMENTUM(model.parameters()) for name, model in m.items()}, **options):
    """The same loop twice, with ``change(models, optimizers)`` before the third batch: ``by_hand, joint``."""

    def by_hand(m, batches):
        optimizers = own(m)
        for i, x in enumerate(batches):
            if i == 2:
                change(m, optimizers)
            for o in optimizers.values():
                o.zero_grad()
            fit(m, x).backward()
            for o in optimizers.values():
                o.step()

    def joint(m):
        optimizers = own(m)
        built = cograd.Joint(models=m, losses=lambda m, x: {"y": fit(m, x)}, optimizers=optimizers, **options)
        step = built.step

        def stepping(batch):
            if built.steps == 2:
                change(m, optimizers)
            return step(batch)

        built.step = stepping
        return built

    return by_hand, joint


def test_a_module_and_its_parameter_group_added_later():
    def grow(m, optimizers):
        torch.manual_seed(5)
        m["head"].append(nn.Linear(1, 1))
        optimizers["head"].add_param_group({"params": m["head"][-1].parameters(), "lr": 0.2})

    torch.manual_seed(5)
    started = nn.Linear(1, 1).weight.item()
    joint = assert_same_training(body_and_head, *changing(grow))
    assert joint.models["head"][-1].weight.item() != started


def test_a_model_that_is_trained_in_part():
    def models():
        m = body_and_head()
        m["body"][0].requires_grad_(False)
        return m

    joint = assert_same_training(models, one_total(fit), declare(lambda m, x: {"y": fit(m, x)}))
    torch.manual_seed(0)
    assert torch.equal(joint.models["body"][0].weight, models()["body"][0].weight)
    assert not joint.models["body"][0].weight.requires_grad


def test_a_part_that_is_unfrozen_between_steps():
    def models():
        m = body_and_head()
        m["body"][0].requires_grad_(False)
        return m

    joint = assert_same_training(models, *changing(lambda m, optimizers: m["body"][0].requires_grad_(True)))
    torch.manual_seed(0)
    assert not torch.equal(joint.models["body"][0].weight, models()["body"][0].weight)


def test_a_part_that_is_unfrozen_but_in_no_optimizer():
    m = body_and_head()
    m["body"][0].requires_grad_(False)
    joint = declare(lambda m, x: {"y": fit(m, x)})(m)  # the factory is given what is trainable now
    joint.step(BATCHES[0])
    m["body"][0].requires_grad_(True)
    with pytest.raises(OptimizerError, match=r"body\.0\.weight .* is in no optimizer"):
        joint.step(BATCHES[1])


@pytest.mark.parametrize("trains", [None, {"y": ["body", "head"]}], ids=["default", "declared"])
def test_a_model_that_is_frozen_between_steps(trains):
    joint = assert_same_training(
        body_and_head, *changing(lambda m, optimizers: m["body"].requires_grad_(False), trains=trains)
    )
    assert joint.updates == {"body": 2, "head": 5}


@pytest.mark.parametrize("trains", [None, {"y": ["body", "head"]}], ids=["default", "declared"])
def test_a_model_that_is_frozen_for_some_steps_while_taking_turns(trains):
    m = body_and_head()
    joint = declare(lambda m, x: {"y": fit(m, x)}, trains=trains, phases=cograd.alternate("body", "head"))(m)
    joint.step(BATCHES[0])
    frozen = m["body"].requires_grad_(False)[0].weight.detach().clone()
    joint.step(BATCHES[1])
    assert torch.equal(m["body"][0].weight, frozen)
    assert joint.updates == {"body": 1, "head": 2}
    m["body"].requires_grad_(True)
    joint.step(BATCHES[2])
    assert not torch.equal(m["body"][0].weight, frozen)
    assert joint.updates == {"body": 2, "head": 3}


class Blind(torch.autograd.Function):
    """Passes the gradient of its first input on, and gives none to its second."""

    @staticmethod
    def forward(ctx, x, weight):
        return x * weight

    @staticmethod
    def backward(ctx, g):
        return g, None


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = nn.Parameter(torch.ones(1))
        self.blind = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return Blind.apply(x * self.seen, self.blind)


def test_a_parameter_without_gradient_is_reported():
    """The graph looks as if a gradient flowed there, but the Function returns None."""
    m = {"scale": Scale(), "head": mlp(4, 1)}
    joint = declare(lambda m, x: {"y": m["head"](m["scale"](x)).square().mean()})(m)
    report = joint.step(BATCHES[0])
    assert report.without_grad == {"scale": ("blind",)}
    assert m["scale"].blind.item() == 1.0
    assert m["scale"].seen.item() != 1.0


def test_a_model_that_receives_nothing_is_an_error():
    m = {"scale": Scale(), "head": mlp(4, 1)}
    m["scale"].seen.requires_grad_(False)
    joint = declare(lambda m, x: {"y": m["head"](m["scale"](x)).square().mean()})(m)
    with pytest.raises(UnreachedError, match="updates 'scale', but no gradient flows to it"):
        joint.step(BATCHES[0])


@pytest.mark.parametrize(
    ("phases", "by_hand"), [(None, gan_at_once), (IN_TURNS, gan_in_turns)], ids=["at once", "in turns"]
)
def test_hooks_on_parameters_fire(phases, by_hand):
    """Once for each update, and what they return counts."""
    calls = []

    def hooked():
        m = gan()
        for name, model in m.items():
            for p in model.parameters():
                p.register_hook(lambda g, name=name: calls.append(name) or g.clamp(-0.01, 0.01))
        return m

    assert_same_training(hooked, by_hand, declare(gan_losses, trains=ROUTES, phases=phases))
    assert calls.count("gen") == calls.count("disc") == 2 * 4 * len(BATCHES)


# -- what is refused, and what to do ---------------------------------------------------------------------------------


def test_lazy_modules_run_once_first():
    m = {"net": nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))}
    with pytest.raises(ModelError, match=r"net\.0\.weight is lazy and has no shape yet\. Run one batch through 'net'"):
        declare(lambda m, x: {"y": m["net"](x).mean()})(m)
    m["net"](BATCHES[0])
    joint = declare(lambda m, x: {"y": m["net"](x).mean()})(m)
    joint.step(BATCHES[0])
    assert joint.updates == {"net": 1}


def refused(match, **models):
    with pytest.raises(ModelError, match=match):
        declare(lambda m, x: {"y": x.mean()})(models)


def test_a_model_inside_another():
    net = mlp(4, 5, 1)
    refused(
        r"models\['first'\] is whole\.0, inside models\['whole'\].* Name the parts of 'whole'", whole=net, first=net[0]
    )


def test_models_that_share_parameters():
    a, b = mlp(4, 5, 1), mlp(4, 5, 1)
    b[0].weight = a[0].weight
    refused(
        r"'a'\] and models\['b'\] share parameters \(a\.0\.weight is b\.0\.weight\)\. Name the shared part", a=a, b=b
    )


def test_one_model_given_twice():
    net = mlp(4, 1)
    refused(r"models\['a'\] is the same module as models\['b'\]", a=net, b=net)


def test_a_compiled_model_and_its_original():
    net = mlp(4, 1)
    refused(r"inside models\['fast'\]", net=net, fast=torch.compile(net, backend="eager"))


def test_hooks_that_act_before_the_phase_is_complete():
    net = mlp(4, 1)
    net[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    refused(r"net\.0\.weight has a hook that acts as soon as its gradient arrives", net=net)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("phases", [None, IN_TURNS, IN_TURNS[::-1]], ids=["at once", "in turns", "other turns"])
def test_a_head_replaced_after_the_joint_was_made(steps, phases):
    m = gan()
    joint = declare(gan_losses, trains=ROUTES, phases=phases)(m)
    for x in BATCHES[:steps]:
        joint.step(x)
    m["disc"][2] = nn.Linear(6, 1)
    with pytest.raises(ModelError, match=r"disc\.2\.weight was put into the model after the Joint was made"):
        joint.step(BATCHES[0])


@pytest.mark.parametrize("steps", [0, 2])
def test_a_head_replaced_in_a_single_model(steps):
    m = {"net": mlp(4, 5, 1)}
    joint = declare(lambda m, x: {"y": m["net"](x).mean()})(m)
    for x in BATCHES[:steps]:
        joint.step(x)
    m["net"][2] = nn.Linear(5, 1)
    with pytest.raises(ModelError, match=r"net\.2\.weight was put into the model after the Joint was made"):
        joint.step(BATCHES[0])
