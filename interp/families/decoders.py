"""Text decoders. What is odd about some of them is found by structure; entries only open them."""

from typing import Any

from interp.families import FAMILIES, Family
from interp.families.inputs import text
from interp.families.tiny import GROUPED, TEXT, tiny

# Half of a default prompt, so that a window hides something in it.
WINDOW = 6
LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention"] * 2


def add(name: str, sizes: dict[str, Any], own_positions: bool = False, **more: Any) -> None:
    FAMILIES.add(
        name,
        Family(
            name=name,
            kind="text",
            auto="AutoModelForCausalLM",
            tiny=tiny(name, sizes, **more),
            inputs=text,
            own_positions=own_positions,
        ),
    )


add("llama", GROUPED)
add("mistral", GROUPED, sliding_window=WINDOW)
add("qwen2", GROUPED)
# Heads that do not divide the width between them: 4 x 32 over 64.
add("qwen3", GROUPED, head_dim=32)
add("phi3", GROUPED, sliding_window=WINDOW)
add("starcoder2", GROUPED, sliding_window=WINDOW)
add("olmo", GROUPED)
add("olmo2", GROUPED)
add("smollm3", GROUPED)
add("glm4", GROUPED, head_dim=16)

add("gpt2", TEXT, n_inner=96, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
add("gpt_neox", TEXT)
# OPT counts positions over the attention mask by itself.
add("opt", TEXT, ffn_dim=96, init_std=TEXT["initializer_range"], dropout=0.0, own_positions=True)

# Attention and MLP read the same input in phi, cohere, cohere2 (and in gpt_neox above).
add("phi", GROUPED)
add("cohere", GROUPED, use_qk_norm=True, logit_scale=0.5)
add("cohere2", GROUPED, sliding_window=WINDOW, sliding_window_pattern=2, logit_scale=0.5)
add("stablelm", GROUPED)
# Its norms multiply by 1 + weight with weights that start at 1, which doubles every input.
add("nemotron", GROUPED | {"initializer_range": 0.09})

# Multipliers other than 1, as in released checkpoints: scaling is not 1/sqrt(d_head).
add(
    "granite",
    GROUPED,
    attention_multiplier=0.2,
    embedding_multiplier=4.0,
    residual_multiplier=0.5,
    logits_scaling=2.0,
)

add("gemma", GROUPED, head_dim=16)
add(
    "gemma2",
    GROUPED,
    head_dim=32,
    query_pre_attn_scalar=24,
    attn_logit_softcapping=5.0,
    sliding_window=WINDOW,
    layer_types=LOCAL_AND_GLOBAL,
)
add(
    "gemma3_text",
    GROUPED,
    head_dim=32,
    query_pre_attn_scalar=24,
    sliding_window=WINDOW,
    layer_types=LOCAL_AND_GLOBAL,
)
