"""What docs/frameworks.md says of Fabric."""

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

import cograd


@pytest.fixture
def fabric():
    """``fabric(precision)``: on one CPU."""
    return lambda precision="32-true": Fabric(accelerator="cpu", devices=1, precision=precision)


def set_up(fabric, models, optimizers):
    """Models and optimizers as ``fabric.setup`` returns them."""
    pairs = {name: fabric.setup(model, optimizers[name]) for name, model in models.items()}
    return {name: model for name, (model, _) in pairs.items()}, {name: optim for name, (_, optim) in pairs.items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_joint_of_plain_modules_has_its_own_precision_whatever_that_of_fabric(
    fabric, precision, system, loader, optimizers, equal
):
    """Autocast is only where ``fabric.autocast()`` is."""
    fabric, models = fabric(precision), system.models()
    joint = system.joint(models, optimizers(models))
    for batch in fabric.setup_dataloaders(loader):
        joint.step(batch)
    equal(models, system.trained(loader), system.models)


def test_a_joint_takes_modules_that_were_set_up_in_32_true(fabric, system, loader, optimizers, equal):
    models = system.models()
    plain = optimizers(models)
    wrapped, _ = set_up(fabric(), models, plain)
    joint = system.joint(wrapped, plain)
    for batch in loader:
        joint.step(batch)
    equal(models, system.trained(loader), system.models)


def test_a_joint_refuses_optimizers_that_were_set_up_and_takes_what_is_inside(fabric, heads, loader, optimizers):
    models = heads.models()
    _, optims = set_up(fabric(), models, optimizers(models))
    with pytest.raises(cograd.errors.OptimizerError) as caught:
        heads.joint(models, optims)
    for name in models:
        assert f"optimizers['{name}'] is the wrapper FabricAdam that lightning puts around Adam" in str(caught.value)
    with pytest.raises(cograd.errors.OptimizerError, match=r"optimizers\['optimizer'\] is the wrapper FabricAdam"):
        heads.joint({"size": models["size"]}, optims["size"])
    heads.joint(models, {name: optim.optimizer for name, optim in optims.items()}).step(next(iter(loader)))


@pytest.mark.parametrize("wrapped", [False, True])
def test_backward_in_32_true(fabric, wrapped, heads, loader, optimizers, equal):
    models = heads.models()
    ours = models, optimizers(models)
    heads.by_hand(*(set_up(fabric(), *ours) if wrapped else ours), loader)
    equal(models, heads.trained(loader), heads.models)


def test_backward_of_losses_that_were_computed_under_autocast(fabric, heads, loader, optimizers, equal):
    """And the module inside of one that was set up is a plain one."""
    models, fabric = heads.models(), fabric("bf16-mixed")
    wrapped, _ = set_up(fabric, models, optimizers(models))
    inside = {name: model.module for name, model in wrapped.items()}
    heads.by_hand(inside, optimizers(models), loader, autocast=fabric.autocast)
    equal(models, heads.trained(loader, autocast=lambda: torch.autocast("cpu", torch.bfloat16)), heads.models)
    single = heads.trained(loader)
    assert not torch.equal(models["size"].weight, single["size"].weight)  # autocast did something


def test_a_module_that_was_set_up_in_bf16_mixed_refuses_every_backward_but_that_of_fabric(
    fabric, heads, loader, optimizers
):
    models = heads.models()
    plain = optimizers(models)
    models, _ = set_up(fabric("bf16-mixed"), models, plain)
    batch = next(iter(loader))
    refused = pytest.raises(RuntimeError, match=r"requires you to call `fabric\.backward")
    with refused:
        sum(heads.losses(models, batch).values()).backward()
    with refused:
        cograd.backward(heads.losses(models, batch))
    with refused:
        heads.joint(models, plain).step(batch)


def test_16_mixed_on_a_cpu_is_bf16_mixed(fabric):
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        fabric = fabric("16-mixed")
    with fabric.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is torch.bfloat16


def test_a_scaler_of_fabric_does_not_step_after_another_backward_than_its_own(heads, loader):
    """16-mixed as it is on a GPU."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fabric, models = Fabric(accelerator="cpu", devices=1, plugins=[plugin]), heads.models()
    optimizer = fabric.setup_optimizers(torch.optim.SGD([p for m in models.values() for p in m.parameters()]))
    cograd.backward(heads.losses(models, next(iter(loader))))
    with pytest.raises(AssertionError, match=r"did not use scaler\.scale"):
        optimizer.step()


def test_a_joint_refuses_to_step_under_autocast(fabric, heads, loader, optimizers):
    models = heads.models()
    joint = heads.joint(models, optimizers(models))
    with fabric("bf16-mixed").autocast(), pytest.raises(cograd.errors.PrecisionError, match="precision='bf16'"):
        joint.step(next(iter(loader)))


@pytest.mark.parametrize("options", [{"weighting": cograd.weighting.UPGrad()}, {}], ids=["UPGrad", "sum"])
def test_backward_and_grad_under_autocast_are_those_outside(fabric, options, heads, loader):
    fabric, batch, models = fabric("bf16-mixed"), next(iter(loader)), heads.models()
    with fabric.autocast():
        losses = heads.losses(models, batch)
        inside = cograd.backward(losses, **options, retain_graph=True)
        direct = cograd.grad(losses, models=models, **options, retain_graph=True)
        assert torch.is_autocast_enabled("cpu")  # put back
    grads = {name: {key: p.grad for key, p in model.named_parameters()} for name, model in models.items()}
    for model in models.values():
        model.zero_grad()
    outside = cograd.backward(losses, **options)
    for name, model in models.items():
        for key, p in model.named_parameters():
            assert torch.equal(p.grad, grads[name][key])
            assert torch.equal(p.grad, direct[name][key])
    if options:
        assert torch.equal(inside.gramian.matrix, outside.gramian.matrix)


def test_clipping_between_backward_and_step(fabric, heads, loader, optimizers, equal):
    def train(models, optimizers, clip):
        for batch in loader:
            cograd.backward(heads.losses(models, batch))
            for name, optimizer in optimizers.items():
                clip(models[name], optimizer)
                optimizer.step()
                optimizer.zero_grad()

    fabric, models, plain = fabric(), heads.models(), heads.models()
    wrapped = set_up(fabric, models, optimizers(models))
    train(*wrapped, lambda model, optimizer: fabric.clip_gradients(model, optimizer, max_norm=0.1))
    train(plain, optimizers(plain), lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    equal(models, plain, heads.models)


def test_a_state_from_plain_models_is_stored_by_fabric_and_resumed_exactly(
    fabric, system, loader, optimizers, equal, tmp_path
):
    fabric, first, models = fabric(), system.models(), system.models()
    joint = system.joint(first, optimizers(first))
    batches = list(loader)
    for batch in batches[:3]:
        joint.step(batch)
    fabric.save(tmp_path / "joint.ckpt", {"joint": joint})
    joint = system.joint(models, optimizers(models))
    fabric.load(tmp_path / "joint.ckpt", {"joint": joint})
    for batch in batches[3:]:
        joint.step(batch)
    assert joint.steps == 6
    equal(models, system.trained(loader), system.models)


def test_the_state_of_wrapped_modules_fits_only_modules_that_are_wrapped_alike(fabric, heads, optimizers):
    models = heads.models()
    adam = optimizers(models)
    wrapped = heads.joint(set_up(fabric(), models, adam)[0], adam)
    plain = heads.joint(models, adam)
    with pytest.raises(cograd.errors.StateError, match="_forward_module"):
        plain.load_state_dict(wrapped.state_dict())


@pytest.mark.usefixtures("group")
def test_a_joint_refuses_what_strategy_ddp_makes_of_a_module(heads, optimizers):
    fabric = Fabric(accelerator="cpu", devices=1, strategy="ddp")
    fabric.launch()
    models = heads.models()
    plain = optimizers(models)
    with pytest.raises(cograd.errors.ModelError, match=r"wrapped in DistributedDataParallel.*Pass the module"):
        heads.joint(set_up(fabric, models, plain)[0], plain)
