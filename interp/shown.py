"""Images as a user gives them: refused where nothing reads them, one list for each row."""

from typing import Any


def as_image(value: Any) -> Any:
    """A PIL image in RGB."""
    import numpy
    from PIL import Image

    if isinstance(value, numpy.ndarray) and value.ndim in (2, 3) and value.dtype == numpy.uint8:
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise ValueError(
            f"an image must be a PIL image or a uint8 array [height, width, 3], not "
            f"{type(value).__name__}. Open a file with PIL.Image.open(path)."
        )
    return value if value.mode == "RGB" else value.convert("RGB")


def check_images(model: Any) -> None:
    """Refuse images for a model that cannot take them in."""
    name = type(model.hf).__name__
    if model.kind not in ("vlm", "dual", "vision"):
        raise ValueError(
            f"images were given to {name}, which reads text only. Give the text alone, or load a "
            "vision-language model."
        )
    if model.image_processor is None:
        raise ValueError(
            f"images were given to {name}, and there is no processor to read them. Give one: "
            "interp.wrap(hf_model, processor)."
        )


def by_row(images: Any, rows: int, beside: bool = False) -> list[list[Any]]:
    """One list of RGB images for each row."""
    if images is None:
        return [[] for _ in range(rows)]
    if not isinstance(images, list | tuple):
        images = [images]
    if any(isinstance(each, list | tuple) for each in images):
        nested = [list(each) if isinstance(each, list | tuple) else [each] for each in images]
    else:
        nested = [list(images)] if rows == 1 else [[each] for each in images]
    if len(nested) != rows and not beside:
        raise ValueError(
            f"{len(nested)} images for {rows} prompts. Give one image a prompt, or a list of "
            "images for each."
        )
    return [[as_image(image) for image in own if image is not None] for own in nested]
