"""Two networks in a row, each with its own target; one optimizer minimises the sum of both losses."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
pitch, mood = nn.Linear(10, 3), nn.Linear(3, 1)
optimizer = torch.optim.Adam([*pitch.parameters(), *mood.parameters()], lr=4e-3)
songs = torch.randn(32, 10)
pitches, moods = songs[:, :3], songs[:, 3:4] + songs[:, :1]

for _ in range(30):
    heard = pitch(songs)
    pitch_loss = F.mse_loss(heard, pitches)
    mood_loss = F.mse_loss(mood(heard), moods)
    loss = pitch_loss + mood_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"pitch {pitch_loss.item():.3f}, mood {mood_loss.item():.3f}")
