"""Bytes that a folder (a bundle) or a file takes, file by file: the lengths of the files, not the blocks of a disk."""

from pathlib import Path

from tailor.errors import UsageError


def bytes_by_file(path: Path | str, skip: tuple[str, ...] = ()) -> dict[str, int]:
    """Length of each file below `path` by its relative posix name, largest first; links are not followed.

    `skip` names entries of the top folder to leave out (`checkpoints`, which a finished bundle does not need). Raises
    `UsageError` where nothing is there.
    """
    root = Path(path)
    if root.is_file():
        return {root.name: root.stat().st_size}
    if not root.is_dir():
        raise UsageError(f"there is no file or folder: `{root}`", hint="give the path of a bundle")
    found = {}
    for file in root.rglob("*"):
        inside = file.relative_to(root)
        if file.is_file() and not file.is_symlink() and inside.parts[0] not in skip:
            found[inside.as_posix()] = file.stat().st_size
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def total_bytes(path: Path | str, skip: tuple[str, ...] = ()) -> int:
    """Sum of `bytes_by_file`."""
    return sum(bytes_by_file(path, skip).values())
