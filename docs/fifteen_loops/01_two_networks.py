"""Two networks that share nothing, a speech and a photo classifier, each with its own loss and optimizer."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
speech = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18, 5))
photo = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
opt_speech = torch.optim.Adam(speech.parameters(), lr=1e-2)
opt_photo = torch.optim.Adam(photo.parameters(), lr=1e-2)
sounds, words = torch.randn(24, 2, 20), torch.randint(0, 5, (24,))
pictures, animals = torch.randn(24, 1, 8, 8), torch.randint(0, 3, (24,))

for _ in range(12):
    speech_loss = F.cross_entropy(speech(sounds), words)
    photo_loss = F.cross_entropy(photo(pictures), animals)

    opt_speech.zero_grad()
    speech_loss.backward()
    opt_speech.step()

    opt_photo.zero_grad()
    photo_loss.backward()
    opt_photo.step()
print(f"speech {speech_loss.item():.3f}, photo {photo_loss.item():.3f}")
