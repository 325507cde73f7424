"""What gradient estimates cost, in plain forwards of the same model. Prints one line of JSON, or a table.

GPT-2 small's shape with random weights, 8 pairs of 16 tokens, one thread, CPU seconds of the process.
Forwards and estimates run by turns, so that whatever disturbs the machine disturbs both.

python -m benchmarks.attribution --rounds 5
python -m benchmarks.attribution --table
"""

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch

import interp
from benchmarks.measure import cpu_seconds
from interp.attribution import atp, atp_star, eap, eap_ig_inputs
from interp.readouts import logit_diff

BATCH, LENGTH, WORDS, STEPS = 8, 16, 50257, 5
# In forwards: the goals of circuit discovery at this shape.
LIMITS = {"eap": 5.0, "eap_ig_inputs": 13.0}


def build() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The model, token ids, and ids with one token replaced."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, initializer_range=0.05)).eval()
    random = torch.Generator().manual_seed(1)
    clean = torch.randint(WORDS, (BATCH, LENGTH), generator=random)
    corrupted = clean.clone()
    corrupted[:, 3] = torch.randint(WORDS, (BATCH,), generator=random)
    return hf.requires_grad_(False), clean, corrupted


def ways(hf: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> dict[str, Callable[[], object]]:
    model = interp.wrap(hf)
    prompts = model.encode(clean), model.encode(corrupted)
    metric = logit_diff(list(range(BATCH)), list(range(BATCH, 2 * BATCH)))

    def forward() -> object:
        with torch.no_grad():
            return hf(clean, use_cache=False)

    return {
        "forward": forward,
        "atp": lambda: atp(model, *prompts, metric),
        "eap": lambda: eap(model, *prompts, metric),
        "eap_ig_inputs": lambda: eap_ig_inputs(model, *prompts, metric, steps=STEPS),
        "atp_star": lambda: atp_star(model, *prompts, metric),
    }


def measure(rounds: int) -> dict[str, Any]:
    asked = ways(*build())
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(rounds + 1):
        for name, call in asked.items():
            taken, _ = cpu_seconds(call)
            if number > 0:  # the first round warms up
                seconds[name].append(taken)
    forward = statistics.median(seconds["forward"])
    record: dict[str, Any] = {"batch": BATCH, "length": LENGTH, "steps": STEPS, "rounds": rounds}
    record["forward"] = forward
    for name in list(asked)[1:]:
        pairs = zip(seconds[name], seconds["forward"], strict=True)
        ratios = sorted(own / plain for own, plain in pairs)
        record[name] = {
            "forwards": statistics.median(ratios),
            "low": ratios[0],
            "high": ratios[-1],
            "limit": LIMITS.get(name),
        }
    return record


def table(record: dict[str, Any]) -> str:
    lines = ["| estimate | forwards (spread) | limit | |", "|---|--:|--:|---|"]
    for name, found in record.items():
        if not isinstance(found, dict):
            continue
        limit = found["limit"]
        held = "" if limit is None else "holds" if found["forwards"] <= limit else "MISSED"
        lines.append(
            f"| {name} | {found['forwards']:.1f} ({found['low']:.1f}-{found['high']:.1f}) "
            f"| {'' if limit is None else f'{limit:g}'} | {held} |"
        )
    return "\n".join([*lines, f"\nA forward takes {record['forward']:.2f} CPU s here."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = measure(given.rounds)
    print(table(record) if given.table else json.dumps(record))


if __name__ == "__main__":
    main()
