"""The images of records: opened from a folder, and put into one beside the records' file."""

import hashlib
import io
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

OWN = r"\d{4,}(?:_counterfactual)?\.png"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # those that come back as they went


class Gallery:
    """The images of a folder, each opened once: rows that name one image share it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._opened: dict[str, Image] = {}

    def open(self, name: str) -> "Image":
        """The image of this name, opened once."""
        if name not in self._opened:
            self._opened[name] = _opened(self.folder / name)
        return self._opened[name]


def _opened(path: Path) -> "Image":
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(
            f"there is no image {str(path)!r}. images= takes the folder where the images are."
        )
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)  # photographs may lie on their side
    except UnidentifiedImageError:
        raise ValueError(f"{str(path)!r} is not an image that Pillow can open.") from None
    # Of what a file says beside its pixels, only this changes how they look.
    image.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return image


class Album:
    """A folder of PNG files in the making; equal images are one file.

    The folder is called as the records' file is, less its ending. It takes the place of an older
    one only where that holds nothing but what was saved there before.
    """

    def __init__(self, records: Path):
        self.records = records
        self.folder = records.with_suffix("")
        self._part = records.with_name(f".{self.folder.name}.part")
        self._names: dict[bytes, str] = {}

    def __enter__(self) -> "Album":
        shutil.rmtree(self._part, ignore_errors=True)
        return self

    def __exit__(self, *problem: object) -> None:
        shutil.rmtree(self._part, ignore_errors=True)

    def add(self, image: "Image", name: str) -> str:
        """Keep an image; the path to write into the records."""
        if image.mode not in PNG_MODES:
            raise ValueError(
                f"an image of mode {image.mode!r} does not fit into PNG as it is. "
                "Convert it: image.convert('RGB')."
            )
        if not self._names:
            self._begin()
        file = io.BytesIO()
        image.save(file, "PNG")
        content = hashlib.sha256(file.getvalue()).digest()
        if content not in self._names:
            self._names[content] = name
            (self._part / name).write_bytes(file.getvalue())
        return f"{self.folder.name}/{self._names[content]}"

    def put_in_place(self) -> None:
        """From the temporary folder to the lasting one.

        Records that were there go first: a kill in between must not leave them with other images.
        """
        if self.folder.is_dir() and self._is_ours():
            self.records.unlink()
            shutil.rmtree(self.folder)
        if self._names:
            self._part.rename(self.folder)

    def _begin(self) -> None:
        if self.folder.exists() and not self._is_ours():
            raise FileExistsError(
                f"{str(self.folder)!r} is there, and is not the folder of images that earlier "
                "records left beside them. Save under another name."
            )
        self._part.mkdir()

    def _is_ours(self) -> bool:
        """Whether all that lies in the folder was saved there, and is named by the records."""
        if not self.records.is_file():
            return False
        text = self.records.read_text(encoding="utf-8", errors="replace")
        named = set(re.findall(rf'"{re.escape(self.folder.name)}/({OWN})"', text))
        return all(file.name in named for file in self.folder.glob("*"))
