"""PhysicsNeMo Sym: its aggregators, and the values that its tests hold."""

import importlib
import sys
import types

import numpy as np
import torch
from inputs import JACOBIANS, LOSSES, matrices, source


def physicsnemo(checkouts):
    theirs = aggregators(checkouts)
    losses = []
    for kind, options, lr in [
        ("Sum", {}, 0),
        ("HomoscedasticUncertainty", {}, 0.02),
        ("SoftAdapt", {"eps": 0.0}, 0),
        ("Relobralo", {"alpha": 0.9, "beta": 0.0, "tau": 0.5, "eps": 0.0}, 0),
        ("Relobralo", {"alpha": 0.9, "beta": 1.0, "tau": 0.5, "eps": 0.0}, 0),
    ]:
        rule = getattr(theirs, kind)([torch.zeros(1)], 3, **options)
        optimizer = torch.optim.SGD(rule.parameters(), lr=lr) if lr else None
        history = []
        for step, row in enumerate(LOSSES):
            values = torch.tensor(row, requires_grad=True)
            rule.zero_grad()
            rule(dict(zip("abc", values.unbind(), strict=True)), step).backward()
            history.append(values.grad.tolist())
            if optimizer:
                optimizer.step()
        losses.append({"function": kind, "options": options, "lr": lr, "weights": history})

    gradients = []
    for name in ("three", "uneven"):
        J, w, unused = matrices()[name], torch.zeros(len(JACOBIANS[name][0]), requires_grad=True), torch.zeros(1)
        for kind, options in [("GradNorm", {"alpha": 1.5}), ("LRAnnealing", {"alpha": 0.1, "eps": 0.0})]:
            rule = getattr(theirs, kind)([w, unused] if kind == "GradNorm" else [w], 3, **options)
            history = []
            for step, row in enumerate(LOSSES):
                values = torch.tensor(row, requires_grad=True)
                each = {key: value + g @ w for key, value, g in zip("abc", values.unbind(), J, strict=True)}
                rule.zero_grad()
                rule(each, step).backward()
                history.append(values.grad.tolist())
                if kind == "GradNorm":  # their step, at a rate in units of the mean norm of the gradients
                    mean = (rule.lmbda.detach().exp() * J.norm(dim=1)).mean()
                    with torch.no_grad():
                        rule.lmbda -= 0.025 / mean * rule.lmbda.grad
            gradients.append({"function": kind, "options": options, "jacobian": name, "weights": history})
    return {
        "source": source(checkouts, "physicsnemo-sym", "physicsnemo/sym/loss/aggregator.py"),
        "losses": losses,
        "gradients": gradients,
        "stored": [stored(checkouts, kind) for kind in STORED],
    }


STORED = ("Sum", "GradNorm", "HomoscedasticUncertainty", "LRAnnealing", "SoftAdapt", "Relobralo")


def aggregators(checkouts):
    """Their module, with the two of its imports that are not about aggregation done here."""

    def gradient_autodiff(y, x):
        found = torch.autograd.grad([y], x, [torch.ones_like(y)], create_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, x, strict=True)]

    for name in ("physicsnemo", "physicsnemo.sym", "physicsnemo.sym.eq", "physicsnemo.sym.loss"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(checkouts.joinpath("physicsnemo-sym", *name.split(".")))]
    derivatives, hydra = (types.ModuleType(f"physicsnemo.sym.{part}") for part in ("eq.derivatives", "hydra"))
    derivatives.gradient_autodiff = gradient_autodiff
    hydra.to_absolute_path = hydra.add_hydra_run_path = lambda path: path
    sys.modules |= {"physicsnemo.sym.eq.derivatives": derivatives, "physicsnemo.sym.hydra": hydra}
    return importlib.import_module("physicsnemo.sym.loss.aggregator")


def stored(checkouts, kind):
    """The values that their test ``test_aggregator/`` compares with, reduced to what the losses can tell of them.

    Their losses are linear in w [512, 512] and b [512, 1], as all units are active, and the rows of w stay equal. So
    the run is known from the inner products of the three gradients, and its end from the losses that it ended with.
    """
    file = f"test/test_aggregator/test_aggregator_data/{kind}_data.npz"
    data = np.load(checkouts / "physicsnemo-sym" / file, allow_pickle=True)
    x, w, b = (torch.from_numpy(data[key][()]).double() for key in ("x_np", "w_np", "b_np"))
    assert (w == w[:1]).all()
    assert (b == b[:1]).all()
    signs = torch.tensor([-1.0, -1.0, 1.0])
    constant = signs * x.square().mean(0)
    return {
        "file": file,
        "function": kind,
        "steps": int(data["total_steps"][()]),
        "lr": float(data["learning_rate"][()]),
        "gramian": ((x.T @ x + 1) / 512).tolist(),
        "means": ((x.sum(0) + 1) / (512 * 513)).tolist(),
        "first": (x.sum(0) + 1 + constant).tolist(),
        "last": (w[0] @ x + b[0] + constant).tolist(),
        "objective": float(data["loss_np"][()]),
    }
