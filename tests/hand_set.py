"""The frame of transformers whose weights are set by hand: GPT-2's shape, and parts that do nothing.

Norms hardly norm: their epsilon is so large that a stream whose channels sum to 0 passes as it is.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Frame:
    """Sizes, and the first channels of what the circuit writes; `idle` channels nobody in it reads."""

    layers: int
    heads: int
    size: int  # of a head
    words: int
    length: int
    epsilon: float
    token: int  # which word it is
    place: int  # where it stands
    answer: int
    gain: float  # logit of an answer's channel
    idle: slice
    balance: int  # keeps the sum of all channels at 0; nobody reads it

    @property
    def width(self) -> int:
        return self.heads * self.size

    @torch.no_grad()
    def model(self, heads, mlps=()):
        """Words and places are known; parts that are not named read at random and write idly."""
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=self.words, n_positions=self.length, n_embd=self.width,
                            n_layer=self.layers, n_head=self.heads, n_inner=2 * self.words,
                            bos_token_id=0, eos_token_id=0, activation_function="relu",
                            layer_norm_epsilon=self.epsilon, tie_word_embeddings=False,
                            attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)  # fmt: skip
        hf = GPT2LMHeadModel(config).eval()
        random = seeded(1)
        for name, weight in hf.named_parameters():
            normed = "ln_" in name and name.endswith("weight")
            weight.fill_(self.epsilon**0.5 if normed else 0.0)
        for number, block in enumerate(hf.transformer.h):
            for head in range(self.heads):
                if (number, head) not in heads:
                    self._idle_head(block.attn, head, random)
            if number not in mlps:
                block.mlp.c_fc.weight[: self.balance].normal_(std=0.1, generator=random)
                block.mlp.c_proj.weight[:, self.idle].normal_(std=0.2, generator=random)
        for word in range(self.words):
            hf.transformer.wte.weight[word, self.token + word] = 1.0
            hf.lm_head.weight[word, self.answer + word] = self.gain
        for place in range(self.length):
            hf.transformer.wpe.weight[place, self.place + place] = 1.0
        return hf

    def _idle_head(self, attention, head, random):
        own = slice(head * self.size, (head + 1) * self.size)
        for part in range(3):
            columns = slice(part * self.width + own.start, part * self.width + own.stop)
            attention.c_attn.weight[: self.balance, columns].normal_(std=0.1, generator=random)
        attention.c_proj.weight[own, self.idle].normal_(std=0.2, generator=random)

    @torch.no_grad()
    def balanced(self, hf):
        """Whatever is written sums to 0 over the channels, so that no norm has a mean to take off."""
        written = [hf.transformer.wte.weight, hf.transformer.wpe.weight]
        for block in hf.transformer.h:
            written += [block.attn.c_proj.weight, block.mlp.c_proj.weight]
        for weight in written:
            weight[:, self.balance] -= weight.sum(1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)
