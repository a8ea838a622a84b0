"""Looking at the losses: what they may need for it, and that the training cannot tell that it was done."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import cograd
from cograd.errors import CogradError, LossError, OptimizerError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def joint_of(losses, net=None, **options):
    torch.manual_seed(0)
    net = net or nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    options.setdefault("optimizers", lambda p: torch.optim.SGD(p, lr=0.1))
    return cograd.Joint(models={"net": net}, losses=losses, **options)


def adaptive(m, x):
    """VQGAN: one loss is scaled by gradients at the last layer."""
    y = m.net(x)
    near, far = y.square().mean(), (y - 1).abs().mean()
    last = m.net[-1].weight
    a, b = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (near, far))
    return {"both": near + (a / b).detach() * far}


def inner_loop(m, x):
    """MAML: a step of gradient descent inside the loss."""
    p = dict(m.net.named_parameters())
    inner = functional_call(m.net, p, (x,)).square().mean()
    gradients = torch.autograd.grad(inner, list(p.values()), create_graph=True)
    p = {key: v - 0.1 * g for (key, v), g in zip(p.items(), gradients, strict=True)}
    return {"outer": (functional_call(m.net, p, (x,)) - 1).square().mean()}


def consensus(m, x):
    y = m.net(x).mean()
    gradients = torch.autograd.grad(y, list(m.net.parameters()), create_graph=True)
    return {"sum": y + sum(g.square().sum() for g in gradients)}


def hooked(m, x):
    """A hook, as a probe would set it, cannot be put on what requires no gradient."""
    y = m.net(x)
    y.register_hook(lambda g: g)
    return {"size": y.square().mean()}


def in_other_words(m, x):
    try:
        return inner_loop(m, x)
    except RuntimeError as error:
        raise ValueError("the inner loop failed") from error


@pytest.mark.parametrize("losses", [adaptive, inner_loop, consensus, hooked, in_other_words])
def test_losses_that_differentiate_at_parameters(losses, picture, same):
    joint = joint_of(losses)
    expected = {name: loss.detach() for name, loss in losses(joint.models, X).items()}
    before = picture(joint)
    for _ in range(2):
        found = joint.evaluate(X)
        same(expected, found)
        assert not any(loss.requires_grad for loss in found.values())
    same(before, picture(joint))
    with torch.no_grad():
        same(expected, joint.evaluate(X))
    history = cograd.fit(joint, [X], epochs=1, validate=[X], progress=False)
    assert len(history["val/" + next(iter(expected))]) == 1


def test_what_was_needed_once_is_known_the_next_time():
    calls = []

    def losses(m, x):
        calls.append(m.net[0].weight.requires_grad)
        return inner_loop(m, x)

    joint = joint_of(losses)
    joint.evaluate(X)
    joint.evaluate(X)
    assert calls == [False, True, True]


def test_it_needs_no_second_look_where_none_differentiates():
    calls = []

    def losses(m, x):
        calls.append(m.net[0].weight.requires_grad)
        return {"size": m.net(x).square().mean()}

    joint = joint_of(losses)
    joint.evaluate(X)
    joint.evaluate(X)
    assert calls == [False, False]


def test_the_second_look_draws_what_the_first_has_drawn_and_finds_the_same_buffers(same):
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x + torch.randn_like(x)) + self.calls

    joint = joint_of(inner_loop, Counting())
    torch.manual_seed(1)
    first, after = joint.evaluate(X), torch.rand(3)
    assert joint.models.net.calls == 2
    joint.models.net.calls.zero_()
    torch.manual_seed(1)
    same(first, joint.evaluate(X))
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("message", ["no such thing", "this tensor does not require grad, for good"])
def test_what_the_losses_raise_is_raised(message, picture, same):
    def losses(m, x):
        raise RuntimeError(message)

    joint = joint_of(losses)
    before = picture(joint)
    with pytest.raises(RuntimeError, match=message):
        joint.evaluate(X)
    same(before, picture(joint))


def test_a_gradient_penalty_at_the_batch_inside_no_grad():
    def losses(m, x):
        x = x.clone().requires_grad_()
        return {"slope": torch.autograd.grad(m.net(x).sum(), x, create_graph=True)[0].square().mean()}

    joint = joint_of(losses)
    expected = joint.evaluate(X)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert joint.evaluate(X) == expected


class Detector(nn.Module):
    """Losses in train mode, predictions in eval mode, as those of torchvision."""

    def __init__(self, predictions=lambda h: [{"boxes": row} for row in h]):
        super().__init__()
        self.body, self.norm, self.drop = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.predictions = predictions

    def forward(self, x):
        h = self.drop(self.norm(self.body(x)))
        return {"box": h.square().mean()} if self.training else self.predictions(h)


def fails(h):
    raise KeyError("scores")


@pytest.mark.parametrize(
    ("predictions", "error"),
    [
        (lambda h: [{"boxes": row} for row in h], LossError),
        (lambda h: {"boxes": h}, LossError),
        (lambda h: {"box": 0.5}, LossError),
        (lambda h: None, CogradError),
        (fails, KeyError),
    ],
)
def test_losses_that_exist_only_in_train_mode(predictions, error, picture, same):
    """The mode is named as the cause, and asking for the other one works."""
    joint = joint_of(lambda m, x: m.net(x), Detector(predictions))
    joint.step(X)
    before = picture(joint)
    with pytest.raises(error) as refused:
        joint.evaluate(X)
    told = str(refused.value) + "".join(getattr(refused.value, "__notes__", ()))
    assert "The models are in eval mode here, and in train mode this batch gives losses" in told
    assert "joint.evaluate(batch, mode='train')" in told
    torch.manual_seed(3)
    with torch.no_grad():
        expected = copy.deepcopy(joint.models.net)(X)
    torch.manual_seed(3)
    same(expected, joint.evaluate(X, mode="train"))
    same(before, picture(joint))
    with pytest.raises((CogradError, KeyError)) as refused:
        cograd.fit(joint, [X], steps=2, validate=[X], progress=False)
    told = str(refused.value) + "".join(getattr(refused.value, "__notes__", ()))
    assert "validate=cograd.Validation(loader, mode='train')" in told
    history = cograd.fit(joint, [X], epochs=1, validate=cograd.Validation([X, X], mode="train"), progress=False)
    assert len(history["val/box"]) == 1


def test_where_the_mode_is_not_the_cause_it_is_not_named():
    def losses(m, x):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as refused:
        joint_of(losses).evaluate(X)
    assert "mode" not in "".join(refused.value.__notes__)


def test_train_mode_is_that_of_a_step():
    """What the user has put into eval mode stays there, inside another look as well."""
    seen = []

    def losses(m, x):
        seen.append((m.net.training, m.teacher.training))
        return {"fit": (m.net(x) - m.teacher(x)).square().mean()}

    joint = cograd.Joint(
        models={"net": nn.Linear(4, 1), "teacher": nn.Linear(4, 1).requires_grad_(False).eval()},
        losses=losses,
        optimizers=torch.optim.SGD,
    )
    joint.evaluate(X, mode="train")
    with joint.evaluating() as models:
        assert not models.net.training
        joint.evaluate(X, mode="train")
        joint.evaluate(X)
        assert not models.net.weight.requires_grad
    assert seen == [(True, False), (True, False), (False, False)]
    assert joint.models.net.training
    assert joint.models.net.weight.requires_grad


def test_a_mode_that_does_not_exist():
    with pytest.raises(LossError, match=r"evaluate\(batch, mode=...\) must be 'eval' or 'train'; found 'test'"):
        joint_of(inner_loop).evaluate(X, mode="test")
    with pytest.raises(ValueError, match=r"Validation\(mode=...\) must be 'eval' or 'train'; found 'test'"):
        cograd.Validation([X], mode="test")


class Averaged(torch.optim.Optimizer):
    """Schedule-free SGD: the parameters hold y in train mode, and the average x in eval mode."""

    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": True, "k": 0})

    def _switch(self, train):
        for group in self.param_groups:
            if group["train_mode"] is not train:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        weight = 1 - (group["beta"] if train else 1 / group["beta"])
                        p.data.lerp_(self.state[p]["z"], weight)
                group["train_mode"] = train

    def eval(self):
        self._switch(train=False)

    def train(self):
        self._switch(train=True)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            assert group["train_mode"]
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                x = p.lerp(z, 1 - 1 / group["beta"])
                z.sub_(p.grad, alpha=group["lr"])
                p.copy_(x.lerp_(z, 1 / group["k"]).lerp(z, 1 - group["beta"]))


def fitting(m, x):
    return {"fit": (m.net(x)[:, 0] - x.sum(1)).square().mean()}


def averaged(steps=0):
    joint = joint_of(fitting, nn.Linear(4, 1), optimizers=lambda p: Averaged(p))
    for _ in range(steps):
        joint.step(X)
    return joint


def weights_for_evaluation(joint):
    other = copy.deepcopy(joint)
    other.optimizers["net"].eval()
    return other.models.net


def test_a_schedule_free_optimizer_gives_its_weights_for_evaluation(picture, same, tmp_path):
    joint = averaged(steps=5)
    model, before = weights_for_evaluation(joint), picture(joint)
    expected = fitting(cograd.Models({"net": model}), X)["fit"].item()
    assert fitting(joint.models, X)["fit"].item() != pytest.approx(expected, rel=1e-3)
    assert joint.evaluate(X)["fit"].item() == expected
    assert joint.evaluate(X, mode="train")["fit"].item() == expected
    with joint.evaluating() as models:
        assert torch.equal(models.net.weight, model.weight)
        joint.evaluate(X)
        assert torch.equal(models.net.weight, model.weight)

    from safetensors.torch import load_file

    path = cograd.training.export(joint.models.net, tmp_path / "net.safetensors")
    assert torch.equal(load_file(path)["weight"], model.weight)
    same(before, picture(joint))


def test_it_goes_on_to_the_last_bit_whatever_happens(picture, same):
    joint = averaged(steps=5)
    before = picture(joint)
    with pytest.raises(KeyboardInterrupt), joint.evaluating():
        raise KeyboardInterrupt
    same(before, picture(joint))
    joint.step(X)
    same(averaged(steps=6).state_dict(), joint.state_dict())


def test_a_run_validates_with_those_weights_and_saves_those_of_training(same, tmp_path):
    class Weights:
        def reset(self):
            self.seen = []

        def update(self, weight):
            self.seen.append(weight.clone())

        def compute(self):
            return float(self.seen[0].sum())

    validation = cograd.Validation([X], predict=lambda m, x: (m.net.weight,), metrics={"sum": Weights()})
    joint = averaged()
    joint.optimizers["net"].eval()
    history = cograd.fit(joint, [X], epochs=5, validate=validation, best="val/fit", run_dir=tmp_path, progress=False)
    alone = averaged(steps=5)
    same(alone.state_dict()["models"], joint.state_dict()["models"])
    model = weights_for_evaluation(alone)
    assert history["val/fit"].last == fitting(cograd.Models({"net": model}), X)["fit"].item()
    assert history["val/sum"].last == model.weight.sum().item()
    state, _ = cograd.training.Checkpoints(tmp_path / "checkpoints").best_state()
    loaded = averaged()
    loaded.load_state_dict(state["joint"])
    assert loaded.evaluate(X)["fit"].item() == history.best.value


def test_the_mode_that_the_user_has_chosen_stays(picture, same):
    joint = averaged(steps=3)
    joint.optimizers["net"].eval()
    weight = joint.models.net.weight.clone()
    joint.evaluate(X)
    assert not joint.optimizers["net"].param_groups[0]["train_mode"]
    assert torch.equal(weight, joint.models.net.weight)
    with pytest.raises(
        OptimizerError, match=r"'net' must be in train mode for a step; it is in eval mode.*joint.train\(\)"
    ):
        joint.step(X)
    joint.train().step(X)
    assert joint.models.net.training


def test_eval_and_train_by_hand():
    joint = averaged(steps=3)
    model = weights_for_evaluation(joint)
    joint.eval()
    assert torch.equal(model.weight, joint.models.net.weight)
    assert not joint.models.net.training
    assert joint.train() is joint
