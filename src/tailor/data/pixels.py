"""From a file to an 8-bit RGB image: the only place that knows what image files can be like.

Orientation (EXIF) is applied, 16-bit grey is scaled, transparency lies on white, an animation gives its first frame.
What cannot be decoded is a DataError that names the file; so is what is no ordinary file, of no format in `FORMATS`
(Pillow would start Ghostscript for PostScript), or of a shape that would take memory here or when it is resized.
"""

import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tailor.errors import DataError

T = TypeVar("T")

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MOST_BYTES = 1 << 30  # of a file
MOST_SIDE = 1 << 16  # pixels; how many in all is Pillow's `Image.MAX_IMAGE_PIXELS` (89 million)
MOST_RATIO = 100
"""Of the longer side to the shorter: where the shorter side is resized to S, no copy has more than 100 S^2 pixels."""
# What Pillow's decoders raise on damaged files; anything else is a bug and stays a traceback.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError, OverflowError)


def read_image(path: str | Path) -> Image.Image:
    """The image in a file as 8-bit RGB; raises DataError naming the file where there is none."""
    return decode(Path(path), str(path))


def decode(file: Path | BinaryIO, name: str) -> Image.Image:
    """The image in `file` (a path or a stream) as 8-bit RGB; raises DataError that calls it `name`."""
    return opened(file, name, to_rgb)


def opened(file: Path | BinaryIO, name: str, convert: Callable[[Image.Image], T]) -> T:
    """What `convert` makes of the image in `file`, which it has to load; raises DataError that calls it `name`."""
    try:
        if isinstance(file, Path):
            _check_file(file, name)
        with warnings.catch_warnings():
            # Remarks on odd palettes and EXIF blocks are noise; a picture too large to be one is not.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                _check_shape(image.size, name)
                return convert(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"`{name}` has more than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels",
            hint="scale it down, or raise `PIL.Image.MAX_IMAGE_PIXELS` if the file can be trusted",
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"`{name}` is not an image that can be read", hint=f"delete it, or save it as one of {', '.join(FORMATS)}"
        ) from None
    except MemoryError:
        raise DataError(f"`{name}` does not fit into memory", hint="scale the image down") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"`{name}` cannot be opened: {error.strerror}", hint="check path and permissions") from None
    except DAMAGE as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"`{name}` is damaged: {detail}", hint="delete the file, or copy it again") from None


def _check_file(file: Path, name: str) -> None:
    """DataError for a pipe or device, which might never end, and for a file of no byte or too many."""
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        return  # opening it says so
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"`{name}` is no ordinary file", hint="delete it, or put a copy of the image there")
    if found.st_size == 0:
        raise DataError(f"`{name}` is empty (0 bytes)", hint="delete the file, or copy it again")
    if found.st_size > MOST_BYTES:
        raise DataError(f"`{name}` has {found.st_size / 1e9:.1f} GB, more than an image takes", hint="save it as PNG")


def _check_shape(size: tuple[int, int], name: str) -> None:
    """DataError for an image so long that a copy with its shorter side resized would not fit into memory."""
    long, short = max(size), min(size)
    if long > MOST_SIDE or long > MOST_RATIO * short:
        raise DataError(
            f"`{name}` is {size[0]} x {size[1]} pixels: a side has {MOST_SIDE:,} at most, {MOST_RATIO} times the other",
            hint="cut it into pieces",
        )


def to_rgb(image: Image.Image) -> Image.Image:
    """`image`, upright, as 8-bit RGB: deep grey scaled to 0..255, transparency on white."""
    image.load()  # the first frame; decodes now, so that damage shows here
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image).convert("RGB")
    # `convert` copies, so the caller may close the file that `image` came from.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Deep grey values as uint8: 16-bit by its nominal range, 32-bit and float beyond theirs by the largest value."""
    scaled = values.astype(np.float64)
    top = float(np.nanmax(scaled)) if scaled.size else 0.0
    if mode == "F":
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        full = 65535.0 if top <= 65535 else top
    return np.nan_to_num(scaled * (255 / full)).clip(0, 255).round().astype(np.uint8)
