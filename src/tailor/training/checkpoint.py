"""The state of an unfinished run on disk: safetensors + JSON under `checkpoints/`, never a pickle.

Every file is written beside its place, fsynced and renamed; the JSON, which holds the digests of the tensor files it
belongs to, comes last. So whenever the process dies, the newest JSON whose digests agree is a whole state. The newest
two are kept, and the best weights that they name. What the state holds is for the engine to say.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from tailor.errors import TrainingError

FORMAT = 1
KEPT = 2
OVERHEAD = 1 << 16  # bytes of a checkpoint beside its tensors: names, rows
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A tensor file and its SHA-256."""

    file: str
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    """A state as read: plain values, its tensors, and the best weights so far (none yet: empty)."""

    state: Mapping[str, Any]
    tensors: dict[str, Tensor]
    best: dict[str, Tensor]
    best_stored: Stored | None


def prepare(folder: Path, size: int, best: int) -> None:
    """Make `folder`; TrainingError unless it can be written and has room for checkpoints of `size` + `best` bytes."""
    needed = (KEPT + 1) * (size + best + OVERHEAD)  # the third is the one being written
    probe = folder / "probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            _reserve(file.fileno(), size + OVERHEAD)
        free = shutil.disk_usage(folder).free + probe.stat().st_size
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        _remove(probe)
    if free < needed:
        raise TrainingError(
            f"`{folder}` has {free / 1e6:.0f} MB left, the checkpoints of this run need {needed / 1e6:.0f} MB",
            hint="free some space, or choose another folder with `-o`",
        )


def clear(folder: Path) -> None:
    """Remove the checkpoints of an earlier run."""
    if folder.is_dir():
        _sweep(folder, keep=set())


def write_best(folder: Path, update: int, tensors: Mapping[str, Tensor]) -> Stored:
    """Store the best weights so far; they count once a `write` names them."""
    return _write_tensors(folder, f"best-{update:08d}.safetensors", tensors)


def write(
    folder: Path, update: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], best: Stored | None
) -> None:
    """Store the state after `update` updates; then drop all but the newest two and what they name."""
    stored = _write_tensors(folder, f"step-{update:08d}.safetensors", tensors)
    files = [vars(s) for s in (stored, best) if s is not None]
    _replace(folder / f"step-{update:08d}.json", _json({"format": FORMAT, "files": files, **state}).encode())
    keep = set()
    for path in _states(folder)[:KEPT]:
        keep |= {path.name} | _named(path)
    _sweep(folder, keep)


def read(folder: Path) -> Checkpoint | None:
    """The newest whole state; None where no state was ever finished, TrainingError where all are damaged."""
    states = _states(folder) if folder.is_dir() else []
    for path in states:
        try:
            state = json.loads(path.read_text())
            files = [Stored(**entry) for entry in state["files"]]
            loaded = [_read_tensors(folder, stored) for stored in files]
            if state["format"] == FORMAT and loaded:
                return Checkpoint(state, loaded[0], *((loaded[1], files[1]) if len(loaded) > 1 else ({}, None)))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue  # damaged: the one before may be whole
    if states:
        raise TrainingError(
            f"no checkpoint in `{folder}` is whole: {len(states)} found",
            hint="start again with `--overwrite`",
        )
    return None


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's state as tensors and plain values, not copied; TrainingError where it keeps anything else.

    Kept by the number of the parameter and, as `group-0`, what some (LAMB, schedule-free ones) keep per group.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for owner, state in _states_of(optimizer).items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{owner}/{key}"] = value
            elif value is None or isinstance(value, bool | int | float | str):
                plain[f"{owner}/{key}"] = value
            elif not owner.startswith("group-"):  # a group's other values are settings, such as betas
                raise TrainingError(
                    f"the optimiser {type(optimizer).__name__} keeps `{key}` as {type(value).__name__}, "
                    "which a checkpoint cannot hold",
                    hint="take another optimiser, such as `adamw`",
                )
    return tensors, {"plain": plain, "on": {k.removeprefix("optimizer/"): t.device.type for k, t in tensors.items()}}


def load_optimizer_(optimizer: Optimizer, tensors: Mapping[str, Tensor], stored: Mapping[str, Any]) -> Optimizer:
    """Undo `optimizer_tensors`, from names without their `optimizer/`.

    Not `load_state_dict`, which casts the state to the parameter's dtype.
    """
    parameters = _parameters(optimizer)
    states = {**_states_of(optimizer), **{str(i): optimizer.state[p] for i, p in enumerate(parameters)}}
    for name, value in [*tensors.items(), *stored["plain"].items()]:
        owner, key = name.split("/", 1)
        if isinstance(value, Tensor) and stored["on"][name] != "cpu":
            value = value.to(parameters[0].device)
        states[owner][key] = value
    return optimizer


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line of JSON."""
    _guarded(path, lambda: _append(path, _json(row) + "\n"))


def rewrite(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Replace the lines: those after a checkpoint will be made again."""
    _replace(path, "".join(_json(row) + "\n" for row in rows).encode())


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _states_of(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    states = {str(i): optimizer.state[p] for i, p in enumerate(_parameters(optimizer)) if p in optimizer.state}
    for number, group in enumerate(optimizer.param_groups):
        states[f"group-{number}"] = group
    return states


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _states(folder: Path) -> list[Path]:
    """The JSON files, newest first."""
    return sorted(folder.glob("step-*.json"), reverse=True)


def _named(path: Path) -> set[str]:
    try:
        return {entry["file"] for entry in json.loads(path.read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Stored:
    copies = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    beside = folder / f"{name}.tmp"

    def store() -> str:
        save_file(copies, beside)
        with beside.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(beside, folder / name)
        _sync(folder)
        return digest

    return Stored(name, _guarded(beside, store))


def _read_tensors(folder: Path, stored: Stored) -> dict[str, Tensor]:
    path = folder / Path(stored.file).name  # a name only: a state may not point out of its folder
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stored.digest:
            raise ValueError(path.name)
    return load_file(path)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.tmp")

    def store() -> None:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync(path.parent)

    _guarded(beside, store)


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _guarded(path: Path, work: Callable[[], T]) -> T:
    """`work`, whose failure to write `path` becomes one sentence and leaves no half file."""
    try:
        return work()
    except (OSError, SafetensorError) as error:
        if path.suffix == ".tmp":
            _remove(path)
        raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: Exception) -> TrainingError:
    reason = getattr(error, "strerror", None) or str(error)
    return TrainingError(
        f"checkpoints cannot be written to `{folder}`: {reason}",
        hint="free some space, make the folder writable, or choose another with `-o`; then go on with `--resume`",
    )


def _sweep(folder: Path, keep: set[str]) -> None:
    files = [path for pattern in ("step-*", "best-*") for path in folder.glob(pattern) if path.name not in keep]
    for path in sorted(files, key=lambda p: p.suffix != ".json"):  # a state goes before what it names
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # what cannot be removed does no harm


def _sync(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reserve(handle: int, size: int) -> None:
    """Take `size` bytes on the disk now, so that a quota or a full disk shows."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(handle, 0, size)
