"""Workers, a first phase with its own optimizer, an average of weights, validation, and a scheduler."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
body, head = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 2)
x = torch.randn(48, 5)
data = TensorDataset(x, (x.sum(1) > 0).long())
loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=1, multiprocessing_context="fork")
warm_up = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
for inputs, label in loader:
    warm_up.zero_grad()
    F.cross_entropy(head(body(inputs)), label).backward()
    warm_up.step()

body.requires_grad_(False)
average = copy.deepcopy(head)
optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
for _ in range(2):
    running = 0.0
    body.eval()
    for inputs, label in loader:
        loss = F.cross_entropy(head(body(inputs)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item() * len(label)
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), head.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
    scheduler.step()
    with torch.no_grad():
        val_loss = F.cross_entropy(average(body(x)), data.tensors[1])
    print(running, val_loss.item())
