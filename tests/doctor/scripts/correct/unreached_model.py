"""A sentence encoder and a classifier."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)
opt_encoder = torch.optim.Adam(encoder.parameters(), lr=1e-3)
opt_classifier = torch.optim.Adam(classifier.parameters(), lr=1e-3)
x, label = torch.randn(32, 6), torch.randint(0, 3, (32,))

for _ in range(6):
    code = F.normalize(encoder(x), dim=1)
    loss = F.cross_entropy(classifier(code), label)
    opt_encoder.zero_grad()
    opt_classifier.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_classifier.step()
