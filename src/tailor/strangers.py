"""JSON and files of strangers: read in bounded time and memory, before anything looks into them."""

import json
from pathlib import Path
from typing import Any

from tailor.errors import BundleError

AGAIN = "the bundle is damaged or was edited by hand; make or copy it again"
LARGEST = 16 << 20  # bytes; index lists, the only long thing in a spec, are tensors
MOST_PARTS = 1 << 18  # lists and objects
DEEPEST = 40


def read_json(file: Path) -> Any:
    """The values in a JSON file; BundleError where it is a link, is not JSON, or holds more than any of ours."""
    if is_link(file):
        raise BundleError(f"`{file}` is a link to another file", hint=AGAIN)
    size = file.stat().st_size
    if size > LARGEST:
        raise BundleError(f"`{file}` has {size:,} bytes, more than {LARGEST:,}", hint=AGAIN)
    try:
        text = file.read_text(encoding="utf-8")
        parts = text.count("[") + text.count("{")
        if parts > MOST_PARTS:
            raise BundleError(f"`{file}` holds {parts:,} lists and objects, more than {MOST_PARTS:,}", hint=AGAIN)
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(f"`{file}` is not JSON: it was cut short or changed", hint=AGAIN) from None
    except OSError as error:
        raise BundleError(f"`{file}` cannot be read: {error.strerror}", hint="check path and permissions") from None
    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """BundleError where lists and objects are nested deeper than any spec's, before anything recurses into them."""
    level, depth = [values], 0
    while level:
        if depth > DEEPEST:
            raise BundleError(f"the JSON is nested deeper than {DEEPEST} levels", hint=AGAIN)
        inner = [
            v
            for one in level
            if isinstance(one, (dict, list))
            for v in (one.values() if isinstance(one, dict) else one)
        ]
        level, depth = [one for one in inner if isinstance(one, (dict, list))], depth + 1


def is_link(file: Path) -> bool:
    """Whether the file's content is also another file's: a symbolic link, or one of several names."""
    return file.is_symlink() or (file.is_file() and file.stat().st_nlink > 1)
