"""What a run shows: what is on a screen of some width, what is in a log file, and how little is asked for it."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import pytest

from cograd.training import _pace, _progress
from cograd.training._progress import progress

NAMES = ["digit", "sum", "reconstruction", "adversarial", "perceptual", "kl", "cycle", "identity", "smooth", "l1"]
NAMES += ["style", "depth"]


class Clock:
    now = 1000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when told to."""
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    monkeypatch.setattr(_pace, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def terminal(monkeypatch):
    """``terminal(columns)``: from now on stdout counts as a terminal of that width."""

    def make(columns):
        variables = {"TTY_COMPATIBLE": "1", "COLUMNS": str(columns), "LINES": "50"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return make


def on_screen(out, columns):
    """What is to be seen after ``out`` was sent to a terminal, and whether its cursor is."""
    lines, row, column, cursor = [""], 0, 0, True
    for control, letter, character in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", out, re.DOTALL):
        if letter == "A":
            row -= int(control or 1)
        elif letter == "K":
            lines[row] = ""
        elif letter in "hl" and letter:
            assert control == "?25"
            cursor = letter == "h"
        elif letter:
            assert letter == "m"
        elif character == "\r":
            column = 0
        elif character == "\n" or column == columns:
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        if character and character not in "\r\n":
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines], cursor


def values(count, weight=1.0):
    losses = {f"loss/{name}": 0.31 / (i + 1) ** 3 for i, name in enumerate(NAMES[:count])}
    return losses | {f"weight/{name}": weight for name in NAMES[:count]}


def run(clock, steps, per_step=1 / 64, first=1, per_epoch=100, found=None, total=None, epochs=None, show=None):
    """Steps ``first``, …, ``steps``, each of which takes that long. Returns at which steps values were asked for."""
    asked = []

    def ask(step):
        asked.append(step)
        return found or {"loss/a": 0.5}

    def go(show):
        for step in range(first, steps + 1):
            clock.now += per_step
            show.step(step, (step - 1) // per_epoch, lambda step=step: ask(step))

    if show is not None:
        go(show)
    else:
        with progress(True, total, epochs, first - 1) as show:
            go(show)
    return asked


def fail(clock, steps, error):
    with progress(True, 100, 1, 0) as show:
        run(clock, steps, show=show)
        show.step(steps + 1, 0, lambda: pytest.fail("the run has failed"))
        raise error


# -- nothing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_nothing(terminal, capfd):
    terminal(80)
    with progress(False, 10, 1, 0) as show:
        show.step(1, 0, lambda: pytest.fail("nobody sees these values"))
        show.validated({"val/a": 1.0}, 1)
        show.note("a note")
    assert capfd.readouterr() == ("", "")


# -- a log file ------------------------------------------------------------------------------------------------------


def test_a_log_file_gets_a_line_in_ten_seconds_and_a_last_one(clock, capsys):
    asked = run(clock, 1600, per_epoch=10_000, total=3201, epochs=1, found=values(2, weight=0.5))
    assert asked == [1, 641, 1281, 1600]
    losses = "loss/digit 0.31  loss/sum 0.03875  weight/digit 0.5  weight/sum 0.5"
    assert capsys.readouterr().out.splitlines() == [
        f"epoch 1/1  step 1/3201  {losses}",
        f"epoch 1/1  step 641/3201  64.0 steps/s  0:00:40 left  {losses}",
        f"epoch 1/1  step 1281/3201  64.0 steps/s  0:00:30 left  {losses}",
        f"epoch 1/1  step 1600/3201  64.0 steps/s  took 0:00:25  {losses}",
    ]


def test_a_log_file_gets_a_line_for_each_epoch_unless_they_are_short(clock, capsys):
    assert run(clock, 800, per_epoch=200, total=800, epochs=4) == [1, 201, 401, 601, 800]
    assert run(clock, 800, per_epoch=32, total=800, epochs=25) == [1, *range(65, 800, 64), 800]
    assert "epoch 4/4  step 601/800" in capsys.readouterr().out


def test_after_the_last_epoch_there_is_no_further_one(clock, capsys):
    run(clock, 1, per_epoch=1, total=2, epochs=2)
    with progress(True, 2, 2, 1) as show:
        show.step(2, 2, dict)
    assert capsys.readouterr().out.splitlines()[-1].startswith("epoch 2/2  step 2/2")


def test_twelve_losses_are_one_line(clock, capsys):
    run(clock, 1, found=values(12, weight=0.5))
    first, last = capsys.readouterr().out.splitlines()
    for line in (first, last):
        assert all(f"loss/{name} " in line and f"weight/{name} " in line for name in NAMES)


def test_weights_that_do_nothing_are_left_out(clock, capsys):
    run(clock, 1, found=values(2, weight=1.0))
    assert "weight" not in capsys.readouterr().out


def test_what_is_not_known_is_left_out(clock, capsys):
    run(clock, 960, per_epoch=10_000)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1  step 1  0:00:00  loss/a 0.5",
        "epoch 1  step 641  64.0 steps/s  0:00:10  loss/a 0.5",
        "epoch 1  step 960  64.0 steps/s  took 0:00:15  loss/a 0.5",
    ]


def test_the_speed_is_that_of_this_process_and_of_late(clock, capsys):
    with progress(True, 8201, None, 5000) as show:
        run(clock, 5641, first=5001, show=show, per_epoch=10_000)
        run(clock, 5800, first=5642, per_step=60.0, show=show, per_epoch=10_000)
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert "step 5001/8201  loss" in first
    assert "step 5641/8201  64.0 steps/s  0:00:40 left" in second
    assert "step 5800/8201  60.0 s/step  took 2:39:10" in last


def test_validations_and_notes_are_lines(clock, capsys):
    with progress(True, 10, 1, 0) as show:
        show.validated({"val/digit": 0.25, "val/accuracy": 0.9}, 1200)
        show.note("checkpoint [red]failed[/red]: " + "no space " * 50)
    assert capsys.readouterr().out.splitlines() == [
        "step 1200  val/digit 0.25  val/accuracy 0.9",
        "checkpoint [red]failed[/red]: " + "no space " * 50,
    ]


def test_a_run_without_steps_prints_nothing(capsys):
    with progress(True, 10, 1, 10):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}], ids=str)
