"""BLIP-2: a Q-Former asks the image with learned queries; its answers stand in the text."""

from interp.families import FAMILIES, Family
from interp.families.inputs import square_in_text
from interp.families.tiny import IMAGE, SPREAD, TEXT, VISION, part, tiny
from interp.layouts import blip_2

FAMILIES.add(
    "blip-2",
    Family(
        name="blip-2",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "blip-2",
            {},
            text_config=part("opt", TEXT, ffn_dim=96, init_std=SPREAD, dropout=0.0),
            vision_config=part("blip_2_vision_model", VISION),
            qformer_config=part(
                "blip_2_qformer",
                TEXT | {"hidden_size": 48, "num_hidden_layers": 3},
                cross_attention_frequency=2,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            num_query_tokens=4,
            image_token_index=IMAGE,
            initializer_range=SPREAD,
        ),
        inputs=square_in_text(4),
        mlp={"qformer": "output_query.dense"},
        layout=blip_2,
        own_positions=True,  # OPT's: counted over the attention mask
    ),
)
