"""Speech to text."""

from typing import TYPE_CHECKING

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, pixels, put, seeded, words
from interp.families.tiny import BOS, EOS, PAD, VOCABULARY, WIDE_SPREAD, tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _heard(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    """A spectrogram of the one duration that Whisper takes; `length` is the decoder's."""
    generator = seeded(seed)
    frames = 2 * model.config.max_source_positions
    return put(
        model,
        {
            "input_features": pixels(generator, batch, model.config.num_mel_bins, frames),
            "decoder_input_ids": words(generator, batch, length),
        },
    )


FAMILIES.add(
    "whisper",
    Family(
        name="whisper",
        kind="audio",
        auto="AutoModelForSpeechSeq2Seq",
        tiny=tiny(
            "whisper",
            {},
            vocab_size=VOCABULARY,
            num_mel_bins=8,
            d_model=64,
            encoder_layers=3,
            decoder_layers=4,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            max_source_positions=16,
            max_target_positions=64,
            init_std=WIDE_SPREAD,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
            decoder_start_token_id=BOS,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
        inputs=_heard,
        own_positions=True,
    ),
)
