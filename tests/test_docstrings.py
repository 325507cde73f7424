"""Every public name says what it is in one line.

The first line of a docstring is a sentence: at most 110 characters, and it ends in . ? or :. A method
that overrides another may leave it to that one.
"""

import importlib
import inspect

import pytest

import interp
from analyses import ANALYSES
from interp.faults import FAULTS
from interp.interventions import INTERVENTIONS
from interp.metrics import METRICS
from interp.tasks import TASKS

LONGEST = 110
# Rooms that the documentation sends readers to; what they import from outside themselves is not theirs.
ROOMS = (
    "interp", "interp.attribution", "interp.circuits", "interp.credit", "interp.direct", "interp.edits",
    "interp.evaluation", "interp.families", "interp.faults", "interp.formats", "interp.gallery",
    "interp.importance", "interp.interventions", "interp.metrics", "interp.plots", "interp.propagation",
    "interp.readouts", "interp.replay", "interp.roles", "interp.statistics", "interp.steering.search",
    "interp.sweep", "interp.tasks", "interp.tracing", "interp.weights", "analyses",
)  # fmt: skip


def named():
    """Public things by name: rooms, what they hold, and what is registered."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        found[room] = module
        known = getattr(module, "__all__", None) or [*vars(module), *getattr(module, "MAPS", ())]
        for name in known:
            thing = getattr(module, name)
            own = inspect.isclass(thing) or inspect.isfunction(thing)
            if not name.startswith("_") and own and thing.__module__.startswith(room):
                found[f"{room}.{name}"] = thing
    found |= {f"ANALYSES {name}": function for name, function in ANALYSES.items()}
    found |= {f"METRICS {name}": metric for name, metric in METRICS.items()}
    found |= {f"INTERVENTIONS {name}": kind for name, kind in INTERVENTIONS.items()}
    found |= {f"TASKS {name}": generator.draw for name, generator in TASKS.items()}
    found |= {f"FAULTS {name}": type(fault) for name, fault in FAULTS.items()}
    return found


def members(thing):
    """Public methods and properties of a class, of ours."""
    for name in dir(thing) if inspect.isclass(thing) else ():
        value = inspect.getattr_static(thing, name)
        value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        code = value.fget if isinstance(value, property) else value
        own = inspect.isfunction(code) and code.__module__.startswith(("interp", "analyses"))
        # A function that is a dataclass field's default is a value, not a method.
        if (
            own
            and not name.startswith("_")
            and name not in getattr(thing, "__dataclass_fields__", ())
        ):
            yield name


def wrong(name, owner, member=None):
    """What is wrong with the docstring, or nothing."""
    thing = getattr(owner, member) if member else owner
    if member and isinstance(inspect.getattr_static(owner, member), property):
        thing = inspect.getattr_static(owner, member)
    said = inspect.getdoc(thing) or ""
    if (
        inspect.isclass(thing)
        and "__doc__" in vars(thing)
        and said.startswith(f"{thing.__name__}(")
    ):
        said = ""  # what a dataclass writes for itself
    inherited = inspect.isclass(thing) and not vars(thing).get("__doc__")
    line = said.split("\n")[0]
    if not line or inherited:
        return f"{name} has no docstring"
    if len(line) > LONGEST:
        return f"{name}: {len(line)} characters: {line}"
    return None if line[-1] in ".?:" else f"{name}: no sentence in one line: {line}"


PUBLIC = named()


@pytest.mark.parametrize(
    "room", [*ROOMS, "ANALYSES", "METRICS", "INTERVENTIONS", "TASKS", "FAULTS"]
)
def test_every_public_name_says_what_it_is(room):
    found = []
    for name, thing in PUBLIC.items():
        if name != room and name.rpartition("." if room in ROOMS else " ")[0] != room:
            continue
        found.append(wrong(name, thing))
        found += [wrong(f"{name}.{member}", thing, member) for member in members(thing)]
    assert found and not [one for one in found if one]


def test_the_rule_is_kept_by_breaking_it():
    class Bare:
        def said(self):
            """Fine."""

        def long(self):
            """A first line that breaks off in the middle of
            its sentence."""

        def silent(self): ...

    assert wrong("Bare", Bare) == "Bare has no docstring"
    assert wrong("said", Bare, "said") is None
    assert "no sentence" in str(wrong("long", Bare, "long"))
    assert wrong("silent", Bare, "silent") == "silent has no docstring"


def test_what_users_hold_is_looked_at():
    for name in ("Model", "Prompt", "Trace", "Task", "Record", "Result", "Hook", "At"):
        assert name in interp.__all__ and f"interp.{name}" in PUBLIC
    assert {"trace", "generate", "using", "sweep", "points"} <= set(members(interp.Model))
