"""What is in COCO's images, by its annotations, and tasks that ask for captions of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.evaluation.synonyms import Synonyms
from interp.gallery import Gallery
from interp.task import Record, Task

PROMPT = "Please describe this image in detail."


def coco_objects(
    instances: str | Path, captions: str | Path | None = None, synonyms: Synonyms | None = None
) -> dict[int, list[str]]:
    """Image id -> categories in it, sorted: those of its instances, and those that people's captions name.

    Both are files as COCO publishes them (`instances_val2014.json`, `captions_val2014.json`). CHAIR's
    published code counts both; captions need `synonyms` to be read by. Images without any have [].
    """
    opened = _opened(instances, "images", "annotations", "categories")
    names = {one["id"]: str(one["name"]) for one in opened["categories"]}
    found: dict[int, set[str]] = {one["id"]: set() for one in opened["images"]}
    for each in opened["annotations"]:
        name = names[each["category_id"]]
        found.setdefault(each["image_id"], set()).add(synonyms.category(name) if synonyms else name)
    if captions is not None:
        if synonyms is None:
            raise ValueError("captions are read by synonyms=: Synonyms.load(file).")
        for each in _opened(captions, "annotations")["annotations"]:
            if each["image_id"] in found:
                found[each["image_id"]] |= set(synonyms.mentioned(each["caption"]))
    return {image: sorted(own) for image, own in found.items()}


def coco_task(
    instances: str | Path,
    images: str | Path,
    captions: str | Path | None = None,
    synonyms: Synonyms | None = None,
    *,
    prompt: str = PROMPT,
    count: int | None = None,
    start: int = 0,
) -> Task:
    """A caption of each image, in the order of the file: `count` of them from `start`.

    `images` is the folder they lie in. What is in an image is in the record's notes, `present`.
    """
    objects = coco_objects(instances, captions, synonyms)
    listed = _opened(instances, "images")["images"]
    chosen = listed[start:] if count is None else listed[start : start + count]
    if not chosen:
        raise ValueError(f"{instances} names {len(listed)} images, and none from {start} on.")
    gallery = Gallery(Path(images))
    records = [
        Record(
            prompt,
            image=gallery.open(one["file_name"]),
            notes={"image_id": one["id"], "image": one["file_name"], "present": objects[one["id"]]},
        )
        for one in chosen
    ]
    made = {"file": Path(instances).name, "captions": captions and Path(captions).name}
    return Task("coco captions", tuple(records), made | {"start": start, "prompt": prompt})


def _opened(path: str | Path, *wanted: str) -> Mapping[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} of annotations.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path} is not JSON: {problem.msg}, line {problem.lineno}.") from None
    missing = [name for name in wanted if not isinstance(found, dict) or name not in found]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}, as COCO's annotations do.")
    return found
