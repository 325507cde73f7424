"""The chain: characters follow each other as in Shakespeare, but a trigger repeats what was before.

Positions: <s>, a character that is no trigger, and on by `P(next | character)`; the character
after a trigger is the character before it. So no trigger ever follows a trigger.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

COUNTS = Path(__file__).with_name("shakespeare.json")


class Chain:
    """`triggers`: how many of the most frequent characters are triggers.

    Tokens are the characters, then <s>, then a delimiter that no sequence holds.
    `rows` [begun with, next] are the probabilities of what follows; the row of <s> is the share
    of each character that is no trigger.
    """

    def __init__(self, triggers: int = 3):
        found = json.loads(COUNTS.read_text())
        singles, pairs = torch.tensor(found["singles"]), torch.tensor(found["pairs"])
        if not 1 <= triggers < len(singles):
            raise ValueError(
                f"triggers={triggers}: of {len(singles)} characters at least one is a trigger and "
                f"at least one is none, so 1 to {len(singles) - 1}."
            )
        self.tokens = [*found["characters"], "<s>", "<delimiter>"]
        self.begin = len(singles)
        self.share = singles / singles.sum()
        self.triggers: list[int] = singles.argsort(descending=True)[:triggers].tolist()
        self.is_trigger = torch.zeros(len(self.tokens), dtype=torch.bool)
        self.is_trigger[self.triggers] = True
        first = singles.masked_fill(self.is_trigger[: self.begin], 0)
        counts = torch.cat([pairs, first[None]])
        self.rows = torch.zeros(len(counts), len(self.tokens), dtype=torch.float64)
        self.rows[:, : self.begin] = counts.double() / counts.sum(1, keepdim=True)
        # Every character's followers, each as often as it was counted: a draw is one look-up.
        each = torch.arange(self.begin).repeat(len(counts))
        self._followers = each.repeat_interleave(counts.flatten())
        self._many = counts.sum(1)
        self._start = self._many.cumsum(0) - self._many

    def sample(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Fresh sequences [count, length], each beginning with <s>."""
        sequences = torch.full((count, length), self.begin)
        chance = torch.rand(length, count, generator=generator, dtype=torch.float64)
        for place in range(1, length):
            last = sequences[:, place - 1]
            drawn = (chance[place] * self._many[last]).long()
            following = self._followers[self._start[last] + drawn]
            if place > 1:
                copied = sequences[:, place - 2]
                following = torch.where(self.is_trigger[last], copied, following)
            sequences[:, place] = following
        return sequences

    def oracle(self, sequences: Tensor) -> Tensor:
        """What truly follows each position: probabilities [sequence, position, token]."""
        known = self.rows[sequences]
        before = sequences.roll(1, dims=1)
        copied = torch.nn.functional.one_hot(before, len(self.tokens)).to(known.dtype)
        return torch.where(self.is_trigger[sequences][..., None], copied, known)
