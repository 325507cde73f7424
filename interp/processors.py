"""Opening processors on a machine without torchvision."""

from typing import Any


def open_processor(name: str, config: Any, **settings: Any) -> Any:
    """What `AutoProcessor` opens; a processor that also reads videos is opened without that part.

    Its video processor exists only on torchvision, and without it the whole would not open.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils.import_utils import is_torchvision_available

    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or "video_processor" not in kind.get_attributes() or is_torchvision_available():
        return AutoProcessor.from_pretrained(name, **settings)
    return without_video(kind).from_pretrained(name, **settings)


def without_video(kind: Any) -> Any:
    """A processor class that takes no video processor."""
    names = [name for name in kind.get_attributes() if name != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: list(names))})
