"""One pass of images through a model, with what the watched modules were given and made."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class WatchedCall:
    """One call of a module: copies of its first argument and its output, and the tensors themselves.

    What comes after may change these in place, as activations do.
    """

    given: Tensor
    made: Tensor
    entered: Tensor
    left: Tensor


@dataclass
class Calls:
    """The calls of a pass by path, in the order of each path's first one."""

    by_path: dict[str, list[WatchedCall]] = field(default_factory=dict)

    def of(self, path: str) -> list[WatchedCall]:
        """The calls of one module; none where its code is not run."""
        return self.by_path.get(path, [])


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """Everything that is watched was called."""


@contextmanager
def watching(model: nn.Module, counts: dict[str, int] | Collection[str]) -> Iterator[Calls]:
    """Record the calls of modules while the model runs in `passed`.

    Where `counts` says how often each is called, the pass ends with the last of these calls.
    """
    calls = Calls()
    left = sum(counts.values()) if isinstance(counts, dict) else -1
    handles = []

    def note(path: str, arguments: tuple[object, ...], made: object) -> None:
        nonlocal left
        if arguments and isinstance(arguments[0], Tensor) and isinstance(made, Tensor):
            calls.by_path.setdefault(path, []).append(
                WatchedCall(arguments[0].clone(), made.clone(), arguments[0], made)
            )
        left -= 1
        if left == 0:
            raise _Enough

    for path in counts:
        hook = lambda module, arguments, made, path=path: note(path, arguments, made)  # noqa: E731
        handles.append(model.get_submodule(path).register_forward_hook(hook))
    try:
        yield calls
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
