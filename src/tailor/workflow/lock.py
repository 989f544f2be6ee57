"""One writer at a time: a file beside the folder, locked while the run lasts, names the host and process that has it.

The kernel holds the lock (`flock`) and lets go of it with the process, however that ends: so a file that was left
behind is nobody's, and of several that take it over at once one gets it. What the file says is for people, and for
other hosts, whose locks not every shared file system passes on.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailor.bundle.files import alive
from tailor.errors import BundleError

PATIENCE = 10.0
"""Seconds for which the loading processes of a killed run, which end by themselves, may still hold its lock."""
_UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # a file system without such locks


@contextmanager
def locked(final: Path) -> Iterator[None]:
    """While open, no other run writes to the folder; BundleError where one does, or where nothing can be written."""
    lock = final.parent / f".{final.name}.lock"
    try:
        made = [p for p in (final.parent, *final.parent.parents) if not p.exists()]
        final.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(lock, final)
    except OSError as error:
        raise BundleError(f"`{final}` cannot be written: {error.strerror}", hint="choose another `-o` folder") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is let go: who opened it meanwhile sees that it is no longer there
        os.close(handle)
        for folder in made:
            with suppress(OSError):  # the run's folder is in it
                folder.rmdir()


def _take(lock: Path, final: Path) -> int:
    """The locked file's handle; BundleError where another run has it."""
    end = time.monotonic() + PATIENCE
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # of a pipe, not waiting
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BundleError(f"`{lock}` is no file, and a run keeps its lock there", hint="move it away")
            if _free(handle, lock, final):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() > end:
            raise BundleError(f"another run is writing to `{final}`", hint="choose another `-o` folder")
        time.sleep(0.05)


def _free(handle: int, lock: Path, final: Path) -> bool:
    """Whether the file is now locked by us; False where it is worth another try."""
    got = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        got = False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        got = not alive(_holder(handle)[1])
    host, pid = _holder(handle)
    if host != socket.gethostname() or (not got and alive(pid)):
        raise BundleError(
            f"another run is writing to `{final}`: process {pid} on `{host}`",
            hint=f"choose another `-o` folder, or remove `{lock}` if that process is gone",
        )
    with suppress(FileNotFoundError):  # or it was removed between: then this is no longer the lock
        return got and os.path.samestat(os.fstat(handle), os.stat(lock))
    return False


def _holder(handle: int) -> tuple[str, int]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return str(found["host"]), int(found["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return socket.gethostname(), 0  # not written yet, or cut short
