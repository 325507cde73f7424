"""The tables of a repair."""

from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.repair.asked import Asked
from analyses.repair.effects import Effects, heads_rows, paired
from analyses.repair.runs import Conditions, Outcome, named
from interp.statistics import paired_shares, wilson


def main_table(asked: Asked, found: Conditions) -> Any:
    """A row for each condition, and one for all random draws."""
    plain = found.named["plain"]
    rows = [_row(name, asked, one, plain) for name, one in found.named.items()]
    if found.draws:
        rows.append(_random(asked, found))
    return pandas.DataFrame(rows)


def _row(name: str, asked: Asked, one: Outcome, plain: Outcome) -> dict[str, Any]:
    gain = float(one.right.double().mean() - plain.right.double().mean())
    changed = _mended(one, plain)
    ends = paired_shares(changed["mended"], changed["broken"], len(one.right))
    ends = (0.0, 0.0) if name == "plain" else ends  # it is what gains are over
    heads = {"plain": [], "repaired": asked.heads, "elsewhere": asked.heads}.get(name)
    listed = [name] if heads is None else [named(head) for head in heads]
    row: dict[str, Any] = {"condition": name, "heads": " ".join(listed)}
    row |= _share("accuracy", one.right) | {
        "gain": gain, "gain_low": ends[0], "gain_high": ends[1],
    }  # fmt: skip
    row |= _share("options", one.options)
    metric = paired(one.metric)
    row |= {
        "metric": metric["change"], "metric_low": metric["change_low"],
        "metric_high": metric["change_high"],
    }  # fmt: skip
    return row | changed


def _mended(one: Outcome, plain: Outcome) -> dict[str, int]:
    return {
        "mended": int((one.right & ~plain.right).sum()),
        "broken": int((~one.right & plain.right).sum()),
    }


def _share(name: str, right: Tensor) -> dict[str, float]:
    low, high = wilson(int(right.sum()), len(right))
    return {name: float(right.double().mean()), f"{name}_low": low, f"{name}_high": high}


def draws_table(found: Conditions) -> Any:
    """Each random draw: which heads, and what they did."""
    plain, rows = found.named["plain"], []
    for heads, one in found.draws:
        right = float(one.right.double().mean())
        rows.append({
            "heads": " ".join(named(head) for head in heads), "accuracy": right,
            "gain": right - float(plain.right.double().mean()),
            "options": float(one.options.double().mean()),
            "metric": float(one.metric.mean()), **_mended(one, plain),
        })  # fmt: skip
    columns = ["heads", "accuracy", "gain", "options", "metric", "mended", "broken"]
    return pandas.DataFrame(rows, columns=columns)


def _random(asked: Asked, found: Conditions) -> dict[str, Any]:
    """Means over draws; ends are the worst and the best draw."""
    drawn = draws_table(found)
    row: dict[str, Any] = {
        "condition": "random",
        "heads": f"{len(drawn)} draws of {len(asked.heads)}",
    }
    for name in ("accuracy", "gain", "options", "metric"):
        row[name] = float(drawn[name].mean())
        row[f"{name}_low"], row[f"{name}_high"] = float(drawn[name].min()), float(drawn[name].max())
    return row | {name: float(drawn[name].mean()) for name in ("mended", "broken")}


def heads_table(asked: Asked, effects: Effects) -> Any:
    """Each head of the model: importance, and direct effect before and after."""
    return pandas.DataFrame(heads_rows(asked, effects))


def records_table(asked: Asked, found: Conditions) -> Any:
    """Each record that is reported, plain and repaired; `record` is its number in the task as given."""
    plain, after = found.named["plain"], found.named["repaired"]
    tokenizer = asked.model.tokenizer
    columns: dict[str, Any] = {"record": range(asked.first, asked.first + asked.total)}
    for when, one in (("plain", plain), ("repaired", after)):
        columns[f"{when}_said"] = [tokenizer.decode([token]) for token in one.said.tolist()]
        columns[f"{when}_right"] = one.right.tolist()
        columns[f"{when}_options"] = one.options.tolist()
        columns[f"{when}_metric"] = one.metric.tolist()
    columns["mended"] = (after.right & ~plain.right).tolist()
    columns["broken"] = (~after.right & plain.right).tolist()
    return pandas.DataFrame(columns)


def tensors(found: Conditions) -> dict[str, Tensor]:
    """[condition, record]: rows of the table without "random", then the draws."""
    every = [*found.named.values(), *(one for _, one in found.draws)]
    return {
        "right": torch.stack([one.right for one in every]),
        "metric": torch.stack([one.metric for one in every]),
    }
