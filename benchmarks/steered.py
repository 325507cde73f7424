"""One intervention while 64 tokens are generated after a prompt of 512. Prints one line of JSON.

Plain and steered generation run by turns in one process, so that whatever disturbs the machine
disturbs both. Extra passes are timed by themselves: the plan, and the plan of VHR's companion.

python -m benchmarks.steered PASTA --family gpt2 --pairs 9
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import cpu_seconds, peak_megabytes
from benchmarks.steered_shapes import NEW, opened
from interp.interventions import INTERVENTIONS

# About a tenth of the heads, as PASTA's authors recommend, and a fifth, as ACT's lists for Llama hold.
TENTH = [(layer, (5 * layer) % 12) for layer in range(2, 11)] + [(layer, 7) for layer in (3, 5, 8)]
FIFTH = [(layer, head) for layer in range(2, 11) for head in (layer % 12, (layer + 5) % 12, 11)]
FIXED: dict[str, dict[str, Any]] = {
    "PASTA": {"heads": TENTH, "highlight": "key"},
    "AutoPASTA": {"heads": TENTH, "evidence": "key"},
    "ACT": {"heads": FIFTH},
    "SpotLight": {"highlight": "key"},
    "VAR": {"dims": (5, 7), "tau": 2.0},  # a random model has no sinks: some tokens are called so
}


def settings(name: str) -> Any:
    return INTERVENTIONS[name](**FIXED.get(name, {}))


def measured(name: str, family: str, pairs: int) -> dict:
    kind = INTERVENTIONS[name]
    model, prompt = opened(family, kind.of == "image")
    using = settings(name)

    def call(steered: bool) -> Callable[[], Any]:
        given = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
        return lambda: model.generate(prompt, using=using if steered else None, **given)

    for steered in (False, True):
        call(steered)()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs):
        for steered in (False, True) if pair % 2 else (True, False):
            seconds[steered].append(cpu_seconds(call(steered))[0])
    ratios = [after / before for before, after in zip(seconds[False], seconds[True], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    extra = _companion(model, prompt, pairs) if name == "VHR" else 0.0
    plain = statistics.median(seconds[False])
    peaks = [min(peak_megabytes(call(steered))[0] for _ in range(2)) for steered in (False, True)]
    weights = sum(one.numel() * one.element_size() for one in model.hf.parameters()) / 1e6
    return {
        "method": name,
        "settings": repr(using),
        "family": family,
        "ratio": statistics.median(ratios) - extra / plain,
        "error": 1.86 * (high - low) / math.sqrt(pairs),  # two standard errors of a median
        "fastest": (min(seconds[True]) - extra) / min(seconds[False]),
        "extra": extra / plain,
        "seconds": plain,
        "megabytes": [round(weights + peak, 1) for peak in peaks],
        "memory": (weights + peaks[1]) / (weights + peaks[0]),
        "pairs": pairs,
    }


def _companion(model: Any, prompt: Any, times: int) -> float:
    """VHR's one extra prefill, without the image."""
    from interp.importance.divergence import without_image

    blind = without_image(model, prompt)
    return statistics.median(cpu_seconds(lambda: model.logits(blind))[0] for _ in range(times))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=sorted(INTERVENTIONS))
    parser.add_argument("--family", default="llama")
    parser.add_argument("--pairs", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measured(given.method, given.family, given.pairs)))


if __name__ == "__main__":
    main()
