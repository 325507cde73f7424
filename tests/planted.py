"""A small model whose heads do nothing but what is planted in three places."""

import math

import torch

LENGTH, WIDTH, HEADS, SIZE = 64, 64, 4, 16
PREVIOUS, SINK = (1, 2), (2, 1)  # (layer, head)
CHANNEL, MASSIVE = 50, 3000.0
MARK = 40  # the channel that says "first token"
ANGLES = [0.03, 0.11, 0.29, 0.53, 0.83, 1.3, 1.9, 2.6]  # place as a clock with eight hands


def planted_model(previous=True, sink=True, massive=True):
    """GPT-2 with uniform attention everywhere but in what is planted.

    A head of layer 1 looks at the token before by turning the clock of places back by one; the MLP of layer 1
    writes a massive activation at the first token; a head of layer 2 looks at whoever carries it (or,
    without it, at the first token's mark).
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=32, n_positions=LENGTH, n_embd=WIDTH, n_layer=4, n_head=HEADS,
                        bos_token_id=0, eos_token_id=0, activation_function="relu",
                        attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in model.transformer.h:
            for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                module.weight.zero_()
                module.bias.zero_()
            # Values are what heads write; each writes a little of what the tokens are.
            block.attn.c_attn.weight[20:36, 2 * WIDTH :].copy_(
                0.05 * torch.randn(16, WIDTH, generator=_seeded())
            )
            block.attn.c_proj.weight[:, 51:].copy_(
                0.05 * torch.randn(WIDTH, WIDTH - 51, generator=_seeded())
            )
        _embed(model)
        if previous:
            _look_back(model.transformer.h[PREVIOUS[0]].attn, PREVIOUS[1])
        if massive:
            mlp = model.transformer.h[1].mlp
            mlp.c_fc.weight[MARK, 0] = 1.0
            mlp.c_proj.weight[0, CHANNEL] = MASSIVE
            mlp.c_fc.bias[0] = -2.0  # only the mark itself passes
        if sink:
            attention = model.transformer.h[SINK[0]].attn
            start = SINK[1] * SIZE
            attention.c_attn.bias[start] = 8.0  # every query asks
            attention.c_attn.weight[CHANNEL if massive else MARK, WIDTH + start] = 8.0
    return model


def _seeded():
    return torch.Generator().manual_seed(0)


def _embed(model):
    """Places in channels 0-15, words in 20-35, the first token's mark; every token equally long."""
    words = torch.zeros(32, WIDTH)
    words[:, 20:36] = (
        torch.nn.functional.normalize(torch.randn(32, 16, generator=_seeded()), dim=-1) * 3
    )
    words[0, 20:36] = 0
    words[0, MARK] = 3
    model.transformer.wte.weight.copy_(words)
    place = torch.arange(LENGTH)[:, None] * torch.tensor(ANGLES)
    model.transformer.wpe.weight.zero_()
    model.transformer.wpe.weight[:, :16] = torch.stack([place.cos(), place.sin()], -1).flatten(1)


def _look_back(attention, head, strength=3.0):
    """The query is the clock, turned back by one place; the key is the clock."""
    start = head * SIZE
    weight = attention.c_attn.weight
    for hand, angle in enumerate(ANGLES):
        even, odd = 2 * hand, 2 * hand + 1
        weight[even, WIDTH + start + even] = weight[odd, WIDTH + start + odd] = strength
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        weight[even : odd + 1, start + even : start + odd + 1] = strength * turn


def planted_ids(rows=4):
    """The first token, then random words, of the length at which sink shares are stated."""
    ids = torch.randint(1, 32, (rows, LENGTH), generator=_seeded())
    ids[:, 0] = 0
    return ids
