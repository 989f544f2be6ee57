"""Batches of images, reproducible: the order depends on (seed, epoch), an image's draws on (seed, epoch, index, copy).

So neither the number of workers or processes nor a resume in mid-epoch changes what a model sees. A split whose resized
images fit in memory is decoded once. Deviation from `DataLoader`: errors in workers come back as DataError, unwrapped.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tailor.data.records import Split
from tailor.data.targets import Collate, stacked
from tailor.data.transforms import Frame, Transform
from tailor.errors import DataError

MEMORY_LIMIT = 2 * 10**9  # bytes of resized images kept per split and frame, on a machine with eight times as many
ORDER, DRAW = 1, 2  # what a seed sequence is for; without it (seed, epoch) and (seed, epoch, 0) would be one stream


class Batch(NamedTuple):
    """Images (B, 3, H, W) float, B targets, positions in the split (B,) int64, and the B sources.

    Targets are what the task's `collate` made: classes (B,) int64, masks (B, H, W), or a tuple of one an image; they
    can be cut to `[start:stop]`. `left_out` holds pairs of source and reason for images that could not be read and were
    left out.
    """

    images: Tensor
    targets: Any
    indices: Tensor
    sources: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def loader(
    split: Split,
    transform: Callable[[Image.Image], Tensor],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    drop_last: bool = False,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    memory: bool = True,
    repeats: int = 1,
    collate: Collate = stacked,
) -> "Loader":
    """The batches of one epoch, from global batch `start` on; `len()` is their number.

    `batch_size` is that of all `world` processes together; rank r gets its contiguous share of each batch, in order,
    sizes differing by at most one (so of a last batch smaller than `world` some ranks get (0, 3, H, W)). Where `memory`
    is set, resized images that fit are kept with `split` for the next epoch. With `repeats` an image comes up that
    often in a row, each time drawn anew, and an epoch sees a part of the images. `collate` puts images and targets
    together; a `Transform` moves masks and boxes with their image, another callable sees the image alone. Iterating
    raises DataError for an unreadable image, which a tolerant split leaves out instead; it then raises where nothing
    near it can be read.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise DataError(
            f"batch size {batch_size}, rank {rank} of {world} processes: no such batch",
            hint="write for instance `--batch-size 64`",
        )
    if workers < 0:
        raise DataError(f"{workers} loading processes cannot be", hint="write for instance `--workers 2`")
    if len(split) == 0:
        raise DataError(f"the {split.name} split has no images", hint="see what was found: `tailor inspect DATA`")
    plan = batches(
        len(split), batch_size, seed=seed, epoch=epoch, shuffle=shuffle, drop_last=drop_last, repeats=repeats
    )
    pixels = cached(split, transform) if memory and isinstance(transform, Transform) else None
    images = _Images(split, transform, pixels, seed, epoch, rank, world, repeats, collate)
    return Loader(images, tuple(plan[start:]), workers)


def batches(
    count: int, batch_size: int, *, seed: int, epoch: int, shuffle: bool, drop_last: bool = False, repeats: int = 1
) -> list[tuple[int, ...]]:
    """Every global batch of an epoch over `count` images: for the copy c of image i the number `i * repeats + c`."""
    order = np.random.default_rng([ORDER, seed, epoch]).permutation(count) if shuffle else np.arange(count)
    order = (order[:, None] * repeats + np.arange(repeats)).reshape(-1)[:count]
    stop = count - count % batch_size if drop_last else count
    return [tuple(int(i) for i in order[at : at + batch_size]) for at in range(0, stop, batch_size)]


@dataclass(frozen=True)
class Loader:
    """An epoch of batches; may be iterated again and gives the same ones."""

    images: "_Images"
    plan: tuple[tuple[int, ...], ...]
    workers: int

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        source: DataLoader[Batch | DataError] = DataLoader(
            self.images,
            sampler=self.plan,  # type: ignore[arg-type]  # one item is a whole batch
            batch_size=None,
            num_workers=min(self.workers, available),  # the result does not depend on it; more only make torch warn
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else every pass draws from the global one
        )
        try:
            for batch in source:
                if isinstance(batch, DataError):
                    raise batch
                self.images.split.left_out.update(batch.left_out)
                yield batch
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):  # else it is an error that a worker met
                raise
            raise DataError(
                f"a loading process ended: {str(error).splitlines()[0]}",
                hint="it may lack memory or shared memory: use fewer workers, or none",
            ) from None