def test_where_nothing_can_be_redrawn_there_are_plain_lines(variables, clock, terminal, monkeypatch, capsys):
    if "FORCE_COLOR" not in variables:
        terminal(80)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run(clock, 2, total=2, epochs=1)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines()[0] == "epoch 1/1  step 1/2  loss/a 0.5"


def test_a_failed_run_prints_no_last_line(clock, capsys):
    with pytest.raises(ZeroDivisionError):
        fail(clock, 5, ZeroDivisionError)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_letters_that_the_screen_does_not_have_are_spelled_out(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with progress(True, 10, 1, 0) as show:
        show.note("größe")
        show.step(1, 0, lambda: {"loss/größe": 1.0})
    assert out.buffer.getvalue().decode().startswith("gr\\xf6\\xdfe\nepoch 1/1  step 1/10  loss/gr\\xf6\\xdfe 1\n")


# -- a terminal ------------------------------------------------------------------------------------------------------


def test_two_losses_at_80_columns(clock, terminal, capsys):
    terminal(80)
    with progress(True, 1000, 10, 0) as show:
        run(clock, 250, show=show, found=values(2, weight=0.5))
        show.validated({"val/digit": 0.25, "val/accuracy": 0.913}, 200)
        run(clock, 300, first=251, show=show, found=values(2, weight=0.5))
        out = capsys.readouterr().out
    screen, cursor = on_screen(out, 80)
    assert not cursor
    assert re.fullmatch(r"epoch 3/10  ━+╸?╺?━+  300/1000  64.0 steps/s  0:00:11 left", screen[0]), screen[0]
    assert screen[1:] == [
        "loss    digit       0.31   sum      0.03875",
        "weight  digit        0.5   sum          0.5",
        "val     digit       0.25   accuracy   0.913",
    ]
    screen, cursor = on_screen(out + capsys.readouterr().out, 80)
    assert cursor
    assert re.fullmatch(r"epoch 3/10  ━+╸?╺?━+  300/1000  64.0 steps/s  took 0:00:05", screen[0]), screen[0]
    assert len([line for line in screen if line]) == 4


@pytest.mark.parametrize("columns", [120, 80, 40, 25, 10])
@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize(("total", "epochs"), [(1000, 10), (None, 10), (None, None)])
def test_nothing_is_wider_than_the_screen(columns, count, total, epochs, clock, terminal, capsys):
    terminal(columns)
    run(clock, 300, found=values(count, weight=0.5), total=total, epochs=epochs)
    out = capsys.readouterr().out
    screen, cursor = on_screen(out, 10_000)
    assert cursor
    assert max(map(len, screen)) <= columns
    assert screen[0].startswith("epoch 3")
    assert len([line for line in screen if line.startswith("epoch")]) == 1  # each frame was drawn over the one before
    if columns >= 80:
        assert all(sum(f" {name} " in line for line in screen) == 2 for name in NAMES[:count])
    assert ("and 7 more" in " ".join(screen)) == (columns in (40, 25) and count == 12)


def test_columns_are_aligned_and_do_not_jump(clock, terminal, capsys):
    terminal(80)
    with progress(True, 1000, 10, 0) as show:
        run(clock, 1, show=show, found={"loss/a": 1.23456e-10, "loss/bb": 1.0})
        out = capsys.readouterr().out
        run(clock, 100, show=show, first=2, found={"loss/a": float("nan"), "loss/bb": float("inf")})
    before, _ = on_screen(out, 80)
    after, _ = on_screen(out + capsys.readouterr().out, 80)
    assert before[1] == "loss  a  1.235e-10   bb         1"
    assert after[1] == "loss  a        nan   bb       inf"


def test_without_a_total_the_epochs_move_the_bar(clock, terminal, capsys):
    terminal(80)
    run(clock, 200, epochs=2)
    screen, _ = on_screen(capsys.readouterr().out, 80)
    assert re.fullmatch(r"epoch 2/2  ━+  step 200  64\.0 steps/s  took 0:00:03", screen[0]), screen[0]


def test_the_bar_is_there_before_the_first_batch(terminal, capsys):
    terminal(80)
    with progress(True, 1000, 10, 0):
        screen, _ = on_screen(capsys.readouterr().out, 80)
        assert screen == ["epoch 1/10  " + "━" * 40 + "  0/1000"]


def test_the_time_of_loading_the_first_batch_does_not_count(clock, terminal, capsys):
    terminal(80)
    with progress(True, 1000, 10, 0) as show:
        clock.now += 3600
        run(clock, 100, show=show)
        screen, _ = on_screen(capsys.readouterr().out, 80)
    assert screen[0].endswith("64.0 steps/s  0:00:14 left")


def test_a_resumed_run_starts_where_it_was(terminal, capsys):
    terminal(80)
    with progress(True, 1000, 10, 500):
        screen, _ = on_screen(capsys.readouterr().out, 80)
        assert re.fullmatch(r"━{20}[╸╺]?━+  500/1000", screen[0]), screen[0]


def test_at_most_five_drawings_a_second_and_values_only_for_them(clock, terminal, capsys):
    terminal(80)
    asked = run(clock, 1000, per_step=0.001, total=1000)
    assert len(asked) == 6
    assert asked[-1] == 1000


def test_a_slow_terminal_is_drawn_to_less_often(clock, terminal, monkeypatch, capsys):
    from rich.live import Live

    def slowly(self):
        clock.now += 0.1

    terminal(80)
    monkeypatch.setattr(Live, "refresh", slowly)
    asked = run(clock, 1000, per_step=0.08, total=1000)
    assert len(asked) == 5  # a drawing takes 0.1 s, so 20 s lie between two


def test_notes_and_prints_stay_above_the_bar(clock, terminal, capsys):
    terminal(80)
    with progress(True, 100, 1, 0) as show:
        run(clock, 50, show=show)
        show.note("critic [bold]frozen[/bold]")
        print("by the user")
        run(clock, 100, first=51, show=show)
    screen, _ = on_screen(capsys.readouterr().out, 80)
    assert screen[:2] == ["critic [bold]frozen[/bold]", "by the user"]
    assert screen[2].startswith("epoch 1/1")
    assert screen[3].startswith("loss")


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failed_run_leaves_the_terminal_as_it_was(error, clock, terminal, capsys):
    terminal(80)
    before = sys.stdout, sys.stderr
    with pytest.raises(error):
        fail(clock, 50, error)
    assert (sys.stdout, sys.stderr) == before
    print("after")
    screen, cursor = on_screen(capsys.readouterr().out, 80)
    assert cursor
    assert [line[:5] for line in screen[:3]] == ["epoch", "loss ", "after"]


def test_an_error_of_the_values_is_not_hidden(clock, terminal, capsys):
    def broken():
        raise ZeroDivisionError

    for columns in (None, 80):
        if columns:
            terminal(columns)
        with pytest.raises(ZeroDivisionError), progress(True, 100, 1, 0) as show:
            show.step(1, 0, broken)


def test_no_thread_is_started(clock, terminal, capsys):
    terminal(80)
    before = threading.active_count()
    with progress(True, 100, 1, 0) as show:
        run(clock, 50, show=show)
        assert threading.active_count() == before


def test_a_terminal_in_a_notebook_gets_lines(clock, monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    run(clock, 1, total=2)
    assert capsys.readouterr().out.startswith("epoch 1  step 1/2")
