"""The draws are a script of their own, so that many more of them can be run than the tests do."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def draws():
    """The module ``draws``."""
    spec = importlib.util.spec_from_file_location("draws", Path(__file__).with_name("draws.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
