"""A user tower and an item tower, trained in turns: each moves while the other stands still (scheme 11).

By default the "users" are left halves of digits and the "items" right halves, and a left half has to
find its own right half among those of the batch. With ``path`` to the ``u.data`` of MovieLens 100K
(https://grouplens.org/datasets/movielens/100k/) users and films meet, and the towers predict ratings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

import cograd
from cograd.recipes import Minibatches, Recipe, load, main, mlp, predicting, rmse

Batch = tuple[Tensor, ...]
CANDIDATES = 45


def similarity(users: Tensor, items: Tensor) -> Tensor:
    """How well each of N users fits each of N items, ``[..., N, N]``."""
    return normalize(users, dim=-1) @ normalize(items, dim=-1).mT / 0.1


def ratings(users: Tensor, items: Tensor) -> Tensor:
    """The rating of each pair ``[N]``, above or below the mean: a bias of each, and how well they fit."""
    return users[:, 0] + items[:, 0] + (users[:, 1:] * items[:, 1:]).sum(1)


def match(users: Tensor, items: Tensor, *stars: Tensor) -> Tensor:
    """The error of the ratings if there are any; else of finding each user's own item."""
    if stars:
        return mse_loss(ratings(users, items), stars[0])
    return cross_entropy(similarity(users, items), torch.arange(len(users)))


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """One loss, which trains the tower whose turn it is."""
    return {"match": match(m.user(batch[0]), m.item(batch[1]), *batch[2:])}


def halves(seed: int) -> tuple[Batch, Batch, nn.Module, nn.Module]:
    """Left and right halves to train on and to test with, and a tower for each."""
    data = load("digits", seed)
    images = (x.unflatten(1, (8, 8)) for x in (data.x, data.test_x))
    train, test = ((image[..., :4].flatten(1), image[..., 4:].flatten(1)) for image in images)
    return train, test, mlp(32, 128, 32), mlp(32, 128, 32)


def films(seed: int, path: Path) -> tuple[Batch, Batch, nn.Module, nn.Module]:
    """Users, films and stars (centred) to train on and to test with, and a tower for each."""
    rows = torch.tensor([[int(field) for field in line.split("\t")[:3]] for line in path.read_text().splitlines()])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    n = int(0.9 * len(rows))
    users, items = (rows[:, i].unique(return_inverse=True)[1] for i in (0, 1))
    stars = rows[:, 2] - rows[:n, 2].float().mean()
    user, item = (nn.Embedding.from_pretrained(torch.randn(int(i.max()) + 1, 9) / 10, False) for i in (users, items))
    return (users[:n], items[:n], stars[:n]), (users[n:], items[n:], stars[n:]), user, item


def build(seed: int = 0, path: str | Path | None = None) -> Recipe:
    """Models, optimizers, phases, data, and how to judge the result."""
    torch.manual_seed(seed)
    train, (users, items, *stars), user, item = films(seed, Path(path)) if path else halves(seed)
    joint = cograd.Joint(
        models={"user": user, "item": item},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
        phases=cograd.alternate("user", "item"),
    )

    def score() -> float:
        with predicting(joint) as m:
            if stars:
                return rmse(ratings(m.user(users), m.item(items)), stars[0])
            user, item = (tower.unflatten(0, (-1, CANDIDATES)) for tower in (m.user(users), m.item(items)))
            return float((similarity(user, item).argmax(-1) == torch.arange(CANDIDATES)).float().mean())

    return Recipe(
        joint=joint,
        batches=Minibatches(*train, size=min(256 if stars else 64, len(train[0])), seed=seed),
        epochs=5 if stars else 60,
        metric="root mean squared error, in stars" if stars else f"own half ranked first of {CANDIDATES}",
        score=score,
        baseline=rmse(torch.zeros(()), stars[0]) if stars else 1 / CANDIDATES,
        trivial="the mean rating" if stars else "a random half",
        higher_is_better=not stars,
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        users, items, *stars = batch
        item = m.item(items)  # for both turns, since this tower stands still in the first
        first = match(m.user(users), item.detach(), *stars)
        optimizers["user"].zero_grad()
        first.backward()
        optimizers["user"].step()
        with torch.no_grad():
            user = m.user(users)
        second = match(user, item, *stars)
        optimizers["item"].zero_grad()
        second.backward()
        optimizers["item"].step()
        return second.detach()

    return step


if __name__ == "__main__":
    main(build)
