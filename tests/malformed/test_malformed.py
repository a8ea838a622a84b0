"""Whatever is wrong with a call, the error names it, and says what is needed, what was found, and what to do."""

import copy
import inspect
import random
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cograd
from cograd.errors import BatchError, CogradError, shown
from cograd.training import loggers

MODULES = (cograd, cograd.weighting, cograd.gramian, cograd.training, loggers)

# What cograd makes and users read; what is there to be derived from.
NOT_CALLED = {"Best", "Explanation", "Gramian", "Models", "Pass", "Plan", "Report", "Run", "Seen", "Series", "StepPlan"}
NOT_CALLED |= {"Criterion", "Engine", "JacobianWeighting", "Logger", "StepReport", "Weighting"}
# What cograd calls of a rule, an engine, a criterion, a phase, a logger, with arguments of its own.
BY_COGRAD = {"add", "after", "before", "check", "check_state", "commit", "direction", "due", "found", "held", "init"}
BY_COGRAD |= {"log", "measure", "objection", "read", "share", "start", "updates", "weigh", "weight"}
# Handed on as they are to a package, which judges them: wandb.init(**init).
HANDED_ON = {"WandB"}


def public():
    """Name -> everything public that takes arguments from a user."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            thing = getattr(module, name)
            if inspect.ismodule(thing) or name in HANDED_ON or not hasattr(thing, "__module__"):
                continue
            if not isinstance(thing, type):
                found[name] = thing
                continue
            if issubclass(thing, BaseException):
                continue
            if name not in NOT_CALLED:
                found[name] = thing
            methods = [m for m in vars(thing) if (not m.startswith("_") and m not in BY_COGRAD) or m == "__call__"]
            if module is not loggers:  # those are called by fit
                found |= {f"{name}.{m}": f for m in methods if inspect.isfunction(f := getattr(thing, m))}
    return {name: thing for name, thing in found.items() if callable(thing)}


def keywords(thing):
    """What can be given by keyword; ``"*"`` for what is given by position alone, ``"**"`` for any keyword."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    try:
        parameters = inspect.signature(thing).parameters.values()
    except ValueError:  # a type alias
        return set()
    return {stars.get(p.kind, p.name) for p in parameters} - {"self"}


@pytest.mark.parametrize("name", public())
def test_every_public_keyword_has_a_good_call(good_calls, name):
    wanted = keywords(public()[name])
    has = {k for key, good in good_calls.items() if key.split(" of ")[0] == name for k in good.arguments()}
    lacking = wanted - has - {"**"}
    assert not lacking, f"add {sorted(lacking)} of {name} to GOOD in tests/malformed/conftest.py"
    assert "**" not in wanted or len(has) >= len(wanted)


def test_a_good_call_works(good_call):
    good_call(good_call.arguments())


# -- bad values ------------------------------------------------------------------------------------------------------


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no repr")


class Plain:
    """It has nothing."""


def spent():
    """A generator that was read already."""
    made = (n for n in (1,))
    list(made)
    return made


POOL = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1j": lambda: 1j,
    "text": lambda: "banana",
    "empty text": lambda: "",
    "bytes": lambda: b"gen",
    "empty list": list,
    "empty dict": dict,
    "list of numbers": lambda: [1, 2],
    "list in a list": lambda: [["gen"]],
    "a mapping of others": lambda: {"banana": 1},
    "a mapping of numbers": lambda: {3: 3},
    "a set": lambda: {"gen"},
    "a read generator": spent,
    "a number as tensor": lambda: torch.tensor(1.0),
    "a tensor": lambda: torch.ones(2, 3),
    "an array": lambda: np.ones(2),
    "an object": Plain,
    "an object without repr": Unprintable,
    "a class": lambda: Plain,
    "a module": lambda: nn.Linear(1, 1),
    "a function of nothing": lambda: lambda: None,
    "a function of four": lambda: lambda a, b, c, d: None,
    "...": lambda: ...,
}


def misspelt(text):
    return text[:-2] + text[:-3:-1] if len(set(text[-2:])) == 2 else text + "x"


