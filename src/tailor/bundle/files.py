"""Writing a file so that it is either whole or absent: beside its place, fsynced, renamed."""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tailor.errors import BundleError

PARTIAL = ".partial"
_NUMBERS = re.compile(r"\[\n\s*-?[0-9][-+.0-9eE,\s]*\]")
"""A list of numbers only, broken into lines; no string can match, because JSON writes their line breaks as `\\n`."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and takes `path`'s place, on failure it is removed.

    BundleError where the disk is full or the file cannot be written, by Python's means or by safetensors'.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise BundleError(f"`{path}` cannot be written: {reason}", hint="make room, or choose another `-o`") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; a byte of a name that is no UTF-8 stands as the escape that JSON reads back."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def dumps(value: Any) -> str:
    """JSON for people: indented, but lists of numbers on one line, since index lists are long."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", "", found[0]), text) + "\n"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def alive(pid: int) -> bool:
    """Whether the process runs on this machine."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    except OverflowError:  # no process can have it
        return False
    return True


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
