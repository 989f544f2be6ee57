"""Which records a decision is made on: a share of every class, each split in its own order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tailor.data.images import Split


def drawn(splits: Sequence[Split], samples: int, seed: int) -> list[Split]:
    """Of the splits together, `samples` records at most, the same share of every class where targets are classes."""
    targets = [record.target for split in splits for record in split.records]
    classes = all(isinstance(target, int) for target in targets)
    labels = np.asarray(targets if classes else [0] * len(targets), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = set(np.argsort(share, kind="stable")[:samples].tolist())
    parts, start = [], 0
    for split in splits:
        records = tuple(r for i, r in enumerate(split.records, start) if i in chosen)
        parts.append(replace(split, records=records))
        start += len(split)
    return parts
