"""``Joint(prepare=...)``: once per step, without gradients, and every phase gets what it returns."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD

import cograd
from cograd import Joint, Phase, alternate
from cograd.errors import LossError, UnreachedError
from cograd.weighting import FAMO

X = torch.linspace(-1, 1, 32).reshape(8, 4)


class Counted:
    """``prepare``: draws noise, and remembers what it saw."""

    def __init__(self):
        self.calls = 0

    def __call__(self, m, batch):
        self.calls += 1
        assert not torch.is_grad_enabled()
        self.modes = [m.gen.training, m.disc.training]
        return batch, torch.randn(len(batch), 4)


def make(prepare, **options):
    torch.manual_seed(3)
    seen = []

    def losses(m, batch):
        real, z = batch
        seen.append(z)
        fake = m.gen(z)
        return {
            "disc": lambda: (m.disc(fake) - m.disc(real)).mean() + m.disc(real).square().mean() + 1,
            "gen": lambda: m.disc(fake).square().mean() + 1,
        }

    declared = {
        "trains": {"disc": "disc", "gen": "gen"},
        "optimizers": partial(SGD, lr=0.1),
        "phases": alternate("disc", "gen"),
    }
    models = {"gen": nn.Linear(4, 4), "disc": nn.Linear(4, 1)}
    return Joint(models=models, losses=losses, prepare=prepare, **declared | options), seen


def test_every_phase_of_a_step_receives_what_it_returned_once():
    prepare = Counted()
    joint, seen = make(prepare, phases=alternate("disc", "gen", repeat={"disc": 3}))
    joint.step(X)
    joint.step(X)
    assert prepare.calls == 2
    assert [z is seen[0] for z in seen] == [True] * 4 + [False] * 4
    assert not torch.equal(seen[0], seen[4])


def test_the_same_numbers_are_drawn_as_by_the_loop_that_draws_before_its_turns():
    joint, seen = make(Counted())
    torch.manual_seed(7)
    joint.step(X)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(seen[0], torch.randn(8, 4))
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(
    "options",
    [{"weighting": FAMO(), "phases": None}, {"optimizers": partial(LBFGS, max_iter=3), "trains": {}}],
    ids=["a second look", "a line search"],
)
def test_it_runs_once_where_losses_are_evaluated_several_times(options):
    prepare = Counted()
    joint, seen = make(prepare, **options)
    joint.step(X)
    assert len(seen) > len(joint.phases)
    assert prepare.calls == 1


def test_it_runs_also_for_evaluate_plan_and_explain_which_leave_no_trace(picture, same):
    prepare = Counted()
    joint, _ = make(prepare)
    before, state = picture(joint), torch.get_rng_state()
    plan = joint.plan(X)
    assert all(passes for _, passes in plan.phases)
    assert (prepare.calls, prepare.modes) == (1, [True, True])
    found = cograd.explain(joint, X)
    assert found.reached["disc"]["disc"] == 2
    assert prepare.calls == 2
    assert torch.equal(state, torch.get_rng_state())
    assert set(joint.evaluate(X)) == {"disc", "gen"}
    assert (prepare.calls, prepare.modes) == (3, [False, False])
    same(before, picture(joint))


def test_fit_validates_what_it_makes_and_predict_sees_the_batch_itself():
    prepare, given = Counted(), []

    class Size:
        def reset(self):
            self.n = 0

        def update(self, n):
            self.n += n

        def compute(self):
            return self.n

    joint, _ = make(prepare)
    validation = cograd.Validation(
        [X, X], predict=lambda m, batch: (given.append(batch) or len(batch),), metrics={"size": Size()}
    )
    history = cograd.fit(joint, [X] * 3, epochs=1, validate=validation, progress=False)
    assert prepare.calls == 3 + 2
    assert given == [X, X]
    assert history["val/size"].last == 16
    assert "val/disc" in history


def test_buffers_move_as_where_a_model_is_called_by_hand():
    net = nn.BatchNorm1d(4)
    joint = Joint(
        models={"net": net},
        losses=lambda m, x: {"size": m.net.weight.square().sum()},
        optimizers=SGD,
        prepare=lambda m, x: m.net(x),
    )
    joint.plan(X)
    cograd.explain(joint, X)
    assert net.num_batches_tracked == 0
    joint.step(X)
    assert net.num_batches_tracked == 1


def test_it_is_computed_as_the_losses_are():
    dtypes = []
    joint, _ = make(lambda m, x: (x, dtypes.append(m.gen(x).dtype) or x), precision="bf16")
    joint.step(X)
    joint.evaluate(X)
    assert dtypes == [torch.bfloat16] * 2


def test_a_failure_in_it_says_so_and_leaves_no_trace(picture, same):
    def fails(m, batch):
        raise KeyError("label")

    joint, seen = make(fails)
    before = picture(joint)
    for call in (joint.step, joint.evaluate, joint.plan):
        with pytest.raises(KeyError) as caught:
            call(X)
        assert caught.value.__notes__ == [
            "This was in prepare(models, batch), which runs once before the phases of a step."
        ]
    same(before, picture(joint))
    assert not seen


def test_a_forgotten_return_is_refused(picture, same):
    joint, _ = make(lambda m, batch: None)
    before = picture(joint)
    with pytest.raises(LossError, match=r"prepare\(models, batch\) must return .*; found None. Does it lack a return"):
        joint.step(X)
    same(before, picture(joint))


def test_what_was_to_train_is_told_that_it_has_no_gradient():
    joint = Joint(
        models={"gen": nn.Linear(4, 4)},
        losses=lambda m, fake: {"gen": fake.mean()},
        optimizers=SGD,
        prepare=lambda m, x: m.gen(x),
    )
    with pytest.raises((LossError, UnreachedError)) as caught:
        joint.step(X)
    assert "What prepare(models, batch) computes has no gradient" in caught.value.__notes__[0]


@pytest.mark.parametrize(("given", "words"), [(3, "found 3"), (lambda batch: batch, "Let it take 2 arguments")])
def test_what_is_no_such_function_is_refused(given, words):
    with pytest.raises(LossError, match=rf"prepare must be a function prepare\(models, batch\); .*{words}"):
        make(given)


def test_a_phase_that_is_not_due_does_not_keep_it_from_drawing():
    """The loop by hand draws its noise in every iteration."""
    prepare = Counted()
    joint, seen = make(prepare, phases=[Phase(("gen", "disc"), every=2)])
    for _ in range(4):
        joint.step(X)
    assert (prepare.calls, len(seen)) == (4, 2)
