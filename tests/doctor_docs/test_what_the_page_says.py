"""What the page on fifteen loops says of variants of its scripts: the cures cure, and the false ones do not."""

import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMINE = runpy.run_path(str(ROOT / "docs" / "loops.py"))["examine"]

LATE_LOSS = "    painter_loss = F.binary_cross_entropy_with_logits(judge(painted), yes)\n"
LATE_STEP = "    opt_judge.step()\n"
STEP_AT_THE_END = ("    opt_painter.step()\n", "    opt_painter.step()\n" + LATE_STEP)
TWO_LAYERS = "nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4))"
AGAIN = "    opt_upper.zero_grad()\n    loss = F.mse_loss(upper(lower(x)), y)\n"


def changed(name, *changes):
    """The text of a script, with each ``(old, new)`` put into it."""
    text = (ROOT / "docs" / "fifteen_loops" / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def weights(text, *names):
    """All parameters of these models, after the script has run."""
    left: dict = {}
    exec(text, left)
    return torch.cat([p.detach().flatten() for name in names for p in left[name].parameters()])


@pytest.mark.parametrize(
    ("name", "changes", "rules"),
    [
        ("02_gan.py", [("judge_loss.backward()", "judge_loss.backward(retain_graph=True)")], ["step-before-backward"]),
        ("02_gan.py", [(LATE_STEP, ""), STEP_AT_THE_END], ["leaked-gradient"]),
        ("02_gan.py", [(LATE_LOSS, ""), (LATE_STEP, LATE_STEP + LATE_LOSS)], []),
        ("05_two_views.py", [("fine(shaped)", "fine(signal.unsqueeze(1))")], []),
        ("10_taking_turns.py", [("nn.Linear(9, 4)", TWO_LAYERS)], ["step-before-backward"]),
        ("10_taking_turns.py", [("retain_graph=True", ""), ("    opt_upper.zero_grad()\n", AGAIN)], []),
        ("12_agreement.py", [("(first - second)", "(first - second).mean()")], []),
        ("15_normalised.py", [(".mean()", ".detach()")], []),
    ],
)
def test_variants(name, changes, rules, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / name
    path.write_text(changed(name, *changes))
    report = EXAMINE(str(path))
    assert [f.rule for f in report.findings if f.severity in ("error", "warning")] == rules
    assert report.outcome == ("raised" if "step-before-backward" in rules else "finished")


def test_one_backward_or_two():
    apart = changed("06_one_backward.py", ("both.backward()", "demand_loss.backward()\n    weather_loss.backward()"))
    names = "demand", "weather"
    assert torch.equal(weights(changed("06_one_backward.py"), *names), weights(apart, *names))
    together = changed(
        "01_two_networks.py",
        ("    speech_loss.backward()\n    opt_speech.step()\n", ""),
        ("photo_loss.backward()", "(speech_loss + photo_loss).backward()"),
        ("    opt_photo.step()\n", "    opt_speech.step()\n    opt_photo.step()\n"),
    )
    names = "speech", "photo"
    assert torch.equal(weights(changed("01_two_networks.py"), *names), weights(together, *names))


def test_weights_of_losses_that_share_nothing_do_nothing():
    other = changed("09_fixed_weights.py", ("0.8 * price_loss + 0.2 *", "80 * price_loss + 0.002 *"))
    here = weights(changed("09_fixed_weights.py"), "price", "colour")
    assert (here - weights(other, "price", "colour")).abs().max() < 1e-4


def test_nobody_takes_turns():
    first = "    loss.backward(retain_graph=True)\n    opt_lower.step()\n"
    both = "    opt_lower.step()\n    opt_upper.step()\n"
    once = changed("10_taking_turns.py", (first, ""), ("    opt_upper.step()\n", both))
    turns = changed("10_taking_turns.py", ("retain_graph=True", ""), ("    opt_upper.zero_grad()\n", AGAIN))
    here = weights(changed("10_taking_turns.py"), "lower", "upper")
    assert torch.equal(here, weights(once, "lower", "upper"))
    assert not torch.equal(here, weights(turns, "lower", "upper"))


def test_a_normalised_loss_trains_nothing():
    text = changed("15_normalised.py")
    start = text.partition("for epoch")[0]
    assert torch.equal(weights(text, "net"), weights(start, "net"))
    assert not torch.equal(weights(text.replace(".mean()", ".detach()"), "net"), weights(start, "net"))
