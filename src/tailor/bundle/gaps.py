"""Sorted indices in one or two bytes each: the gaps between them as numbers of seven bits a byte.

A byte of 128 or more says that its number goes on in the next one, the lowest seven bits first (LEB128). The first
number is the first index, every other one the gap less one. Single weights lie close together, in few rows and columns.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tailor.errors import BundleError
from tailor.strangers import AGAIN

MOST_BYTES = 5
"""A number has at most 35 bits; an index of any tensor fits."""


def fits(indices: Sequence[int]) -> bool:
    """Whether they can be told by gaps: sorted, each once, none below zero, none of more than 35 bits."""
    return (
        bool(indices)
        and indices[0] >= 0
        and indices[-1] < 1 << 7 * MOST_BYTES
        and all(a < b for a, b in pairwise(indices))
    )


def encode(indices: Sequence[int]) -> Tensor:
    """The bytes (uint8) of indices that `fits`."""
    flat = np.asarray(indices, dtype=np.int64)
    numbers = np.diff(flat, prepend=-1) - 1
    lengths = np.ones_like(numbers)
    for place in range(1, MOST_BYTES):
        lengths += numbers >= 1 << 7 * place
    starts = np.cumsum(lengths) - lengths
    found = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for place in range(MOST_BYTES):
        own = lengths > place
        more = np.where(lengths[own] > place + 1, 128, 0)
        found[starts[own] + place] = (numbers[own] >> 7 * place & 127) + more
    return torch.from_numpy(found)


def decode(coded: Tensor, name: str) -> list[int]:
    """The indices again; BundleError where the bytes of the list `name` are none that `encode` writes."""
    data = coded.numpy()
    last = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if coded.dim() != 1 or not len(last) or last[-1] != len(data) - 1 or int((last - starts).max()) >= MOST_BYTES:
        raise BundleError(f"the index list `{name}` is no list of gaps", hint=AGAIN)
    places = np.arange(len(data)) - np.repeat(starts, last - starts + 1)
    numbers = np.add.reduceat((data & 127).astype(np.int64) << 7 * places, starts)
    return (np.cumsum(numbers + 1) - 1).tolist()  # type: ignore[no-any-return]