def _as_it_is(batch: Any) -> Any:
    return batch  # torch's default would turn the tuple of sources into a list


_NEAR = 64
"""Unreadable images in a row after which a tolerant split is given up."""


@dataclass(frozen=True)
class _Images(Dataset[Batch | DataError]):
    """Item `batch` (numbers of copies): this rank's share, or the error met; raised in a worker, it loses its type."""

    split: Split
    transform: Callable[[Image.Image], Tensor]
    pixels: "PixelMemory | None"
    seed: int
    epoch: int
    rank: int
    world: int
    repeats: int = 1
    collate: Collate = stacked

    def __getitem__(self, batch: tuple[int, ...]) -> Batch | DataError:
        count = len(batch)
        share = batch[self.rank * count // self.world : (self.rank + 1) * count // self.world]
        found, lost = [], []
        for number in share:
            index, copy = divmod(number, self.repeats)
            try:
                found.append((*self._sample(index, copy), index))
            except DataError as error:
                if not self.split.tolerant:
                    return DataError(error.message, error.hint)  # without the traceback, which may not pickle
                lost.append((self.split.records[index].source, error.message))
        try:
            if found:
                images, targets = self.collate([image for image, _, _ in found], [target for _, target, _ in found])
            else:
                images, targets = self._none(batch[0] // self.repeats)
        except DataError as error:
            return DataError(error.message, error.hint)
        indices = torch.tensor([index for _, _, index in found], dtype=torch.int64)
        sources = tuple(self.split.records[index].source for _, _, index in found)
        return Batch(images, targets, indices, sources, tuple(lost))

    def _none(self, start: int) -> tuple[Tensor, Any]:
        """No sample, in the shapes that samples have: a process whose share is empty must run the step as well."""
        last: DataError | None = None
        for index in range(start, start + _NEAR if self.split.tolerant else start + 1):
            try:
                image, target = self._sample(index % len(self.split), 0)
                images, targets = self.collate([image], [target])
                return images[:0], targets[:0]
            except DataError as error:
                last = error
        assert last is not None
        raise last

    def _sample(self, index: int, copy: int) -> tuple[Tensor, Any]:
        # The default generator is borrowed and given back: torchvision's transforms know no other. Not
        # `torch.manual_seed`, which would reseed the accelerators as well.
        state = torch.get_rng_state()
        try:
            words = np.random.SeedSequence(
                [DRAW, self.seed, self.epoch, index, *([copy] if copy else [])]
            ).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(words[0] >> np.uint64(1)))
            if not isinstance(self.transform, Transform):
                return self.transform(self.split.read(index)), self.split.target(index)
            if self.pixels is None:
                return self.transform.pair(*self.split.sample(index))
            return self.transform.finish(self.pixels.read(self.split, index), self.split.target(index))
        finally:
            torch.set_rng_state(state)


def cached(split: Split, transform: Transform, limit: int | None = None) -> "PixelMemory | None":
    """The memory of `split` for what `transform.frame` makes; None where sizes vary or all exceed `limit` bytes.

    The limit is `MEMORY_LIMIT`, or an eighth of the machine's memory where that is less.

    It fills as images are read, is shared with forked workers, and dies with the split. The result is exact: with and
    without it a transform gets the same uint8 pixels.
    """
    size = transform.frame.size
    if limit is None:
        limit = min(MEMORY_LIMIT, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8)
    if size is None or len(split) * 3 * size[0] * size[1] > limit:
        return None
    if transform.frame not in split.memory:
        split.memory[transform.frame] = PixelMemory(transform.frame, len(split), size)
    return split.memory[transform.frame]


class PixelMemory:
    """uint8 images (N, 3, h, w) in anonymous shared memory, which takes space only as it is written.

    Not `Tensor.share_memory_`: that lives in /dev/shm, which containers keep small, and a full one kills the process.
    """

    def __init__(self, frame: Frame, count: int, size: tuple[int, int]) -> None:
        shape = (count, 3, *size)
        self.frame = frame
        self.images = torch.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=torch.uint8).view(shape)
        self.known = torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)

    def read(self, split: Split, index: int) -> Tensor:
        """Image `index` after the frame, (3, h, w) uint8; a copy, so that no transform can change what is kept."""
        if not self.known[index]:
            self.images[index] = self.frame(split.sample(index)[0])
            self.known[index] = 1  # after the pixels: another process may be looking
        return self.images[index].clone()