def giving(value):
    def gives(*_):
        return value

    return gives


def some(kinds):
    return {kind: POOL[kind]() for kind in kinds}


def kin(good):
    """Kind -> a bad value that is nearly ``good``."""
    if isinstance(good, bool):
        return {"the word": str(good), "as a number": int(good)}
    if isinstance(good, int | float):
        return {"negative": -good or -1, "as text": str(good), "with a fraction": good + 0.5, "in a list": [good]}
    if isinstance(good, str):
        found = {"misspelt": misspelt(good), "in capitals": good.upper(), "in a list of lists": [[good]]}
        return found | {"as bytes": good.encode(), "in a set of tuples": {(good,)}}
    if isinstance(good, dict) and good:
        key, value = next(iter(good.items()))
        rest = {k: v for k, v in good.items() if k != key}
        keys = {
            "misspelt": misspelt(key) if isinstance(key, str) else "banana",
            "that is a number": 3,
            "without repr": Unprintable(),
            "that is a tuple": (key, "x"),
        }
        found = {f"a key {kind}": {other: value} | rest for kind, other in keys.items()}
        found |= {"its keys": list(good), "its items": iter(good.items()), "a key too few": rest}
        odd = kin(value) | some(("None", "an object without repr", "nan", "a tensor", "empty list", "text", "a class"))
        return found | {f"one value {kind}": {key: bad} | rest for kind, bad in odd.items()}
    if isinstance(good, list | tuple) and good:
        kind, read = type(good), iter(good)
        list(read)
        found = {"read": read, "nested": kind([kind(good)]), "in a mapping": {"0": good[0]}}
        odd = some(("None", "an object without repr", "text"))
        return found | {f"with {name}": kind([*good[:-1], bad]) for name, bad in odd.items()}
    if isinstance(good, Tensor):
        found = {"detached": good.detach(), "a number": 1.0, "an array": good.detach().numpy(), "whole": good.long()}
        return found | {"twice": torch.stack([good, good]), "nan": good * float("nan")}
    if inspect.isroutine(good):
        found = {"of nothing": lambda: good, "of four": lambda a, b, c, d: good, "its name": "good"}
        return found | {f"that gives {kind}": giving(bad) for kind, bad in some(("None", "text", "nan")).items()}
    return {} if isinstance(good, type) or good is None else {"its class": type(good), "its text": repr(good)}


NEAR, ANY = 6, 5  # values of each sort that are drawn for a keyword


def drawn(good, seed=0):
    """Keywords with kinds of bad values for them."""
    for keyword, value in good.arguments().items():
        if keyword != "self":
            draw, near = random.Random(f"{good.name} {keyword} {seed}"), list(kin(value))
            kinds = draw.sample(near, min(len(near), NEAR)) + draw.sample(list(POOL), ANY)
            yield from ((keyword, kind) for kind in dict.fromkeys(kinds))


def replaced(good, keyword, kind):
    """Good arguments but for one."""
    arguments = good.arguments()
    value = POOL[kind]() if kind in POOL else kin(arguments[keyword])[kind]
    arguments[keyword] = [value] if keyword == "*" and not isinstance(value, list) else value
    return arguments


