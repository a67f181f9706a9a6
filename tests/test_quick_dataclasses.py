"""Frozen dataclasses that share what refuses changes behave as those of Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
{first}
import copy, pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

@dataclass(frozen=True)
class Plain:
    a: int
    b: str = "b"

@dataclass(frozen=True, slots=True)
class Slots:
    a: int
    b: list = field(default_factory=list, compare=False)

@dataclass(frozen=True)
class Below(Plain):
    c: int = 3

class Ordinary(Plain):
    pass

@dataclass(frozen=True)
class Nothing:
    pass

def tried(made, name):
    told = []
    for change in (lambda: setattr(made, name, 5), lambda: delattr(made, name)):
        try:
            change()
            told.append(vars(made).copy() if hasattr(made, "__dict__") else "changed")
        except FrozenInstanceError as error:
            told.append(str(error))
        except TypeError:  # how Python's own refuse what is no field of a class with slots
            told.append(f"cannot {['assign to', 'delete'][len(told)]} field {name!r}")
    return told

ordinary = Ordinary(1)
for made in (Plain(1), Slots(1), Below(1), ordinary, Nothing()):
    print(type(made).__name__, [tried(made, name) for name in ("a", "b", "c")])
for made in (Plain(1), Slots(1), Below(1), ordinary):
    print(made, replace(made, a=7), copy.copy(made) == made, hash(made) == hash(copy.deepcopy(made)))
    print(pickle.loads(pickle.dumps(made)) == made)
try:
    @dataclass(frozen=True)
    class Own:
        a: int
        def __setattr__(self, name, value): pass
except TypeError as error:
    print(error)
"""


def printed(first: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT.replace("{first}", first)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_refuse_and_allow_the_same() -> None:
    stock = printed("")
    assert "cannot assign to field 'a'" in stock
    assert printed("import teleport.quick_dataclasses") == stock


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 makes these functions in another way")
def test_they_are_shared() -> None:
    code = (
        "import teleport.quick_dataclasses as quick; from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass A:\n    a: int\n"
        "assert A.__setattr__ is quick.__setattr__ and A.__delattr__ is quick.__delattr__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
