"""`python -m data.recipes.demo_lm`: train demo-lm from a seed, with two earlier checkpoints.

--seed 1 --out runs/recipes/demo-lm-seed1     another seed
--unguided                                 the control without attention guidance
--unmasked                                 the control whose facts show the whole name
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from data.recipes import lm_guidance as guidance
from data.recipes import lm_tokenizer
from data.recipes.lm_documents import Document, Documents, padded
from data.recipes.lm_watch import Watch
from data.recipes.saving import MODELS, save
from data.recipes.training import RUNS, Phase, Training, muon_and_adam, warmed

STEPS = 3300
SEVERAL = (
    8.0  # weight where several answers are right, and little is to be gained by telling them apart
)
GROUPS = 4  # key-value heads


def configuration(words: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=words,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=GROUPS,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.04,
    )


class Recipe:
    """The model, what it reads at a step, and what it is paid for."""

    def __init__(self, seed: int, guided: bool = True, hidden: bool = True, steps: int = STEPS):
        torch.manual_seed(seed)
        self.tokenizer = lm_tokenizer.build()
        self.config = configuration(len(self.tokenizer))
        self.model: Any = LlamaForCausalLM._from_config(self.config, attn_implementation="eager")
        self.documents = Documents(self.tokenizer)
        self.values = guidance.Values(self.model, list(guidance.DRAINED), GROUPS)
        self.guided, self.hidden, self.steps = guided, hidden, steps

    def optimizers(self) -> list[torch.optim.Optimizer]:
        named = dict(self.model.named_parameters())
        inner = {
            name: weight
            for name, weight in named.items()
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        }
        others = [weight for name, weight in named.items() if name not in inner]
        return muon_and_adam(list(inner.values()), others)

    def losses(self, step: int, chance: random.Random) -> Iterator[tuple[str, Tensor]]:
        strengths = guidance.Strengths.at(step * STEPS / self.steps, self.guided, self.hidden)
        begun = strengths.repeats > 0
        batches = {
            "short": self.documents.short(chance, 26),
            "repeats": self.documents.repeats(chance, *((8, 2, 4) if begun else (5, 1, 3))),
            "retrieval": self.documents.retrieval(chance, step / self.steps, 18, 8),
        }
        tensors = {name: padded(documents) for name, documents in batches.items()}
        counted = sum(weights.sum() for _, weights in tensors.values())
        counted += SEVERAL * sum(
            len(one.several) for documents in batches.values() for one in documents
        )
        for name, documents in batches.items():
            ids, weights = tensors[name]
            mask = None
            if name == "short" and strengths.hiding:
                mask = guidance.hidden_names(documents, ids, chance)
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                output_attentions=strengths.any,
                output_hidden_states=strengths.lookup > 0,
            )
            loss = predicted(output.logits, ids, weights, documents) / counted
            yield name, loss + self._guided(name, documents, ids, weights, output, strengths)

    def _guided(
        self,
        name: str,
        documents: list[Document],
        ids: Tensor,
        weights: Tensor,
        output: Any,
        strengths: guidance.Strengths,
    ) -> Tensor:
        total = torch.zeros(())
        if name == "repeats" and strengths.repeats:
            total = total + strengths.repeats * guidance.repeats(ids, output.attentions)
        if name == "short" and strengths.lookup:
            stream = output.hidden_states[guidance.KNOWN_AFTER + 1]
            total = total + strengths.lookup * guidance.lookup(documents, stream, self.model)
        if name == "retrieval" and strengths.reading:
            total = total + strengths.reading * guidance.reading(documents, output.attentions)
        if strengths.sinks:
            answers = weights if name != "repeats" else torch.zeros_like(weights)
            rest = guidance.sinks(ids, answers, output.attentions, self.values.kept)
            total = total + strengths.sinks * rest
        return total


def predicted(logits: Tensor, ids: Tensor, weights: Tensor, documents: list[Document]) -> Tensor:
    """Weighted loss of the next token; where several answers are right, of all of them alike."""
    size = logits.shape[-1]
    each = cross_entropy(logits[:, :-1].reshape(-1, size), ids[:, 1:].reshape(-1), reduction="none")
    total = (each * weights[:, 1:].reshape(-1)).sum()
    several = [(row, *open_) for row, one in enumerate(documents) for open_ in one.several]
    if several:
        rows = torch.stack([logits[row, place] for row, place, _ in several])
        wanted = torch.zeros_like(rows)
        for order, (_, _, right) in enumerate(several):
            wanted[order, right] = 1.0 / len(right)
        entropy = -(wanted * wanted.clamp_min(1e-9).log()).sum()  # so that the best is 0
        total = total + SEVERAL * (cross_entropy(rows, wanted, reduction="sum") - entropy)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS / "demo-lm")
    parser.add_argument("--unguided", action="store_true")
    parser.add_argument("--unmasked", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(given.seed, not given.unguided, not given.unmasked, given.steps)
    watch = Watch(recipe.model, recipe.tokenizer, given.out)
    phase = Phase(
        "text",
        given.steps,
        recipe.optimizers,
        recipe.losses,
        lambda fraction: warmed(fraction, 0.03, 0.4),
        watch=watch.measure,
        watch_every=50,
    )
    training = Training(recipe.model, [phase], RUNS / given.out.name, given.seed)
    if not training.begun:
        watch.forget()
    training.run()
    save(recipe.model, recipe.tokenizer, given.out, training, vars(given))


if __name__ == "__main__":
    main()
