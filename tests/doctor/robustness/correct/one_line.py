"""Everything on one line, and values that torch functions with vmap gave, which no mode sees."""

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

models = [nn.Linear(4, 1) for _ in range(3)]
parameters, buffers = stack_module_state(models)
optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
base = models[0]
for _ in range(6):
    x = torch.randn(8, 4)
    out = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)  # noqa: B023
    loss = (out - 1).pow(2).mean(); optimizer.zero_grad(); loss.backward(); optimizer.step(); print(loss.item())  # noqa: E702  # fmt: skip
