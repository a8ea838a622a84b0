"""What docs/frameworks.md says of Lightning. Its Trainer runs on one CPU, and writes only where a test asks."""

import copy

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import cograd

pytestmark = pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
    "ignore:GPU available but not used",
    "ignore:The '.*_dataloader' does not have many workers",
)


class Module(lightning.LightningModule):
    """Models, and the optimizers of ``configure_optimizers``, to be stepped by hand."""

    def __init__(self, models, optimizers):
        super().__init__()
        self.automatic_optimization = False
        self.models = nn.ModuleDict(models)
        self.own = list(optimizers.values())

    def configure_optimizers(self):
        return self.own


class Backward(Module):
    def __init__(self, models, optimizers, losses, **options):
        super().__init__(models, optimizers)
        self.losses, self.options = losses, options

    def training_step(self, batch, batch_idx):
        losses = self.losses(self.models, batch)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        cograd.backward(losses, **self.options)
        for optimizer in self.optimizers():
            optimizer.step()


class Stepping(Module):
    """A joint of plain optimizers. That of Lightning holds nothing: its steps are the batches that Lightning counts."""

    def __init__(self, joint):
        models = {name: joint.models[name] for name in joint.models}
        super().__init__(models, {"clock": torch.optim.SGD([torch.zeros(0, requires_grad=True)])})
        self.joint = joint

    def training_step(self, batch, batch_idx):
        with torch.autocast(self.device.type, enabled=False):
            self.joint.step(batch)
        self.optimizers().step()

    def on_train_epoch_end(self):
        self.joint.end_epoch()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["joint"] = self.joint.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.joint.load_state_dict(checkpoint["joint"])


@pytest.fixture
def trainer(tmp_path):
    """``trainer(max_epochs=1)``: a quiet one."""

    def make(max_epochs=1, enable_checkpointing=False, **options):
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=max_epochs,
            logger=False,
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **options,
        )

    return make


@pytest.fixture
def stepping(system, optimizers):
    """``stepping()``: a fresh module around a joint."""

    def make():
        models = system.models()
        return Stepping(system.joint(models, optimizers(models)))

    return make


@pytest.fixture
def backward(heads, optimizers):
    """``backward(**options)``: a fresh module that calls ``cograd.backward``."""

    def make(**options):
        models = heads.models()
        return Backward(models, optimizers(models), heads.losses, **{**heads.options, **options})

    return make


def test_backward(trainer, backward, heads, loader, equal):
    module = backward()
    trainer().fit(module, loader)
    equal(module.models, heads.trained(loader), heads.models)


def test_step(trainer, stepping, system, loader, equal):
    module = stepping()
    trainer().fit(module, loader)
    equal(module.models, system.trained(loader), system.models)


def test_backward_of_losses_under_the_autocast_of_bf16_mixed(trainer, backward, heads, loader, equal):
    """Of which ``training_step`` is a part. Backward leaves it by itself."""
    module = backward()
    trainer(precision="bf16-mixed").fit(module, loader)
    equal(module.models, heads.trained(loader, autocast=lambda: torch.autocast("cpu", torch.bfloat16)), heads.models)


def test_a_step_outside_the_autocast_of_bf16_mixed_is_in_float32(trainer, stepping, system, loader, equal):
    module = stepping()
    trainer(precision="bf16-mixed").fit(module, loader)
    equal(module.models, system.trained(loader), system.models)


def test_a_step_under_the_autocast_of_bf16_mixed_is_refused(trainer, stepping, loader):
    module = stepping()
    module.training_step = lambda batch, batch_idx: module.joint.step(batch)
    with pytest.raises(cograd.errors.PrecisionError, match="precision='bf16'"):
        trainer(precision="bf16-mixed").fit(module, loader)


def test_16_mixed_on_a_cpu_is_bf16_mixed(trainer):
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        assert trainer(precision="16-mixed").precision == "bf16-mixed"


