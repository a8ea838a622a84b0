"""A transformer layer and an LSTM, trained and evaluated, with hooks and tied weights."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 12, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        h, _ = self.lstm(self.layer(self.embed(x)))
        return self.out(h)


torch.manual_seed(0)
model, norms, answers = Model(), [], []
model.out.weight.register_hook(lambda grad: norms.append(grad.norm().item()))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
text = torch.randint(0, 12, (4, 9))
for _ in range(4):
    model.train()
    loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        answers.append(model(text).sum())
result = torch.stack(answers)
