"""How a head comes to sleep: a small transformer learns bigram-backcopy, and is watched at it.

Where nothing is to be copied its head looks at <s>, which comes to have nothing to give: an
attention sink and its drained value grow together (Guo et al. 2024, arXiv 2410.13835).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from analyses import analysis
from interp.backcopy.chain import Chain
from interp.backcopy.interventions import intervened
from interp.backcopy.measures import LAYER_MEASURES, gaps_by_token, layer_measures, risks
from interp.backcopy.network import ATTENTION, Network
from interp.registry import unknown
from interp.result import Result

# Sequences that every row is measured on, the same for every seed of training.
HELD_OUT, HELD_OUT_SEED = 256, 20241017
SHOWN = 36  # positions of the sample's attention map
COLUMNS = ("step", *LAYER_MEASURES, "excess", "copy", "loss")
RATES = {"adamw": 1e-3, "sgd": 0.03}


@analysis(alone="it trains one small network, step after step")
def bigram_backcopy(
    model: Any = None,
    task: Any = None,
    *,
    steps: int = 2000,
    every: int = 250,
    seed: int = 0,
    width: int = 128,
    length: int = 128,
    batch: int = 64,
    layers: int = 1,
    triggers: int = 3,
    learning_rate: float | None = None,
    optimizer: str = "adamw",
    attention: str = "softmax",
    device: str = "cpu",
    progress: bool = True,
) -> Result:
    """Trains a small model of its own, and measures it at step 0, every `every` steps, and at the last.

    It draws its own data, too: a model or task that is given plays no part, which a note then says.

    Attention, of the layer that copies (`layers` has all): `sink` is the weight on <s> where the
    query is no trigger, `trigger_sink` where it is one, `previous` what triggers give the position
    before. `gap`: score of <s> less the mean score of the other earlier keys, at no trigger.
    <s> itself: `drain` is |v W_O| at <s> by its mean elsewhere, `drain_raw` the same of |v|, `peak`
    the residual norm after the layer by the largest elsewhere.
    Risks in nats: `excess` over the true bigram at no trigger, `copy` at triggers, `loss` in all.

    `learning_rate` is 0.001 for adamw and 0.03 for sgd if none is given; for attention="relu", 0.003.
    Tables: `layers`, `gaps` (by kind of token), `interventions`, `sample` (tokens of the tensor
    "sample", an attention map [query, key]). Tensors "weights.*" are the trained `Network`'s.
    """
    sizes = {"every": every, "width": width, "batch": batch, "layers": layers}
    _check(sizes | {"steps": steps, "length": length}, optimizer, attention)
    if learning_rate is None:
        learning_rate = 3e-3 if attention == "relu" else RATES[optimizer]
    chain, chance = Chain(triggers), torch.Generator().manual_seed(seed)
    apart = torch.Generator().manual_seed(HELD_OUT_SEED)
    held_out = chain.sample(HELD_OUT, length + 1, apart).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(len(chain.tokens), length, width, layers, attention).to(device)
    descent = _descent(network, optimizer, learning_rate)
    rows: list[dict[str, float]] = []
    for step in _counted(steps, progress):
        if step % every == 0 or step == steps:
            rows += _logged(network, chain, held_out, step)
        if step < steps:
            _learn(network, descent, chain.sample(batch, length + 1, chance).to(device))
    result = _result(network, chain, held_out, rows, learning_rate)
    if model is not None or task is not None:
        result.notes.insert(
            0, f"Its model and its data are its own: {_given(model, task)} played no part."
        )
        result.made |= {"model": None, "weights": None, "task": None, "task digest": None}
    return result


def _given(model: Any, task: Any) -> str:
    parts = {"a model": model, "a task": task}
    return " and ".join(f"{noun} ({part!r})" for noun, part in parts.items() if part is not None)


def _check(sizes: dict[str, int], optimizer: str, attention: str) -> None:
    least = {"steps": 0, "length": 8}  # shorter walks may hold no trigger at all
    for name, size in sizes.items():
        if size < least.get(name, 1):
            raise ValueError(f"{name}={size}: at least {least.get(name, 1)}.")
    for noun, given, known in [
        ("optimizer", optimizer, list(RATES)),
        ("attention", attention, list(ATTENTION)),
    ]:
        if given not in known:
            raise ValueError(unknown(noun, given, known))


def _counted(steps: int, progress: bool) -> Iterator[int]:
    """The steps, and one more to measure after the last, behind a bar."""
    from tqdm import tqdm

    yield from tqdm(range(steps + 1), desc="bigram_backcopy", disable=not progress)


def _descent(network: Network, optimizer: str, rate: float) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    if optimizer == "sgd":
        return torch.optim.SGD(weights, rate, momentum=0.9, weight_decay=1e-4)
    return torch.optim.AdamW(weights, rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-4)


def _learn(network: Network, descent: torch.optim.Optimizer, sequences: Tensor) -> None:
    logits = network(sequences[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())
    descent.zero_grad()
    loss.backward()
    descent.step()


@torch.no_grad()
def _logged(network: Network, chain: Chain, held_out: Tensor, step: int) -> list[dict[str, float]]:
    """What is measured at one step, a row for each layer."""
    logits, seen = network.watch(held_out[:, :-1])
    found = risks(logits, held_out, chain)
    if not math.isfinite(found["loss"]):
        raise FloatingPointError(
            f"the loss is {found['loss']} at step {step}: training ran away; take a smaller "
            "learning_rate."
        )
    where = chain.is_trigger.to(held_out.device)[held_out[:, :-1]]
    return [
        {"step": step, "layer": layer, **layer_measures(one, where), **found}
        for layer, one in enumerate(seen)
    ]


@torch.no_grad()
def _result(
    network: Network, chain: Chain, held_out: Tensor, rows: list[dict[str, float]], rate: float
) -> Result:
    import pandas

    layers = pandas.DataFrame(rows)
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    copying = int(max(last, key=lambda row: row["previous"])["layer"])
    table = layers.loc[layers["layer"] == copying, list(COLUMNS)]
    tokens = held_out[:, :-1]
    seen = network.watch(tokens)[1][copying]
    sample = tokens[0, :SHOWN]
    shown = {
        "token": [chain.tokens[token] for token in sample.tolist()],
        "trigger": chain.is_trigger[sample.cpu()].tolist(),
    }
    tensors = {f"weights.{name}": weight.cpu() for name, weight in network.state_dict().items()}
    tensors["sample"] = seen.pattern[0, : len(sample), : len(sample)].cpu().clone()
    return Result(
        "bigram_backcopy",
        table.reset_index(drop=True),
        {
            "layers": layers.filter(["step", "layer", *LAYER_MEASURES]),
            "gaps": pandas.DataFrame(gaps_by_token(seen.scores, tokens, chain)),
            "interventions": pandas.DataFrame(intervened(network, chain, held_out)),
            "sample": pandas.DataFrame(shown),
        },
        tensors,
        _notes(chain, copying, len(network.blocks)),
        {"learning rate": rate, "copying layer": copying},
    )


def _notes(chain: Chain, copying: int, layers: int) -> list[str]:
    names = ", ".join(repr(chain.tokens[token]) for token in chain.triggers)
    notes = [
        f"Triggers are {names}: the character after one repeats the character before it. All else "
        "follows the counts of pairs in tiny-Shakespeare.",
        f"Measured on {HELD_OUT} sequences apart from training, the same for every seed.",
        "One seed is one history: with the same settings the sink may come late, or not at all within "
        "a thousand steps, though copying is learned. Ask several seeds before saying that it comes.",
        "Attention to <s> is set to 0 after the softmax, without making up for it, so that gives what "
        "a zero value of <s> gives.",
        "The gap grows faster than log(step) here: take its sign and growth, not its law.",
    ]
    if layers > 1:
        notes.append(
            f"The table is of layer {copying}, where triggers look most at the position before."
        )
    return notes
