"""TorchJD, as installed."""

import importlib.metadata

import torch
from inputs import LOSSES, famo_weights, matrices, slopes


def torchjd(_):
    from torchjd import aggregation, linalg, scalarization

    version = importlib.metadata.version("torchjd")
    exact = linalg.QuadprogProjector(norm_eps=0, reg_eps=0)
    gramian, losses = [], []
    weightings = {
        "AlignedMTLWeighting": [{"scale_mode": mode} for mode in ("min", "median", "rmse")],
        "CAGradWeighting": [{"c": c, "norm_eps": 0.0} for c in (0.2, 0.5, 1.0)],
        "FairGradWeighting": [{"alpha": alpha} for alpha in (0.5, 1.0, 2.0)],
        "IMTLGWeighting": [{}],
        "MGDAWeighting": [{"epsilon": 1e-14, "max_iters": 100_000}],
        "UPGradWeighting": [{}],
        "DualProjWeighting": [{}],
    }
    for name, J in matrices().items():
        for kind, several in weightings.items():
            for options in several:
                projector = {"projector": exact} if kind in ("UPGradWeighting", "DualProjWeighting") else {}
                weights = getattr(aggregation, kind)(**options, **projector)(J @ J.T)
                gramian.append({"function": kind, "options": options, "jacobian": name, "weights": weights.tolist()})
        for kind in ("ConFIG", "NashMTL"):
            options = {"n_tasks": len(J), "max_norm": 0.0, "optim_niter": 100} if kind == "NashMTL" else {}
            direction = getattr(aggregation, kind)(**options)(J)
            gramian.append({"function": kind, "options": options, "jacobian": name, "direction": direction.tolist()})
    vaccine, two = aggregation.GradVacWeighting(beta=0.3, eps=0.0), matrices()["two"]
    turned = [two, two * torch.tensor([[1.0], [-0.5]]), two[:, [1, 0, 2]], two]
    steps = [vaccine(J @ J.T).tolist() for J in turned]
    gramian.append({"function": "GradVacWeighting", "options": {"beta": 0.3}, "jacobians": [J.tolist() for J in turned],
                    "steps": steps})  # fmt: skip

    for kind, options, trained in [
        ("GeometricMean", {}, 0),
        ("STCH", {"mu": 0.7}, 0),
        ("STCH", {"mu": 0.7, "weights": [1.0, 2.0, 0.5], "reference": [0.5, 0.1, 0.2]}, 0),
        ("UW", {"shape": 3}, 0.02),
        ("IMTLL", {"shape": 3}, 0.02),
    ]:
        given = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in options.items()}
        rule = getattr(scalarization, kind)(**given)
        optimizer = torch.optim.SGD(rule.parameters(), lr=trained) if trained else None
        history = []
        for row in LOSSES:
            values = torch.tensor(row, requires_grad=True)
            rule.zero_grad()
            rule(values).backward()
            history.append(values.grad.tolist())
            if optimizer:
                optimizer.step()
        losses.append({"function": kind, "options": options, "lr": trained, "weights": history})
    dwa, history = scalarization.DWA(), []
    for row in LOSSES:
        values = torch.tensor(row, requires_grad=True)
        history.append(slopes(dwa(values), values))
        dwa.step()
    losses.append({"function": "DWA", "options": {}, "lr": 0, "weights": history})
    mine = scalarization.FAMO(3, min_losses=torch.tensor([-2.0, 0.1, 0.5]))
    losses.append(
        {"function": "FAMO", "options": {"min_losses": [-2.0, 0.1, 0.5]}, "weights": famo_weights(mine, mine)}
    )
    return {"source": f"torchjd {version} from the package index", "gramian": gramian, "losses": losses}
