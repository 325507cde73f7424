"""From the words of a line to settings, each of the type that a signature asks for."""

import ast
import inspect
from typing import Any

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
TOLD = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "Mapping": "a mapping, \"{'name': value}\"",
}
METAVARS = {
    "bool": "BOOLEAN",
    "int": "INTEGER",
    "float": "NUMBER",
    "str": "TEXT",
    "Mapping": "{...}",
    "Model": "NAME",
    "Task": "NAME",
}
MANY = ("Sequence", "list", "tuple")


def words_of(line: list[str]) -> dict[str, list[str]]:
    """--name value, --name several values, --name=value, --name alone; what is repeated adds up."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in line:
        if word.startswith("--") and len(word) > 2:
            name, given, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found.setdefault(name, []).extend([value] if given else [])
        elif not name:
            raise ValueError(f"{word!r} belongs to no option; options go by name: --name value.")
        else:
            found[name].append(word)
    return found


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def value_of(text: str) -> Any:
    """A number, None, a list, ... where the text is one; else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def free(words: list[str]) -> Any:
    """What words say where no type is known."""
    values = [value_of(word) for word in words]
    return True if not values else values[0] if len(values) == 1 else values


def typed(name: str, words: list[str], annotation: Any) -> Any:
    """The value of one setting, or a sentence that says what it takes."""
    kinds = kinds_of(annotation)
    if not words and ("bool" in kinds or "Any" in kinds):
        return True
    try:
        if not words:
            raise ValueError("nothing")
        if len(words) == 1:
            return _one(words[0], kinds)
        if "Any" in kinds:
            return free(words)
        many = next(kind for kind in MANY if kind in kinds)
        return _several(many, [_part(word, kinds[many]) for word in words])
    except (ValueError, StopIteration):
        given = " ".join(map(repr, words)) or "nothing"
        raise ValueError(f"{flag(name)} takes {told(kinds)}, not {given}.") from None


def kinds_of(annotation: Any) -> dict[str, dict]:
    """What an annotation allows, by name; of a sequence also what its parts may be."""
    if annotation is inspect.Parameter.empty:
        return {"Any": {}}
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _kinds(ast.parse(text.strip(), mode="eval").body)


def _kinds(tree: ast.expr) -> dict[str, dict]:
    if isinstance(tree, ast.BinOp):
        return _kinds(tree.left) | _kinds(tree.right)
    if isinstance(tree, ast.Constant):
        return kinds_of(tree.value) if isinstance(tree.value, str) else {"None": {}}
    if isinstance(tree, ast.Subscript):
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        inner = {name: more for part in parts for name, more in _kinds(part).items()}
        return dict.fromkeys(_kinds(tree.value), inner)
    if isinstance(tree, ast.Attribute):
        return {tree.attr: {}}
    return {tree.id: {}} if isinstance(tree, ast.Name) else {"Any": {}}


def _one(word: str, kinds: dict[str, dict]) -> Any:
    """A word as one of the kinds; the narrow ones are tried first."""
    value = value_of(word)
    plain = {kind for kind in kinds if kind in ("None", *TOLD, *MANY)}
    if value is None and "None" in kinds:
        return None
    if "bool" in kinds and word.lower() in YES + NO:
        return word.lower() in YES
    if _is_number(value, kinds) or isinstance(value, dict) and "Mapping" in kinds:
        return value
    many = next((kind for kind in MANY if kind in kinds), "")
    single = isinstance(value, tuple) and "Any" in kinds.get(many, {})  # such as a head, (3, 1)
    if isinstance(value, (list, tuple)) and many:
        return _several(many, [value] if single else list(value))
    if "str" in kinds:
        return value if isinstance(value, str) else word
    if len(plain) < len(kinds):  # Any, a class, a function: what it is the analysis will tell
        return value
    if many:
        return _several(many, [_part(word, kinds[many])])
    raise ValueError(word)


def _part(word: str, kinds: dict[str, dict]) -> Any:
    """One of several; where any value may stand, 3.1 is the name of a head."""
    value = _one(word, kinds)
    return word if "Any" in kinds and isinstance(value, float) else value


def _several(many: str, values: list[Any]) -> Any:
    return tuple(values) if many == "tuple" else values


def _is_number(value: Any, kinds: dict[str, dict]) -> bool:
    if isinstance(value, bool):
        return False
    return (
        isinstance(value, int)
        and not kinds.keys().isdisjoint(("int", "float"))
        or (isinstance(value, float) and "float" in kinds)
    )


def told(kinds: dict[str, dict]) -> str:
    """What a setting takes, in words."""
    said = [TOLD[kind] for kind in TOLD if kind in kinds]
    inner = next((kinds[kind] for kind in MANY if kind in kinds), None)
    if inner is not None:
        said.append(f"several: {told(inner)} each" if inner else "several values")
    said += ["None"] if "None" in kinds else []
    return " or ".join(said) or "a value"


def metavar(annotation: Any) -> str:
    """What stands behind an option in its help."""
    kinds = kinds_of(annotation)
    said = [METAVARS[kind] for kind in METAVARS if kind in kinds]
    inner = next((kinds[kind] for kind in MANY if kind in kinds), None)
    if inner is not None:
        parts = [METAVARS.get(kind, "VALUE") for kind in inner if kind != "None"] or ["VALUE"]
        said = [one for one in said if one not in parts] + [f"{'|'.join(parts)}..."]
    return "|".join(said) or "VALUE"
