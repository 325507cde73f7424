"""Which heads are written over: those that mend most alone, on records that are not reported."""

from dataclasses import replace

import pandas

from analyses.repair.asked import Asked
from analyses.repair.runs import Told, hiding, outcomes


def chosen(asked: Asked) -> Asked:
    """Heads as they were given, or the best by accuracy (ties by the metric) on the choosing records."""
    if asked.heads is not None:
        return asked
    hidden = hiding(asked, (*asked.learned, *asked.judged))
    heads = [head for head in asked.all_heads if head[0] not in hidden]
    if asked.size > len(heads):
        raise ValueError(
            f"size={asked.size}: there are {len(heads)} heads that see all places; ask for fewer."
        )
    if hidden:
        asked.remarks.append(
            f"Heads of layers {sorted(hidden)} were no candidates: their window hides some places."
        )
    told = [Told(), *(Told((head,)) for head in heads)]
    plain, *alone = outcomes(asked, asked.learned, told)
    rows = []
    for (layer, head), found in zip(heads, alone, strict=True):
        rows.append({
            "layer": layer, "head": head,
            "accuracy": float(found.right.double().mean()),
            "metric": float(found.metric.mean()),
            "mended": int((found.right & ~plain.right).sum()),
            "broken": int((~found.right & plain.right).sum()),
        })  # fmt: skip
    table = pandas.DataFrame(rows).sort_values(
        ["accuracy", "metric"], ascending=False, ignore_index=True
    )
    table["chosen"] = table.index < asked.size
    table["plain"] = float(plain.right.double().mean())
    best = table[table["chosen"]]
    taken = sorted(zip(best["layer"].tolist(), best["head"].tolist(), strict=True))
    return replace(asked, heads=taken, choosing=table)
