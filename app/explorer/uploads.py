"""Images that somebody gives: checked before they are decoded, kept while this server runs."""

import hashlib
import io
import warnings
from typing import TYPE_CHECKING

import streamlit as st

from app.explorer.opened import MEGABYTES, MEGAPIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 1024  # larger images are made smaller: no model here sees more
HELD = 200


def take(name: str, content: bytes) -> str:
    """Keep an image; the digest that links carry."""
    image = opened_image(name, content)
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    held = _held()
    held.pop(digest, None)
    held[digest] = image
    while len(held) > HELD:
        held.pop(next(iter(held)), None)
    return digest


def given(digest: str) -> "Image":
    if digest not in _held():
        raise LookupError(
            "the image of this link is no longer held here (the server was started again, or many "
            "came after it): upload it again."
        )
    return _held()[digest]


def opened_image(name: str, content: bytes) -> "Image":
    """RGB, at most SIDE pixels a side. Size is read from the header: nothing large is decoded."""
    from PIL import Image, UnidentifiedImageError

    if len(content) > MEGABYTES * 1_000_000:
        raise ValueError(
            f"{name!r} has {len(content) / 1e6:.0f} MB; at most {MEGABYTES} are taken."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # counted below
            image = Image.open(io.BytesIO(content))
        pixels = image.width * image.height
        if pixels > MEGAPIXELS * 1_000_000:
            raise ValueError(
                f"{name!r} has {image.width} x {image.height} pixels, {pixels / 1e6:.0f} million; at "
                f"most {MEGAPIXELS} million are taken. Make it smaller."
            )
        image = image.convert("RGB")
    except Image.DecompressionBombError:
        raise ValueError(
            f"{name!r} has far more than {MEGAPIXELS} million pixels. Make it smaller."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as problem:
        raise ValueError(
            f"{name!r} is no image that can be read ({type(problem).__name__}); PNG, JPEG, WebP and GIF can."
        ) from None
    image.thumbnail((SIDE, SIDE))
    return image


@st.cache_resource
def _held() -> "dict[str, Image]":
    return {}
