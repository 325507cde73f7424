"""GPT-2 and Llama written out head by head and part by part: slow, and without anything of interp.

What path patching and circuits of edges are held against.
"""

import math

import torch


class Spelled:
    """Parts of one model as functions of the stream: q, k, v of one head, an MLP, the logits."""

    def __init__(self, hf):
        self.hf = hf
        self.gpt2 = hf.config.model_type == "gpt2"
        config = hf.config
        self.layers = list(hf.transformer.h if self.gpt2 else hf.model.layers)
        self.heads = config.num_attention_heads
        self.size = config.hidden_size // self.heads
        self.shared = self.heads // getattr(config, "num_key_value_heads", self.heads)

    def embed(self, ids):
        if self.gpt2:
            return self.hf.transformer.wte(ids) + self.hf.transformer.wpe.weight[: ids.shape[1]]
        return self.hf.model.embed_tokens(ids)

    def project(self, layer, head, part, stream):
        """[batch, position, d_head] of the head's q, k or v, as its softmax meets it."""
        block = self.layers[layer]
        if self.gpt2:
            start = "qkv".index(part) * self.hf.config.hidden_size + head * self.size
            own = slice(start, start + self.size)
            linear = block.attn.c_attn
            return block.ln_1(stream) @ linear.weight[:, own] + linear.bias[own]
        row = head if part == "q" else head // self.shared
        linear = getattr(block.self_attn, f"{part}_proj")
        value = block.input_layernorm(stream) @ linear.weight[row * self.size :][: self.size].T
        return value if part == "v" else self._turned(value)

    def _turned(self, value):
        places = torch.arange(value.shape[1])[None]
        cos, sin = self.hf.model.rotary_emb(value, places)
        one, other = value.chunk(2, -1)
        return value * cos + torch.cat([-other, one], -1) * sin

    def mix(self, query, key, value):
        scores = query @ key.transpose(1, 2) / math.sqrt(self.size)
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value

    def write(self, layer, head, z):
        """What a head adds to the stream; the projection's bias is nobody's."""
        own = slice(head * self.size, (head + 1) * self.size)
        if self.gpt2:
            return z @ self.layers[layer].attn.c_proj.weight[own]
        return z @ self.layers[layer].self_attn.o_proj.weight[:, own].T

    def bias(self, layer):
        return self.layers[layer].attn.c_proj.bias if self.gpt2 else 0.0

    def mlp(self, layer, stream):
        block = self.layers[layer]
        norm = block.ln_2 if self.gpt2 else block.post_attention_layernorm
        return block.mlp(norm(stream))

    def logits(self, stream):
        norm = self.hf.transformer.ln_f if self.gpt2 else self.hf.model.norm
        return self.hf.lm_head(norm(stream))

    def run(self, ids, change=lambda name, layer, head, value: value):
        """Logits; `change` sees each q, k, v, z, mlp and the final stream, and gives what goes on."""
        stream = self.embed(ids)
        for layer in range(len(self.layers)):
            written = self.bias(layer)
            for head in range(self.heads):
                parts = [
                    change(part, layer, head, self.project(layer, head, part, stream))
                    for part in "qkv"
                ]
                written = written + self.write(
                    layer, head, change("z", layer, head, self.mix(*parts))
                )
            stream = stream + written
            stream = stream + change("mlp", layer, 0, self.mlp(layer, stream))
        return self.logits(change("end", 0, 0, stream))

    def kept(self, ids):
        """Everything that passes in a run, by (name, layer, head), and the logits."""
        found = {}

        def keep(name, layer, head, value):
            found[name, layer, head] = value
            return value

        return found, self.run(ids, keep)


@torch.no_grad()
def path_patched(spelled, clean_ids, corrupted_ids, sender, receivers, operator, at, freeze_mlps):
    """Logits after the four passes of path patching, for one sender (kind, layer, head)."""
    clean, _ = spelled.kept(clean_ids)
    corrupted, _ = spelled.kept(corrupted_ids)
    kind, *place = sender
    sent = ("z" if kind == "head" else "mlp", *place)
    everywhere = operator == "ioi"
    arrived = {}

    def put(value, other):
        return torch.where(at[..., None], other, value)

    def send(name, layer, head, value):
        key = (name, layer, head)
        arrived[key] = value
        if everywhere and name in "qkv":
            value = clean[key]
        if not everywhere and name == "z":
            value = put(value, clean[key])
        if freeze_mlps and name == "mlp":
            value = clean[key] if everywhere else put(value, clean[key])
        return put(value, corrupted[key]) if key == sent else value

    def receive(name, layer, head, value):
        own = {
            (part, where, one // (1 if part == "q" else spelled.shared))
            for where, one, part in receivers
        }
        met = (name, layer, head // (1 if name == "q" else spelled.shared)) in own
        if not met and not (name == "end" and not receivers):
            return value
        new = arrived[name, layer, head]
        return new if everywhere else put(value, new)

    spelled.run(clean_ids, send)
    return spelled.run(clean_ids, receive)


@torch.no_grad()
def edge_circuit(spelled, clean_ids, corrupted_ids, kept):
    """Logits of a circuit of edges: (source, target) names as `interp.circuits` writes them."""
    other, _ = spelled.kept(corrupted_ids)
    wrote = {"embed": (spelled.embed(clean_ids), spelled.embed(corrupted_ids))}
    constant = 0.0

    def arrives(target):
        total = constant
        for source, (own, instead) in wrote.items():
            total = total + (own if f"{source}->{target}" in kept else instead)
        return total

    for layer in range(len(spelled.layers)):
        heads = {}
        for head in range(spelled.heads):
            parts = [
                spelled.project(layer, head, part, arrives(f"{layer}.{head}.{part}"))
                for part in "qkv"
            ]
            z = spelled.mix(*parts)
            pair = (spelled.write(layer, head, each) for each in (z, other["z", layer, head]))
            heads[f"{layer}.{head}"] = tuple(pair)
        wrote |= heads
        constant = constant + spelled.bias(layer)
        fed = spelled.mlp(layer, arrives(f"mlp {layer}"))
        wrote[f"mlp {layer}"] = (fed, other["mlp", layer, 0])
    return spelled.logits(arrives("logits"))
