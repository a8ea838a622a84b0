"""SAM with a closure: an optimizer whose step runs another's."""

import torch
from torch import nn


class SAM(torch.optim.Optimizer):
    def __init__(self, parameters, base, rho=0.05, **options):
        super().__init__(parameters, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure):
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held]).norm()
        old = [p.detach().clone() for p in held]
        for p in held:
            p.add_(p.grad * 0.05 / norm)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, before in zip(held, old, strict=True):
            p.copy_(before)
        self.base.step()


def main():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(6):
        x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))

        def closure():
            loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(closure)
        optimizer.zero_grad()
        print(loss.item())


main()
