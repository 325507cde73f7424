"""`python -m docs.models`: run every family's tiny model and write docs/models.md from what was seen."""

from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("models.md")

HEAD = """# Models

Written by `python -m docs.models`; a test fails when a line is out of date.

Each family below is built as a tiny model from a config, with random weights and no download, and
held against its own eager code by `tests/test_conformance.py`: logits with every site read, and
patterns, within 1e-5 in float32; rows of the pattern sum to one; `z` through the output projection is
`attn_out`; a layer hands on what the next receives; with nothing asked, the logits are those of plain
attention to the bit. *Idle* is what a model runs on while nothing is asked. A site counts as changed
when changing it moved the logits, in at least one layer; layers that do not reach the logits (LLaVA
reads its vision tower below the top) are named by `model.points()`.

Any other transformers model that asks transformers for its attention is opened the same way: its
towers are found by structure, and `model.points()` proves each point on it.

| family | kind | idle | towers: layers x heads (KV heads) | sites read | sites changed |
|---|---|---|---|---|---|
"""

TAIL = """
Refused, with a message, because they compute attention by themselves: {outside}, and others without
transformers' attention interface. Refused because they build their mask by the name of the attention:
{named}. Cross attention has no residual sites of its own; those are the decoder's.
"""
OUTSIDE = ("bloom", "falcon", "gptj", "mpt")
BY_NAME = ("deepseek_v32", "glm_moe_dsa")


def towers(model: Any) -> str:
    parts = []
    for stack in model.stacks.values():
        shared = f" ({stack.kv_heads})" if stack.kv_heads != stack.heads else ""
        parts.append(f"{stack.name} {len(stack.layers)} x {stack.heads}{shared}")
    return ", ".join(parts)


def sites(points: Any, column: str) -> str:
    """`all`, or what is missing from which tower."""
    from interp.sites import SITES

    missing = []
    for stack, rows in points.groupby("stack", sort=False):
        lacking = [site for site in SITES if not rows[rows["site"] == site][column].any()]
        own = ("resid_pre", "mlp_out", "resid_post")
        if "cross" in str(stack):
            lacking = [site for site in lacking if site not in own]
        if lacking:
            missing.append(f"{stack}: {' '.join(lacking)}")
    return f"all but {'; '.join(missing)}" if missing else "all"


def line(family: Any, model: Any, points: Any) -> str:
    """The family's row, from a wrapped model and its proved points."""
    from interp.seam import OVER_SDPA

    idle = "SDPA" if model.config._attn_implementation == OVER_SDPA else "eager"
    cells = [family.name, family.kind, idle, towers(model), sites(points, "read"),
             sites(points, "change")]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def page(lines: list[str]) -> str:
    tail = TAIL.format(outside=", ".join(OUTSIDE), named=", ".join(BY_NAME))
    return HEAD + "\n".join(lines) + "\n" + tail


def main() -> None:
    import torch

    import interp
    from interp.families import FAMILIES

    torch.set_num_threads(1)  # tiny models lose more to hand-overs between threads than they gain
    lines = []
    for family in FAMILIES.values():
        model = interp.wrap(family.model())
        lines.append(line(family, model, model.points()))
    PAGE.write_text(page(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
