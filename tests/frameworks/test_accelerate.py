"""What docs/frameworks.md says of Accelerate."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch import nn

import cograd


@pytest.fixture
def accelerator():
    """``accelerator(mixed_precision="bf16")``: a fresh one. What they share is forgotten."""

    def make(**options):
        forget()
        return Accelerator(cpu=True, **options)

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    yield make
    forget()


def prepare(accelerator, models, optimizers):
    """Models and optimizers as ``accelerator.prepare`` returns them."""
    pairs = {name: accelerator.prepare(model, optimizers[name]) for name, model in models.items()}
    return {name: model for name, (model, _) in pairs.items()}, {name: optim for name, (_, optim) in pairs.items()}


@pytest.mark.parametrize("prepared", [False, True])
def test_a_joint_in_float32(accelerator, prepared, system, loader, optimizers, equal):
    accelerator, models = accelerator(), system.models()
    plain = optimizers(models)
    joint = system.joint(prepare(accelerator, models, plain)[0] if prepared else models, plain)
    for batch in accelerator.prepare(loader):
        joint.step(batch)
    equal(models, system.trained(loader), system.models)


def test_backward_in_float32(accelerator, heads, loader, optimizers, equal):
    accelerator, models = accelerator(), heads.models()
    heads.by_hand(*prepare(accelerator, models, optimizers(models)), accelerator.prepare(loader))
    equal(models, heads.trained(loader), heads.models)


@pytest.mark.parametrize("way", ["backward", "joint"])
def test_modules_prepared_for_bf16(accelerator, way, heads, loader, optimizers, equal):
    """Autocast is inside of their forward, and what they return is float32."""
    accelerator, models = accelerator(mixed_precision="bf16"), heads.models()
    inside = optimizers(models)
    models, optims = prepare(accelerator, models, inside)
    if way == "joint":
        joint = heads.joint(models, inside)
        for batch in loader:
            joint.step(batch)
    else:
        heads.by_hand(models, optims, loader)

    def cast(model):
        forward = model.forward

        def under_autocast(x):
            with torch.autocast("cpu", torch.bfloat16):
                return forward(x).float()

        model.forward = under_autocast
        return model

    plain = {name: cast(model) for name, model in heads.models().items()}
    heads.by_hand(plain, optimizers(plain), loader)
    equal(models, plain, heads.models)
    single = heads.trained(loader)
    assert not torch.equal(models["size"].weight, single["size"].weight)


def test_backward_of_losses_that_were_computed_under_autocast(accelerator, heads, loader, optimizers, equal):
    accelerator, models = accelerator(mixed_precision="bf16"), heads.models()
    heads.by_hand(models, optimizers(models), loader, autocast=accelerator.autocast)
    equal(models, heads.trained(loader, autocast=lambda: torch.autocast("cpu", torch.bfloat16)), heads.models)


def test_a_joint_refuses_to_step_under_autocast(accelerator, heads, loader, optimizers):
    models = heads.models()
    joint = heads.joint(models, optimizers(models))
    ours = accelerator(mixed_precision="bf16")
    with ours.autocast(), pytest.raises(cograd.errors.PrecisionError, match="precision='bf16'"):
        joint.step(next(iter(loader)))


def test_fp16_on_a_cpu_is_float32(accelerator, heads, loader, optimizers, equal):
    """Without a word."""
    accelerator, models = accelerator(mixed_precision="fp16"), heads.models()
    assert accelerator.scaler is None
    heads.by_hand(*prepare(accelerator, models, optimizers(models)), loader, autocast=accelerator.autocast)
    equal(models, heads.trained(loader), heads.models)


def test_weights_take_the_place_of_the_division_in_accelerator_backward(accelerator, heads, loader, optimizers, equal):
    def train(differentiate):
        ours = accelerator(gradient_accumulation_steps=2)
        models = heads.models()
        prepared, optims = prepare(ours, models, optimizers(models))
        for batch in loader:
            with ours.accumulate(*prepared.values()):
                differentiate(ours, heads.losses(prepared, batch))
                for optim in optims.values():
                    optim.step()
                    optim.zero_grad()
        return models

    mine = train(lambda ours, losses: cograd.backward(losses, weights=dict.fromkeys(losses, 0.5)))
    theirs = train(lambda ours, losses: ours.backward(sum(losses.values())))
    equal(mine, theirs, heads.models)


def test_inside_accumulate_a_prepared_optimizer_skips_steps_without_a_word(accelerator):
    """Without cograd: a joint would count them, which is why it refuses such optimizers."""
    accelerator, model = accelerator(gradient_accumulation_steps=2), nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    moved = []
    for _ in range(4):
        before = model.weight.detach().clone()
        with accelerator.accumulate(model):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        moved.append(not torch.equal(before, model.weight))
    assert moved == [False, True] * 2


def test_a_joint_refuses_prepared_optimizers_and_takes_what_is_inside(accelerator, heads, loader, optimizers):
    models = heads.models()
    models, optims = prepare(accelerator(), models, optimizers(models))
    with pytest.raises(cograd.errors.OptimizerError) as caught:
        heads.joint(models, optims)
    for name in models:
        assert f"optimizers['{name}'] is the wrapper AcceleratedOptimizer that accelerate puts around Adam" in str(
            caught.value
        )
    assert str(caught.value).startswith("3 problems")
    heads.joint(models, {name: optim.optimizer for name, optim in optims.items()}).step(next(iter(loader)))


def test_inside_accumulate_a_joint_of_plain_optimizers_is_untouched(accelerator, heads, loader, optimizers, equal):
    accelerator, models = accelerator(gradient_accumulation_steps=2), heads.models()
    joint = heads.joint(models, optimizers(models))
    for batch in loader:
        with accelerator.accumulate(*models.values()):
            joint.step(batch)
    equal(models, heads.trained(loader), heads.models)


def test_a_joint_accumulates_by_itself(accelerator, heads, loader, optimizers, equal):
    """And gives what a loop inside ``accumulate`` gives, where each loss is divided."""
    mine, theirs = heads.models(), heads.models()
    joint = cograd.Joint(models=mine, losses=heads.losses, optimizers=optimizers(mine), accumulate=2)
    ours = accelerator(gradient_accumulation_steps=2)
    prepared, optims = prepare(ours, theirs, optimizers(theirs))
    for batch in loader:
        joint.step(batch)
        with ours.accumulate(*prepared.values()):
            ours.backward(sum(heads.losses(prepared, batch).values()))
            for optim in optims.values():
                optim.step()
                optim.zero_grad()
    equal(mine, theirs, heads.models)


def test_accumulate_for_one_model_after_the_other_stops_the_first(accelerator):
    """Without cograd: there is one counter for all models."""
    accelerator = accelerator(gradient_accumulation_steps=2)
    pairs = []
    for _ in range(2):
        model = nn.Linear(2, 1)
        pairs.append(accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1)))
    moved = []
    for _ in range(4):
        for model, optimizer in pairs:
            before = model.weight.detach().clone()
            with accelerator.accumulate(model):
                accelerator.backward(model(torch.ones(1, 2)).sum())
                optimizer.step()
                optimizer.zero_grad()
            moved.append(not torch.equal(before, model.weight))
    assert moved == [False, True] * 4


def test_a_registered_joint_is_saved_and_resumed_exactly(accelerator, system, loader, optimizers, equal, tmp_path):
    batches = list(loader)
    ours, first, models = accelerator(), system.models(), system.models()
    joint = system.joint(first, optimizers(first))
    ours.register_for_checkpointing(joint)
    for batch in batches[:3]:
        joint.step(batch)
    ours.save_state(tmp_path)

    ours = accelerator()
    joint = system.joint(models, optimizers(models))
    ours.register_for_checkpointing(joint)
    ours.load_state(tmp_path)
    for batch in batches[3:]:
        joint.step(batch)
    assert joint.steps == 6
    equal(models, system.trained(loader), system.models)
    torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)


class Any:
    """Of no known kind, as a state."""

    def __init__(self):
        self.loaded = None

    def state_dict(self):
        return {"any": Any()}

    def load_state_dict(self, state):
        self.loaded = state["any"]


def test_what_was_registered_is_unpickled_without_restrictions(accelerator, tmp_path):
    ours, kept = accelerator(), Any()
    ours.register_for_checkpointing(kept)
    ours.save_state(tmp_path)
    ours.load_state(tmp_path)
    assert isinstance(kept.loaded, Any)


@pytest.mark.usefixtures("group")
def test_a_joint_refuses_what_prepare_makes_of_a_module_in_several_processes(accelerator, heads, optimizers):
    ours, models = accelerator(), heads.models()
    ours.state.distributed_type = DistributedType.MULTI_CPU
    with pytest.raises(cograd.errors.ModelError, match=r"wrapped in DistributedDataParallel.*Pass the module"):
        heads.joint(*prepare(ours, models, optimizers(models)))
