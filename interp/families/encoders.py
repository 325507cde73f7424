"""Text encoders, and encoder-decoders of text."""

from typing import Any

from interp.families import FAMILIES, Family
from interp.families.inputs import source_and_target, text
from interp.families.tiny import EOS, PAD, SPREAD, TEXT, VOCABULARY, WIDE_SPREAD, tiny

_NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _encoder(name: str, own_positions: bool = False, **more: Any) -> None:
    FAMILIES.add(
        name,
        Family(
            name=name,
            kind="encoder",
            auto="AutoModelForMaskedLM",
            tiny=tiny(name, TEXT | more),
            inputs=text,
            own_positions=own_positions,
        ),
    )


_encoder("bert", **_NO_DROPOUT)
# RoBERTa counts positions over the ids that are not padding, from pad + 1.
_encoder("roberta", own_positions=True, **_NO_DROPOUT)
_encoder("distilbert", hidden_dim=96, dropout=0.0, attention_dropout=0.0)
# A window of 4 to each side, in the layers that are not global.
_encoder(
    "modernbert",
    initializer_range=WIDE_SPREAD,
    local_attention=8,
    layer_types=["full_attention", "sliding_attention"] * 2,
    cls_token_id=TEXT["bos_token_id"],
    sep_token_id=TEXT["eos_token_id"],
)

# Neither takes position ids: T5 has none, BART counts from the first token.
FAMILIES.add(
    "t5",
    Family(
        name="t5",
        kind="encoder-decoder",
        auto="AutoModelForSeq2SeqLM",
        tiny=tiny(
            "t5",
            {},
            vocab_size=VOCABULARY,
            d_model=64,
            d_kv=16,
            d_ff=96,
            num_layers=4,
            num_decoder_layers=3,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            initializer_factor=1.0,
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
        ),
        inputs=source_and_target,
        own_positions=True,
    ),
)
FAMILIES.add(
    "bart",
    Family(
        name="bart",
        kind="encoder-decoder",
        auto="AutoModelForSeq2SeqLM",
        tiny=tiny(
            "bart",
            {},
            vocab_size=VOCABULARY,
            d_model=64,
            encoder_layers=4,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            max_position_embeddings=256,
            init_std=SPREAD,
            dropout=0.0,
            pad_token_id=PAD,
            bos_token_id=TEXT["bos_token_id"],
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
        ),
        inputs=source_and_target,
        own_positions=True,
    ),
)
