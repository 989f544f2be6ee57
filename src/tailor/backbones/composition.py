"""A backbone taken apart into stem, blocks and tail, which put together again compute what the model computes.

Each family file says what its parts are (`parts`); this file holds the record, and reads the maps of the levels off
the way through the blocks. A part calls the modules that stand in the model now, wrapped, cut or shortened as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.backbones.walk import within
from tailor.errors import ModelError

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class BlockStep:
    """One step between stem and tail: a residual block, or (`residual` False) what changes the map between stages."""

    path: str
    run: Callable[[Tensor], Tensor]
    residual: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The state after it."""
        return self.run(x)


@dataclass(frozen=True)
class Parts:
    """`tail(blocks(stem(images)))` is the model. The state between is the family's own: (B, N, C), NHWC or NCHW.

    `to_map` makes a map (B, C, H, W) of a state: prefix tokens are left out, channels come first.
    """

    stem: Callable[[Tensor], Tensor]
    blocks: tuple[BlockStep, ...]
    tail: Callable[[Tensor], Tensor]
    to_map: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """What the model gives for the images."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.tail(x)


def maps(parts: Parts, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """A map (B, C, H, W) a level: the state after the last part that stands at the level's path.

    Where all blocks of a level were dropped, it is what the level before gives (the stem, for the first).
    """
    ends: list[int] = []
    for level in levels:
        inside = [i for i, part in enumerate(parts.blocks) if within(part.path, (level.path,))]
        ends.append(inside[-1] if inside else max(ends, default=-1))
    state = parts.stem(images)
    states = {-1: state}
    for index, part in enumerate(parts.blocks[: max(ends, default=-1) + 1]):
        state = part(state)
        if index in ends:
            states[index] = state
    return tuple(parts.to_map(states[end]) for end in ends)


@contextmanager
def temporarily(modules: Sequence[nn.Module], **settings: object) -> Iterator[None]:
    """Set attributes of modules that have them for as long as the context lasts."""
    before = [(m, n, getattr(m, n)) for m in modules for n in settings if hasattr(m, n)]
    try:
        for module, name, _ in before:
            setattr(module, name, settings[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def embed_patches(embed: Any, images: Tensor) -> Tensor:
    """Patches of images of any size that whole patches cover, as timm's module lays them out (tokens or NHWC)."""
    height, width = embed.patch_size
    if images.shape[-2] % height or images.shape[-1] % width:
        raise ModelError(
            f"an image of {images.shape[-2]} x {images.shape[-1]} is not made of patches of {height} x {width}",
            hint="pad or resize it to a multiple of the patch",
        )
    with temporarily([embed], strict_img_size=False):
        return embed(images)  # type: ignore[no-any-return]
