"""What a wrapped model costs while nothing is asked of it. Prints one line of JSON.

The same model runs wrapped and unwrapped by turns in one process, so that whatever disturbs the
machine disturbs both.

python -m benchmarks.idle forward --length 128 --pairs 60
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import interp
from benchmarks.measure import cpu_seconds
from benchmarks.shapes import VOCABULARY, Shape, build, token_ids

NEW_TOKENS = 64
# The small model's forward is nearly all calls and no arithmetic; many make one measurement.
SMALL_LAYERS, SMALL_FORWARDS = 12, 20


def by_turns(hf: PreTrainedModel, call: Callable[[], object], pairs: int) -> dict:
    """CPU seconds of `call` with the model wrapped over those with it unwrapped."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs + 1):
        for wrapped in (False, True) if pair % 2 else (True, False):
            model = interp.wrap(hf) if wrapped else None
            taken, _ = cpu_seconds(call)
            if pair > 0:  # the first pair warms up
                seconds[wrapped].append(taken)
            if model is not None:
                model.unwrap()
    ratios = [seam / plain for plain, seam in zip(seconds[False], seconds[True], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "error": 1.86 * (high - low) / math.sqrt(pairs),  # two standard errors of a median
        "fastest": min(seconds[True]) / min(seconds[False]),
        "seconds": statistics.median(seconds[False]),
        "added": statistics.median(seconds[True]) - statistics.median(seconds[False]),
        "pairs": pairs,
    }


def forward(family: str, length: int, pairs: int) -> dict:
    shape = Shape(family, length)
    hf, ids = build(shape, "sdpa"), token_ids(shape)
    plain = hf(ids, use_cache=False).logits
    model = interp.wrap(hf)
    same = torch.equal(hf(ids, use_cache=False).logits, plain)
    model.unwrap()
    return by_turns(hf, lambda: hf(ids, use_cache=False), pairs) | {"same": same}


def generate(family: str, length: int, pairs: int) -> dict:
    shape = Shape(family, length + NEW_TOKENS)
    hf, ids = build(shape, "sdpa"), token_ids(shape, length)

    def call() -> torch.Tensor:
        return hf.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)

    plain = call()
    model = interp.wrap(hf)
    same = torch.equal(call(), plain)
    model.unwrap()
    return by_turns(hf, call, pairs) | {"same": same}


def one_call(pairs: int) -> dict:
    """Microseconds that the seam adds to one attention call, from a model that is all calls."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_head": 2, "n_positions": 8, "n_layer": SMALL_LAYERS}
    ends = {"bos_token_id": None, "eos_token_id": None}
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **ends)).eval()
    ids = torch.arange(8)[None]

    def call() -> None:
        for _ in range(SMALL_FORWARDS):
            hf(ids, use_cache=False)

    result = by_turns(hf, call, pairs)
    return result | {"microseconds": 1e6 * result["added"] / (SMALL_FORWARDS * SMALL_LAYERS)}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["forward", "generate", "call"])
    parser.add_argument("--family", default="gpt2")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "call":
        record = one_call(given.pairs)
    else:
        way = forward if given.what == "forward" else generate
        record = way(given.family, given.length, given.pairs)
    print(json.dumps(vars(given) | record))


if __name__ == "__main__":
    main()