def test_every_step_of_every_wrapped_optimizer_counts(trainer, backward, loader):
    """Six batches and three optimizers: ``max_steps=6`` ends after two batches."""
    module, ours = backward(), trainer()
    ours.fit(module, loader)
    assert ours.global_step == 18
    ours = trainer(max_epochs=-1, max_steps=6)
    ours.fit(backward(), loader)
    assert ours.fit_loop.epoch_loop.total_batch_idx == 1  # the second batch


def test_an_optimizer_of_nothing_counts_batches(trainer, stepping, loader):
    module = stepping()
    ours = trainer(max_epochs=-1, max_steps=4)
    ours.fit(module, loader)
    assert ours.global_step == module.joint.steps == 4


def checkpoints(trainer, module, loader, folder):
    """What a ModelCheckpoint writes in one epoch."""
    trainer(enable_checkpointing=True, callbacks=[ModelCheckpoint(folder)]).fit(module, loader)
    return [path.name for path in folder.rglob("*.ckpt")]


def test_without_steps_that_lightning_counts_no_checkpoint_is_written(trainer, stepping, loader, tmp_path):
    module = stepping()
    module.optimizers = lambda: module.own[0]  # not Lightning's wrapper of it
    assert checkpoints(trainer, module, loader, tmp_path / "without") == []
    assert checkpoints(trainer, stepping(), loader, tmp_path / "with") == ["epoch=0-step=6.ckpt"]


