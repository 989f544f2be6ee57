"""Instructions as tokens: the layout in which a causal language model reads a task, and which tokens it has to say.

A prompt is masked out of what is learnt. With packing, short examples share a row, each still reading what stands
before it in the row, as is usual.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tailor.backbones.causal import padding
from tailor.surgery import as_held

IGNORED = -100
"""The label of a token that is not learnt."""
TEMPLATE = "### Instruction:\n{instruction}\n\n### Response:\n"
WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"


@dataclass(frozen=True)
class Instruction:
    """One instruction, what it is about (may be empty), and the answer that is expected (empty where none is known)."""

    instruction: str
    input: str = ""
    output: str = ""

    @property
    def prompt(self) -> str:
        """What a model is given."""
        return (WITH_INPUT if self.input else TEMPLATE).format(instruction=self.instruction, input=self.input)


def encode(example: Instruction, tokeniser: Any, longest: int) -> tuple[list[int], list[int]]:
    """Tokens and labels of an example, the end-of-text behind the response, at most `longest`.

    Of an example that is too long the prompt's beginning goes, as long as there is any: a response has to be learnt.
    """
    prompt = list(tokeniser(example.prompt)["input_ids"])
    response = [*tokeniser(example.output, add_special_tokens=False)["input_ids"], tokeniser.eos_token_id]
    over = min(max(len(prompt) + len(response) - longest, 0), len(prompt) - 1)
    ids, labels = [*prompt[over:], *response], [*[IGNORED] * (len(prompt) - over), *response]
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


@torch.no_grad()
def answers(model: Any, tokeniser: Any, prompts: Sequence[str], new: int = 32, **how: Any) -> list[str]:
    """What a language model says to each prompt, greedily unless told otherwise, in one batch padded on the left."""
    pad = padding(tokeniser)
    rows = [tokeniser(prompt)["input_ids"] for prompt in prompts]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    device = next(model.parameters()).device
    how = {
        "do_sample": False,
        "max_new_tokens": new,
        "pad_token_id": pad,
        "eos_token_id": tokeniser.eos_token_id,
        **how,
    }
    with as_held(model):
        found = model.generate(ids.to(device), attention_mask=mask.to(device), **how)
    return [tokeniser.decode(row[longest:], skip_special_tokens=True) for row in found]


def exact_match(said: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that are the expected ones, spaces at both ends aside."""
    return sum(a.strip() == b.strip() for a, b in zip(said, expected, strict=True)) / max(len(said), 1)