def pictured(value):
    """All that a refused call must leave as it was."""
    if isinstance(value, nn.Module):
        state = [(p.detach().clone(), p.requires_grad, copy.deepcopy(p.grad)) for p in value.parameters()]
        return [state, [module.training for module in value.modules()]]
    if isinstance(value, torch.optim.Optimizer):
        return copy.deepcopy(value.state_dict())
    if isinstance(value, cograd.Joint):
        models = [pictured(value.models[name]) for name in value.models]
        return [models, copy.deepcopy(value.state_dict()), value.steps, dict(value.updates)]
    if isinstance(value, dict):
        return {key: pictured(part) for key, part in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [pictured(part) for part in value]
    return None


# -- what a message must hold ----------------------------------------------------------------------------------------

REQUIRES = re.compile(
    r"\b(must|needs?|takes?|maps|holds|names|has|have|is|are|cannot|does not|do not|did not|trains|looks at|monitors|"
    r"follows|lacks|was not|updates)\b"
)
SAYS_WHAT_TO_DO = re.compile(
    r"\b(must|as in|such as|[Dd]id you mean|takes?|takes either|is an?|maps|need each other|Known|Add|Bind|Build|Call|"
    r"Check|Choose|Convert|Declare|Give|Keep|Leave|Let|Load|Look|Make|Name|Pass|Put|Reduce|Rename|Resume|Return|Run|Take|"
    r"Use|To)\b"
)
ABSENT = {"None", "no", "not", "none", "neither", "nothing", "without", "empty", "needs", "lacks", "at least", "Give"}
NOTHING_TO_SHOW = {"a key too few", "read", "a read generator", "empty list", "empty dict", "empty text", "None"}


def traces(value, depth=2):
    """What a message may show of ``value``."""
    found = {shown(value), type(value).__name__, str(value) if isinstance(value, str) else ""}
    if isinstance(value, bytes):
        found |= set(map(str, value))  # as Python iterates it
    elif isinstance(value, Unprintable):
        found.add("whose repr fails")
    elif isinstance(value, Tensor | np.ndarray):
        found |= {" ".join(repr(value).split()), str(tuple(value.shape)), str(list(value.shape)), str(value.dtype)}
    elif isinstance(value, nn.Module):
        found |= {str(tuple(p.shape)) for p in value.parameters()}
    elif depth and isinstance(value, dict):
        found |= {t for part in (*value.keys(), *value.values()) for t in traces(part, depth - 1)}
    elif depth and isinstance(value, list | tuple | set):
        found |= {t for part in value for t in traces(part, depth - 1)}
    elif getattr(value, "__name__", "") == "gives":
        found |= traces(value())
    elif callable(value):
        found |= {getattr(value, "__name__", "")}
    return found - {""}


def holds(message, words):
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) for word in words)


def lacks(message, name, keyword, kind, value):
    """What a message does not say."""
    absent = ABSENT if kind.removeprefix("one value ").removeprefix("with ") in NOTHING_TO_SHOW else set()
    found = traces(value) | absent
    says = {
        "the name": holds(message, {keyword, keyword.rstrip("s"), *name.split(" of ")[0].split(".")} | found)
        or keyword == "*",
        "what is needed": REQUIRES.search(message),
        "what was found": holds(message, found),
        "what to do": SAYS_WHAT_TO_DO.search(message) or "; found" in message,
        "it in few words": message.count("\n") < 12 and max(map(len, message.split("\n"))) < 600,
    }
    return [what for what, said in says.items() if not said]


def test_a_malformed_call_is_refused_in_words(good_call, same):
    """Or it works, and is known to."""
    faults = []
    for keyword, kind in drawn(good_call):
        arguments = replaced(good_call, keyword, kind)
        before = pictured(arguments)
        where = f"{good_call.name}({keyword}={kind})"
        made = False
        try:
            result = good_call.make(arguments)
            made = True
            good_call.use(result)
        except CogradError as error:
            message = str(error)
            missing = lacks(message, good_call.name, keyword, kind, arguments[keyword])
            if missing and not good_call.takes(keyword, kind):
                faults.append(f"{where} does not say {' or '.join(missing)}: {message}")
            if not made and not isinstance(error, BatchError):  # that comes after batches which went well
                same(before, pictured(arguments))
        except Exception as error:
            if not any(note.startswith(("This was in ", "That is from ")) for note in getattr(error, "__notes__", ())):
                faults.append(f"{where} raises a bare {type(error).__name__}: {error}")
        else:
            if not good_call.takes(keyword, kind):
                faults.append(f"{where} is accepted")
    assert not faults, "\n".join(faults)


def test_there_are_enough_of_them(good_calls):
    calls = [(name, keyword) for name, good in good_calls.items() for keyword, _ in drawn(good)]
    assert len(calls) >= 300
    assert min(calls.count(one) for one in calls) >= 5
