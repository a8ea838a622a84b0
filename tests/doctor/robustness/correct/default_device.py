"""A default device is a mode of the script's own: attention then takes no fast path in evaluation."""

import torch
from torch import nn

torch.set_default_device("cpu")
model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(6):
    model.train()
    loss = model(torch.randn(4, 8, 16)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(4, 8, 16)).tolist())
torch.set_default_device(None)