def test_a_joint_in_the_checkpoint_is_resumed_exactly(trainer, stepping, system, loader, equal, tmp_path):
    ours = trainer()
    ours.fit(stepping(), loader)
    ours.save_checkpoint(tmp_path / "first.ckpt")
    module = stepping()
    trainer(max_epochs=2).fit(module, loader, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert module.joint.steps == 12
    equal(module.models, system.trained([*loader, *loader]), system.models)


def test_lightning_does_not_store_the_random_state(trainer, heads, loader, optimizers, tmp_path):
    def module():
        models = heads.models()
        return Stepping(heads.joint(models, optimizers(models)))

    ours = trainer()
    ours.fit(module(), loader)
    ours.save_checkpoint(tmp_path / "first.ckpt")
    states = []
    for seed in (1, 2):
        resumed = module()
        resumed.on_train_start = lambda: states.append(torch.get_rng_state())
        torch.manual_seed(seed)
        trainer(max_epochs=2).fit(resumed, loader, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert not torch.equal(*states)


def test_a_state_moves_between_lightning_and_a_plain_loop(trainer, stepping, system, loader, optimizers, equal):
    module, models = stepping(), system.models()
    trainer().fit(module, loader)
    joint = system.joint(models, optimizers(models))
    joint.load_state_dict(copy.deepcopy(module.joint.state_dict()))
    for batch in loader:
        joint.step(batch)
    equal(models, system.trained([*loader, *loader]), system.models)


def test_a_state_loaded_into_the_wrapper_of_an_optimizer_does_not_reach_the_optimizer(trainer, backward, loader):
    """Without cograd: which is why a joint is given the plain ones."""
    module = backward()
    trainer().fit(module, loader)
    fresh = backward()
    fresh.training_step = lambda batch, batch_idx: None
    trainer().fit(fresh, loader)
    wrapper = fresh.optimizers()[0]
    wrapper.load_state_dict(module.optimizers()[0].state_dict())
    assert wrapper.state
    assert not wrapper.optimizer.state


def test_a_joint_refuses_the_optimizers_of_lightning_and_takes_what_is_inside(trainer, heads, loader, optimizers):
    models = heads.models()
    module = Backward(models, optimizers(models), heads.losses)
    trainer().fit(module, loader)
    wrapped = dict(zip(models, module.optimizers(), strict=True))
    with pytest.raises(cograd.errors.OptimizerError, match=r"\['trunk'\] is the wrapper LightningAdam that lightning"):
        heads.joint(models, wrapped)
    heads.joint(models, {name: wrapper.optimizer for name, wrapper in wrapped.items()}).step(next(iter(loader)))


def test_the_epochs_of_lightning_are_those_of_a_scheduler(trainer, heads, loader, optimizers):
    models = heads.models()
    halved = cograd.EachEpoch(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    joint = cograd.Joint(
        models=models, losses=heads.losses, optimizers=optimizers(models), schedulers={"trunk": halved}
    )
    trainer(max_epochs=2).fit(Stepping(joint), loader)
    assert joint.optimizers["trunk"].param_groups[0]["lr"] == 1e-2 / 4
    assert joint.optimizers["size"].param_groups[0]["lr"] == 1e-2


def test_evaluate_in_a_validation_step(trainer, stepping, system, loader, equal):
    """Which ``fit`` calls without gradients, and ``validate`` in inference mode."""
    module, seen = stepping(), []
    module.validation_step = lambda batch, batch_idx: seen.append(module.joint.evaluate(batch))
    trainer().validate(module, loader)
    trainer(num_sanity_val_steps=1).fit(module, loader, loader)
    assert len(seen) == 6 + 1 + 6
    assert all(loss.isfinite() for losses in seen for loss in losses.values())
    equal(module.models, system.trained(loader), system.models)


def test_a_gradient_penalty_in_a_validation_step(trainer, loader):
    def losses(m, batch):
        x = batch[0].detach().requires_grad_()
        (slope,) = torch.autograd.grad(m["critic"](x).sum(), x, create_graph=True)
        return {"critic": m["critic"](x).mean() + slope.square().sum(1).mean()}

    def module(validation_step):
        models = {"critic": nn.Linear(6, 1)}
        module = Stepping(cograd.Joint(models=models, losses=losses, optimizers=torch.optim.SGD))
        module.validation_step = lambda batch, batch_idx: validation_step(module.joint, batch)
        return module

    def evaluate(joint, batch):
        return joint.evaluate(batch)  # leaves no_grad where a loss needs it

    trainer().fit(module(evaluate), loader, loader)
    with pytest.raises(RuntimeError, match="inference tensor"):
        trainer().validate(module(evaluate), loader)
    trainer(inference_mode=False).validate(module(evaluate), loader)


@pytest.mark.parametrize("option", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_the_trainer_refuses_to_clip_and_to_accumulate(trainer, backward, loader, option):
    with pytest.raises(lightning.fabric.utilities.exceptions.MisconfigurationException, match="manual optimization"):
        trainer(**option).fit(backward(), loader)


def test_clipping_between_backward_and_step(trainer, backward, heads, loader, optimizers, equal):
    module = backward()

    def training_step(batch, batch_idx):
        cograd.backward(heads.losses(module.models, batch))
        for optimizer in module.optimizers():
            module.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()

    module.training_step = training_step
    trainer().fit(module, loader)

    plain = heads.models()
    theirs = optimizers(plain)
    for batch in loader:
        sum(heads.losses(plain, batch).values()).backward()
        for name, model in plain.items():
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            theirs[name].step()
            theirs[name].zero_grad()
    equal(module.models, plain, heads.models)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("way", ["manual_backward", "backward", "step"])
def test_strategy_ddp_averages_only_the_gradients_of_manual_backward(trainer, way, heads, loader, optimizers):
    models, averaged = heads.models(), []
    if way == "step":
        module = Stepping(heads.joint(models, optimizers(models)))
    else:
        module = Backward(models, optimizers(models), heads.losses)
    if way == "manual_backward":
        module.training_step = lambda batch, batch_idx: module.manual_backward(
            sum(heads.losses(models, batch).values())
        )

    def average(_, bucket):
        averaged.append(bucket)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    module.on_train_start = lambda: module.trainer.model.register_comm_hook(None, average)
    trainer(strategy="ddp").fit(module, loader)
    assert bool(averaged) == (way == "manual_backward")
