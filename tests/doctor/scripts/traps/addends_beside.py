"""Losses of several addends, whose graphs draw random numbers and update statistics, on dense and sparse tables."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(3)
table = nn.Embedding(20, 6, sparse=True)
body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.ReLU())
memory, one, two = nn.LSTM(12, 8, batch_first=True), nn.Linear(8, 3), nn.Linear(8, 3)
scales = nn.Parameter(torch.zeros(2))
held = [*body.parameters(), *memory.parameters(), *one.parameters(), *two.parameters(), scales]
optimizer = torch.optim.Adam(held, lr=1e-2, amsgrad=True)
opt_table = torch.optim.SparseAdam(list(table.parameters()))
stepped = 0


def count(parameter):
    global stepped
    stepped += 1


two.weight.register_post_accumulate_grad_hook(count)

for i in range(7):
    words = torch.randint(0, 20, (16, 4))
    code, _ = memory(body(table(words).flatten(0, 1)).view(16, 4, 12))
    left, right = (F.cross_entropy(head(code[:, -1]), words[:, 0] % 3) for head in (one, two))
    total = torch.exp(-scales[0]) * left + scales[0] + torch.exp(-scales[1]) * right + scales[1]
    total = total + 1e-3 * sum(p.square().sum() for p in body.parameters())
    total += 0.1 * torch.stack([left, right]).mean()
    optimizer.zero_grad()
    opt_table.zero_grad()
    total.backward(retain_graph=i % 2 == 0)
    if i % 2 == 0:
        left.backward()
    optimizer.step()
    opt_table.step()

noise = torch.randn(3)
