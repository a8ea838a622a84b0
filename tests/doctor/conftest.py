"""What the tests of the doctor share: scripts that run in forked processes, where torch is imported already."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import warnings

import pytest
import torch
import torch._dynamo  # every first optimizer imports it, which takes a second

from cograd import diagnosis
from cograd.cli import main
from cograd.diagnosis import _render

collect_ignore = ["scripts"]  # not tests: half of them fail on purpose


def in_fork(work, *arguments):
    """``work(*arguments)`` in a process of its own; what it returns has to be JSON."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def run():
        try:
            answer = {"result": work(*arguments)}
        except BaseException as error:
            answer = {"error": repr(error)}
        there.send(json.dumps(answer))
        there.close()
        os._exit(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = context.Process(target=run)
        process.start()
    there.close()
    answer = json.loads(here.recv())
    process.join()
    if "error" in answer:
        raise AssertionError(answer["error"])
    return answer["result"]


def _silently(work):
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result = work()
    return result, out.getvalue(), err.getvalue()


def _examine(path, arguments, options):
    def work():
        ran = diagnosis.run(str(path), arguments, **options)
        report = diagnosis.diagnose(ran, perf=True)
        return _render.as_dict(report) | {"text": diagnosis.text(report), "code": ran.code, "events": len(ran.log)}

    result, out, err = _silently(work)
    return result | {"out": out, "err": err}


def _command(words):
    def work():
        try:
            return main(list(words))
        except SystemExit as stop:
            return stop.code

    code, out, err = _silently(work)
    return {"code": code, "out": out, "err": err}


@pytest.fixture
def examine():
    """``examine(path, *arguments, **options)``: the report on a script, as a dict, with what it printed."""
    return lambda path, *arguments, **options: in_fork(_examine, path, arguments, options)


@pytest.fixture
def command():
    """``command(*words)``: the exit code of ``cograd`` and what it printed."""
    return lambda *words: in_fork(_command, [str(word) for word in words])


@pytest.fixture
def script(tmp_path):
    """``script(text)``: a file with this text."""

    def write(text, name="train.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def fork():
    """``fork(work, *arguments)``: what a function returns in a process of its own."""
    return in_fork
