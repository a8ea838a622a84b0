"""A network is trained first, and teaches another one then."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
teacher = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
student = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
x, y = torch.randn(16, 1, 6), torch.randint(0, 2, (16,))

optimizer = torch.optim.Adam(teacher.parameters())
for _ in range(6):
    optimizer.zero_grad()
    F.cross_entropy(teacher(x), y).backward()
    optimizer.step()

teacher.requires_grad_(False)
student_optimizer = torch.optim.Adam(student.parameters())
for _ in range(6):
    teacher.eval()
    with torch.no_grad():
        wanted = teacher(x)
    student_optimizer.zero_grad()
    F.mse_loss(student(x), wanted).backward()
    student_optimizer.step()
