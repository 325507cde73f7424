"""Text decoders whose MLP is a mixture of experts, in all layers or in some."""

from interp.families.decoders import LOCAL_AND_GLOBAL, WINDOW, add
from interp.families.tiny import GROUPED, TEXT

add("mixtral", GROUPED, num_local_experts=4, num_experts_per_tok=2)
add(
    "qwen2_moe",
    GROUPED,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    shared_expert_intermediate_size=48,
    mlp_only_layers=[0],
)
add(
    "qwen3_moe",
    GROUPED,
    head_dim=32,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    mlp_only_layers=[0],
)
add(
    "gpt_oss",
    GROUPED,
    head_dim=16,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=WINDOW,
    layer_types=LOCAL_AND_GLOBAL,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
    },
)
# Latent attention: keys and queries are wider than values. They come from narrow latents, which
# need wider weights for the same spread of scores.
add(
    "deepseek_v3",
    TEXT | {"initializer_range": 0.2},
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    moe_intermediate_size=32,
    n_routed_experts=8,
    n_group=2,
    topk_group=1,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    routed_scaling_factor=1.0,
    num_mtp_layers=0,
)
