"""ConFIG, PCGrad, NashMTL, IMTL-G, CAGrad, FairGrad and Aligned-MTL, by their authors or by those who compared them."""

import importlib
import random
import sys
import types
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import torch
from inputs import fresh, matrices, source
from torch import nn


def config(checkouts):
    operators = importlib.import_module("conflictfree.grad_operator")
    cases = []
    for name, J in matrices().items():
        found = {"ConFIG_update(pinv)": operators.ConFIG_update(J, use_least_square=False)}
        if len(J) <= J.shape[1]:  # else lstsq has more equations than unknowns, or is not unique
            found["ConFIG_update(lstsq)"] = operators.ConFIG_update(J)
        if len(J) == 2:
            found["ConFIG_update_double"] = operators.ConFIG_update_double(*J)
        found["PCGradOperator"] = operators.PCGradOperator().calculate_gradient(J)
        found["IMTLGOperator"] = operators.IMTLGOperator().calculate_gradient(J)
        cases += [{"function": key, "jacobian": name, "direction": g.tolist()} for key, g in found.items()]
    return {"source": source(checkouts, "ConFIG", "conflictfree/grad_operator.py"), "gramian": cases}


def pcgrad(checkouts):
    theirs = importlib.import_module("pcgrad")
    answers = {"source": source(checkouts, "Pytorch-PCGrad", "pcgrad.py")}
    for name, kind, losses in [
        ("shared", theirs.TestNet, [nn.L1Loss(), nn.MSELoss()]),
        ("heads", theirs.MultiHeadTestNet, [nn.MSELoss(), nn.MSELoss()]),
    ]:
        torch.manual_seed(4)
        x, y = torch.randn(2, 3), torch.randn(2, 4)
        net = kind()
        out = net(x)
        outs = out if isinstance(out, tuple) else (out, out)
        values = [loss(o, y) for loss, o in zip(losses, outs, strict=True)]
        surgery = theirs.PCGrad(torch.optim.Adam(net.parameters()))
        surgery.pc_backward(values)
        answers[name] = {
            "x": x.tolist(),
            "y": y.tolist(),
            "parameters": {key.lstrip("_"): p.tolist() for key, p in net.named_parameters()},
            "gradients": {key.lstrip("_"): p.grad.tolist() for key, p in net.named_parameters()},
        }
    answers["tensorflow"] = {
        "source": source(checkouts, "PCGrad", "PCGrad_tf.py") + ", its operations of TensorFlow done by torch",
        "directions": {name: by_tensorflow(checkouts, J) for name, J in matrices().items()},
    }
    return answers


def by_tensorflow(checkouts, J):
    """What PCGrad_tf.py makes of losses with the gradients J, each in the order of the losses."""

    class Shape(tuple):
        __slots__ = ()

        @property
        def dims(self):
            return [types.SimpleNamespace(value=n) for n in self]

    p = torch.zeros(J.shape[1], requires_grad=True)
    p.get_shape = lambda: Shape(p.shape)
    tf = types.ModuleType("tensorflow")
    tf.stack, tf.reduce_sum, tf.reshape = torch.stack, torch.sum, torch.reshape
    tf.minimum = lambda value, bound: value.clamp(max=bound)
    tf.concat = lambda parts, axis: torch.cat(parts, axis)
    tf.random = types.SimpleNamespace(shuffle=lambda values: values[torch.randperm(len(values))])
    tf.vectorized_map = lambda function, rows: torch.stack([function(row) for row in rows])
    tf.gradients = lambda loss, variables: torch.autograd.grad(loss, variables, retain_graph=True)
    parts = {"eager": ["context"], "framework": ["ops"], "ops": ["control_flow_ops"], "training": ["optimizer"]}
    modules = {"tensorflow": tf, "tensorflow.python": types.ModuleType("tensorflow.python")}
    for part, names in parts.items():
        module = modules[f"tensorflow.python.{part}"] = types.ModuleType(part)
        for name in names:
            setattr(module, name, types.SimpleNamespace(Optimizer=type("Optimizer", (), {"__init__": lambda *_: None})))
    sys.modules |= modules
    theirs = fresh("PCGrad_tf")
    return theirs.PCGrad(None).compute_gradients(list(J @ p), [p])[0][0].tolist()


@contextmanager
def recorded_orders(orders):
    """``random.shuffle`` as it is, noting what it made of the positions."""
    true = random.shuffle

    def shuffle(items):
        true(items)
        orders.append([next(i for i, row in ROWS.items() if row is item[0]) for item in items])

    random.shuffle = shuffle
    try:
        yield
    finally:
        random.shuffle = true


ROWS = {}


def authors(checkouts):
    sys.path.insert(0, str(checkouts / "nash-mtl"))
    nash, cases = fresh("methods.weight_methods"), []
    file = source(checkouts, "nash-mtl", "methods/weight_methods.py")

    def add(where, function, options, name, **answer):
        cases.append({"source": where, "function": function, "options": options, "jacobian": name, **answer})

    for name, J in matrices().items():
        K, p = len(J), torch.zeros(J.shape[1], requires_grad=True)
        losses = J @ p
        with redirect_stdout(StringIO()):
            weights = nash.NashMTL(K, "cpu", optim_niter=100).get_weighted_loss(losses, p)[1]["weights"]
        add(file, "NashMTL", {}, name, weights=weights.tolist())
        weights = nash.IMTLG(K, "cpu").get_weighted_loss(losses, p)[1]["weights"]
        add(file, "IMTLG", {}, name, weights=weights.tolist())
        for c in (0.2, 0.5):
            for rescale in (0, 1):
                g = nash.CAGrad(K, "cpu").cagrad(J.T, alpha=c, rescale=rescale)
                add(file, "CAGrad", {"c": c, "rescale": rescale}, name, direction=g.tolist())
        for seed in range(3):
            random.seed(seed)
            rows = [(row.clone(),) for row in J]
            ROWS.update({i: row[0] for i, row in enumerate(rows)})
            orders = []
            with recorded_orders(orders):
                direction = nash.PCGrad(K, "cpu")._project_conflicting(rows)[0]
            ROWS.clear()
            add(file, "PCGrad", {"orders": orders}, name, direction=direction.tolist())

    sys.path.insert(0, str(checkouts / "fairgrad"))
    fair = fresh("methods.weight_methods")
    where = source(checkouts, "fairgrad", "methods/weight_methods.py")
    for name, J in matrices().items():
        for alpha in (0.5, 1.0, 2.0):
            weights = fair.FairGrad(len(J), "cpu").fairgrad(J.T, alpha)[2]
            add(where, "FairGrad", {"alpha": alpha}, name, weights=weights.tolist())

    sys.path.insert(0, str(checkouts / "MTL" / "code" / "optim" / "aligned"))
    torch.symeig = lambda matrix, eigenvectors: torch.linalg.eigh(matrix)  # gone from torch since
    solver = fresh("solver")
    where = source(checkouts, "MTL", "code/optim/aligned/solver.py")
    for name, J in matrices().items():
        for mode in ("min", "median", "rmse"):
            weights = solver.ProcrustesSolver.apply(J.T[None], mode)[1].sum(1)
            add(where, "ProcrustesSolver", {"scale_mode": mode}, name, weights=weights.tolist())
    return {"gramian": cases}
