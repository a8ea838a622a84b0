"""One network, one output, two losses on it: its values are compared with numbers and read as class scores."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(9, 18), nn.ReLU(), nn.Linear(18, 4))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
x = torch.randn(40, 9)
values = x[:, :4]
classes = x[:, :2].argmax(dim=1)

for epoch in range(30):
    out = net(x)
    value_loss = F.mse_loss(out, values)
    class_loss = F.cross_entropy(out, classes)
    total = value_loss + class_loss
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if epoch % 10 == 0:
        print(f"epoch {epoch}, total {total.item():.3f}")
