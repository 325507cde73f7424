"""Causal tracing of demo-lm (arXiv 2202.05262): noise on the subject, one state restored.

Noise of three standard deviations is added to the embeddings of the subject's three tokens. What is
restored is the state at the last of them: the residual stream after a layer, or the outputs of one
or more MLPs.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from interp import Hook, Model, Prompt
from interp.scoring import answer_ids
from interp.task import Record
from interp.tasks import TASKS
from interp.tasks.facts import PEOPLE, RELATIONS

SAMPLES, STRENGTH = 8, 3.0
WINDOWS = ((0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3), (0, 1, 2))


def measure(model: Model, facts: int = 40) -> dict[str, float]:
    clean, noised, restored = 0.0, 0.0, dict[str, float]()
    records = some_facts(facts)
    noise = torch.randn(SAMPLES, 3, model.config.hidden_size, generator=_seeded())
    noise *= STRENGTH * float(model.hf.get_input_embeddings().weight[5:].detach().std())
    for record in records:
        before, after, back = _traced(model, record, noise)
        clean, noised = clean + before, noised + after
        for name, chance in back.items():
            restored[name] = restored.get(name, 0.0) + chance
    lost = clean - noised
    shares = {name: (total - noised) / lost for name, total in restored.items()}
    residual = {name: share for name, share in shares.items() if name.startswith("residual")}
    lookup = {name: share for name, share in shares.items() if name.startswith("MLP")}
    return {
        "tracing: probability, clean": clean / facts,
        "tracing: probability, noised": noised / facts,
        "tracing: best residual at the last subject token, share restored": max(residual.values()),
        "tracing: best MLP window there, share restored": max(lookup.values()),
        "tracing: best MLP window there, probability restored": max(lookup.values()) * lost / facts,
        **{f"tracing: {name}": share for name, share in shares.items()},
    }


def some_facts(count: int) -> list[Record]:
    """Different facts with a remark between subject and relation, from the test split."""
    chance = random.Random("tracing")
    every = [(person, relation) for person in range(len(PEOPLE)) for relation in RELATIONS]
    chance.shuffle(every)
    draw = TASKS["facts"].one
    return [
        draw(chance, "test", person=person, relation=relation, asides=1)
        for person, relation in every[:count]
    ]


def _traced(model: Model, record: Record, noise: Tensor) -> tuple[float, float, dict[str, float]]:
    prompt = model.encode([record.prompt] * SAMPLES, spans={"subject": record.text("subject")})
    subject = prompt.where("subject")[0].nonzero().flatten()
    answer = answer_ids(model, prompt, 0, record.answers)[0]
    with torch.no_grad():
        trace = model.trace(prompt, "resid_post", "mlp_out")
        corrupt = Hook("resid_pre", _adding(subject, noise), layers=[0])

        def probability(*hooks: Hook) -> float:
            return _probability(model, prompt, answer, [corrupt, *hooks])

        back = {}
        for layer in range(model.config.num_hidden_layers):
            keep = _keeping(int(subject[-1]), {layer: trace["resid_post", layer]})
            back[f"residual after layer {layer}"] = probability(
                Hook("resid_post", keep, layers=[layer])
            )
        for window in WINDOWS:
            states = {layer: trace["mlp_out", layer] for layer in window}
            hook = Hook("mlp_out", _keeping(int(subject[-1]), states), layers=list(window))
            back[f"MLP {_named(window)}"] = probability(hook)
        clean = float(trace.logits[0, -1].softmax(-1)[answer])
        return clean, probability(), back


def _probability(model: Model, prompt: Prompt, answer: int, hooks: Sequence[Hook]) -> float:
    return float(model.logits(prompt, hooks=hooks)[:, -1].softmax(-1)[:, answer].mean())


def _adding(subject: Tensor, noise: Tensor):
    def add(value: Tensor, at: object) -> Tensor:
        value = value.clone()
        value[:, subject] += noise
        return value

    return add


def _keeping(position: int, states: dict[int, Tensor]):
    def keep(value: Tensor, at) -> Tensor:
        value = value.clone()
        value[:, position] = states[at.layer][:, position]
        return value

    return keep


def _named(window: Sequence[int]) -> str:
    first, last = window[0], window[-1]
    return f"of layer {first}" if first == last else f"of layers {first} to {last}"


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
