"""Draws of gradients that degenerate, and what every rule that looks at gradients owes to each of them.

``python tests/properties/draws.py --draws 20000`` prints a table; the tests run fewer of the same.
"""

import argparse
import collections
import sys
import time
from unittest import mock

import numpy as np
import torch

from cograd import weighting
from cograd.weighting import Seen, _gradvac, _pcgrad

RULES = {
    "AlignedMTL": weighting.AlignedMTL(),
    "CAGrad": weighting.CAGrad(),
    "ConFIG": weighting.ConFIG(),
    "DualProj": weighting.DualProj(),
    "FairGrad": weighting.FairGrad(alpha=2.0),
    "GradNorm": weighting.GradNorm(),
    "GradVac": weighting.GradVac(beta=0.3),
    "IMTLG": weighting.IMTLG(),
    "LRAnnealing": weighting.LRAnnealing("loss0"),
    "MGDA": weighting.MGDA(),
    "NashMTL": weighting.NashMTL(),
    "PCGrad": weighting.PCGrad(),
    "UPGrad": weighting.UPGrad(),
}
SAFE = ("UPGrad", "DualProj", "MGDA")  # what promises that no loss rises
FAULTS = ("raised", "opposed a loss", "depended on order or scale")

KINDS = ("full", "low rank", "collinear", "duplicated", "opposite", "cancelling", "integers", "few")
SCALES = ("equal", "whole", "each")


def draw(seed):
    """Gradients ``[K, P]`` in float64, K from 2 to 20, and in words what they are."""
    rng = np.random.default_rng(seed)
    losses = int(rng.integers(2, 21))
    kind, scale = KINDS[seed % len(KINDS)], SCALES[seed // len(KINDS) % len(SCALES)]
    J = _rows(rng, kind, losses)
    if rng.random() < 0.2:
        J += rng.normal() * rng.standard_normal(J.shape[1])  # a common part
    if rng.random() < 0.3:
        J *= np.exp(rng.normal(size=(losses, 1)))
    if scale == "whole":
        J *= 10 ** rng.uniform(-9, 9)
    elif scale == "each":
        J *= 10 ** rng.uniform(-9, 9, size=(losses, 1))
    if rng.random() < 0.15:
        J[rng.integers(losses)] = 0
    return J, f"{kind}, {scale}"


def _rows(rng, kind, losses):
    width = int(rng.integers(1, 2 * losses + 3))
    J = rng.standard_normal((losses, width))
    some = rng.permutation(losses)[: int(rng.integers(1, losses))]
    others = np.setdiff1d(np.arange(losses), some)
    source = rng.choice(others, len(some))
    if kind == "low rank":
        rank = int(rng.integers(1, losses))
        J = rng.standard_normal((losses, rank)) @ rng.standard_normal((rank, losses + width))
    elif kind == "collinear":
        J[some] = J[source] * np.exp(rng.normal(size=(len(some), 1)))
    elif kind == "duplicated":
        J[some] = J[source]
    elif kind == "opposite":
        J[some] = -J[source] * (np.exp(rng.normal(size=(len(some), 1))) if rng.random() < 0.5 else 1)
    elif kind == "cancelling":
        J[some[0]] = -rng.dirichlet(np.ones(len(others))) @ J[others]
    elif kind == "integers":
        J = rng.integers(-2, 3, size=J.shape).astype(float)
    elif kind == "few":
        J = J[:, : int(rng.integers(1, 3))]
    return J


def faults(seed, rules=RULES):
    """For each rule what it does wrong on the draw of this seed: name -> one of FAULTS, and by how much."""
    J, kind = draw(seed)
    rng = np.random.default_rng(seed)
    keys, order, scale = rng.random((len(J), len(J))), rng.permutation(len(J)), 2.0 ** rng.integers(-20, 20)
    norms = np.linalg.norm(J, axis=1)
    gramian = products(J)
    if kind.endswith("each"):  # over 18 decades rounding in the products is more than 1e-8 of some weights
        other = gramian[np.ix_(order, order)] * scale**2
    else:
        scale = scale * rng.uniform(1, 2)
        other = products(J[order] * scale)
    found = {}
    for name, rule in rules.items():
        try:
            weights = run(rule, J, gramian, keys, range(len(J)))
            again = run(rule, scale * J[order], other, keys, order)
        except Exception as error:
            found[name] = FAULTS[0], f"{type(error).__name__}: {error}"
            continue
        if name in SAFE and (least := worst_cosine(J, weights)) < -1e-6:
            found[name] = FAULTS[1], f"cosine {least:.1e}"
        parts = weights * np.where(norms > 0, norms, 1.0)
        moved = np.abs(again * np.where(norms > 0, norms, 1.0)[order] - parts[order]).max()
        if moved > 1e-8 * np.abs(parts).max():
            found[name] = FAULTS[2], f"by {moved / max(np.abs(parts).max(), 1e-300):.1e}"
    return {name: (fault, f"{kind}: {how}") for name, (fault, how) in found.items()}


def products(J):
    """The Gramian of rows, in float64."""
    J = torch.from_numpy(np.ascontiguousarray(J))
    return (J @ J.T).numpy()


def run(rule, J, gramian, keys, order):
    """The weights at the second of two steps with the same gradients.

    ``order`` says which losses the rows belong to: names, losses and what a rule draws go with them.
    """
    order = np.asarray(order)
    names = tuple(f"loss{k}" for k in order)
    live = order[gramian.diagonal() > 0]
    mine = keys[np.ix_(live, live)] + 2 * np.eye(len(live))
    magnitudes = torch.from_numpy(np.stack([np.abs(J).max(axis=1), np.abs(J).mean(axis=1)], axis=1))
    drawn = mine.argsort(axis=1)[:, :-1], {"seed": 0, "draws": 1}
    state = rule.init(names)

    def orders(*_):
        return drawn

    with mock.patch.object(_pcgrad, "orders", orders), mock.patch.object(_gradvac, "orders", orders):
        for step in range(2 if rule.remembers else 1):
            losses = torch.from_numpy(1.0 + order * (1 - 0.5 * step))
            seen = Seen(names, losses, (True,) * len(names), step, gramian=torch.from_numpy(gramian), abs=magnitudes)
            weights, state = rule.weigh(seen, state)
    return weights.numpy()


def worst_cosine(J, weights):
    """The least cosine of the direction with a gradient; 0 where the direction is zero beside its parts."""
    norms = np.linalg.norm(J, axis=1)
    direction = J.T @ weights
    length = np.linalg.norm(direction)
    if length <= 1e-9 * (np.abs(weights) * norms).sum():
        return 0.0
    return ((J @ direction)[norms > 0] / norms[norms > 0]).min() / length


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20_000, help="how many (default 20000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts, examples, start = collections.Counter(), collections.defaultdict(list), time.monotonic()
    for n in range(1, options.draws + 1):
        seed = options.first + n - 1
        for name, (fault, how) in faults(seed).items():
            counts[name, fault] += 1
            examples[name].append(f"seed {seed}, {how}")
        if n % 500 == 0 or n == options.draws:
            faulty, seconds = sum(counts.values()), time.monotonic() - start
            print(f"{n} of {options.draws} draws, {faulty} faults, {seconds:.0f} s", file=sys.stderr, flush=True)
    print(f"{options.draws} draws", *(f"{fault:>{len(fault) + 2}}" for fault in FAULTS))
    for name in RULES:
        print(f"{name:<{len(str(options.draws)) + 6}}", *(f"{counts[name, f]:>{len(f) + 2}}" for f in FAULTS))
    for name, lines in examples.items():
        print(f"{name}:", *lines[:5], sep="\n  ")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
