"""Attention in evaluation: under modes that are entered and left around it, after errors in it, and in a thread."""

import threading

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack


class Count(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        Count.calls += 1
        return func(*args, **(kwargs or {}))


class Careful(nn.Module):
    """Evaluates its attention inside an operation that modes see as one."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        if torch.overrides.has_torch_function_unary(x):
            return torch.overrides.handle_torch_function(Careful.forward, (x,), self, x)
        return self.attention(x, x, x, need_weights=False)[0]


def evaluate(x):
    model.eval()
    with torch.no_grad():
        found = model(x)
    model.train()
    return found


model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), Careful(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.randn(4, 5, 8), torch.randn(4, 5, 1)
answers = []
for _ in range(6):
    loss = F.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    answers.append(evaluate(x).sum().item())
    mode = Count()
    mode.__enter__()
    answers.append(evaluate(x).sum().item())
    try:
        evaluate(torch.randn(4, 5, 7))
    except Exception as error:
        print(type(error).__name__)
        model.train()
    with Count():
        answers.append(evaluate(x).sum().item())
    mode.__exit__(None, None, None)
    thread = threading.Thread(target=lambda: answers.append(evaluate(x).sum().item()))
    thread.start()
    thread.join()
    loss = F.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(answers)
print(sum(isinstance(mode, Count) for mode in _get_current_function_mode_stack()))
