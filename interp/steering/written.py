"""An intervention as a line of text: `VAR`, `PASTA(highlight='key', heads='heads.json')`."""

import ast
import inspect
from typing import Any

from interp.interventions import INTERVENTIONS
from interp.registry import unknown
from interp.steering.intervention import Intervention

EXAMPLE = "VAR or PASTA(highlight='key', alpha=0.01)"


def written(text: str) -> Intervention:
    """The intervention that a line names; settings are numbers, strings, lists and the like, by name."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"{text!r} names no intervention; write {EXAMPLE}.") from None
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    if not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(f"{text!r}: settings go by name, as in {EXAMPLE}.")
    kind = INTERVENTIONS[call.func.id]
    known = list(inspect.signature(kind).parameters)
    given = {}
    for setting in call.keywords:
        if setting.arg not in known:
            raise LookupError(unknown(f"setting of {call.func.id}", setting.arg, known))
        given[setting.arg] = _value(text, setting)
    return kind(**given)


def _value(text: str, setting: ast.keyword) -> Any:
    try:
        return ast.literal_eval(setting.value)
    except ValueError:
        raise ValueError(
            f"{text!r}: {setting.arg} is a number, a string, a list or the like, not "
            f"{ast.unparse(setting.value)!r}."
        ) from None
