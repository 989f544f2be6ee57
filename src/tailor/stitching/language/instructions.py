"""Instruction data in Alpaca's layout as batches of tokens: what a response is, and how much of a batch counts.

The prompt is masked out of the loss. With packing, short examples share a row, each still reading what stands before it
in the row, as is usual; without, every example has a row of its own, padded on the right.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.errors import DataError

IGNORED = -100
TEMPLATE = "### Instruction:\n{instruction}\n\n### Response:\n"
WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


@dataclass(frozen=True)
class Example:
    """One instruction, what it is about (may be empty), and the answer that is expected."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """What a model is given."""
        return (WITH_INPUT if self.input else TEMPLATE).format(instruction=self.instruction, input=self.input)


@dataclass(frozen=True)
class Tokens:
    """Token numbers (B, N) and which of them are there (B, N): moved like images, but never made floats."""

    ids: Tensor
    mask: Tensor

    def to(self, device: Any, dtype: Any = None, non_blocking: bool = False) -> "Tokens":
        """The same on another device."""
        return Tokens(self.ids.to(device, non_blocking=non_blocking), self.mask.to(device, non_blocking=non_blocking))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "Tokens":
        return Tokens(self.ids[rows], self.mask[rows])


@dataclass(frozen=True)
class Batch:
    """What the engine takes: tokens in the images' place, and the labels (B, N), `IGNORED` where nothing is learnt."""

    images: Tokens
    targets: Tensor
    indices: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Responses:
    """The task: cross-entropy of the next token over the responses; a share counts by its response tokens."""

    kind: str = "language"
    metric: str = "loss"
    larger: bool = False

    def weight(self, targets: Tensor) -> int:
        """Tokens that are learnt."""
        return int((targets[:, 1:] != IGNORED).sum())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of (B, N, V) over the tokens that are learnt, each said one place before."""
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), ignore_index=IGNORED)

    def learn(self, logits: Tensor, taught: Tensor, targets: Tensor) -> Tensor:
        """The same with what a teacher takes for the next token, on the same places."""
        own = torch.full_like(targets, IGNORED)
        own[:, 1:] = taught[:, :-1].argmax(-1)
        return self.loss(logits, torch.where(targets == IGNORED, targets, own))


def read(path: Path) -> tuple[Example, ...]:
    """The examples of a JSON list (or JSON lines) of `instruction`, `input`, `output`; DataError where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line] if path.suffix == ".jsonl" else json.loads(text)
        found = tuple(Example(str(r["instruction"]), str(r.get("input", "")), str(r["output"])) for r in rows)
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}", hint="check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"`{path}` is no list of instructions", hint='write `[{"instruction": ..., "input": "", "output": ...}]`'
        ) from None
    if not found:
        raise DataError(f"`{path}` holds no instruction", hint="give it at least one")
    return found


def encode(example: Example, tokeniser: Any, longest: int) -> tuple[list[int], list[int]]:
    """Tokens and labels of an example, the end-of-text behind the response, at most `longest`."""
    prompt = tokeniser(example.prompt)["input_ids"]
    response = [*tokeniser(example.output, add_special_tokens=False)["input_ids"], tokeniser.eos_token_id]
    ids, labels = [*prompt, *response], [*[IGNORED] * len(prompt), *response]
    return ids[:longest], labels[:longest]


def packed(rows: Sequence[tuple[list[int], list[int]]], longest: int) -> list[tuple[list[int], list[int]]]:
    """The rows joined, in order, as long as they fit; the first label of a joined part is not learnt."""
    found: list[tuple[list[int], list[int]]] = []
    for ids, labels in rows:
        if found and len(found[-1][0]) + len(ids) <= longest:
            found[-1][0].extend(ids)
            found[-1][1].extend([IGNORED, *labels[1:]])
        else:
            found.append((list(ids), list(labels)))
    return found


def batches(rows: Sequence[tuple[list[int], list[int]]], order: Sequence[int], size: int, pad: int) -> Iterator[Batch]:
    """Batches of rows in that order, padded on the right to the longest of each."""
    for start in range(0, len(order), size):
        chosen = list(order[start : start + size])
        longest = max(len(rows[i][0]) for i in chosen)
        ids = torch.full((len(chosen), longest), pad)
        labels = torch.full((len(chosen), longest), IGNORED)
        mask = torch.zeros(len(chosen), longest, dtype=torch.long)
        for at, i in enumerate(chosen):
            length = len(rows[i][0])
            ids[at, :length], labels[at, :length] = torch.tensor(rows[i][0]), torch.tensor(rows[i][1])
            mask[at, :length] = 1
        yield Batch(Tokens(ids, mask), labels, torch.tensor(chosen), tuple(f"example {i}" for i in chosen))
