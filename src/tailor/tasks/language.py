"""Language: the answer to an instruction, token by token; the head is the language model's own.

Perplexity chooses the epoch: of answers that may be said in many ways almost none is met exactly. Where there is one
right answer `exact_match` counts: with the tokens before it given, every token is the likeliest, which is when greedy
decoding says the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.text import Perplexity

from tailor.anatomy import Anatomy
from tailor.backbones import causal
from tailor.backbones.prompts import IGNORED, Instruction, answers, packed
from tailor.errors import ModelError, TrainingError
from tailor.preprocessing import Tokens
from tailor.settings import STRICT
from tailor.tasks.task import Labelled


@dataclass(frozen=True, config=STRICT)
class LanguageHead:
    """The model's own: every token of its vocabulary. Nothing is drawn from `seed`."""

    seed: int = 0
    classes: tuple[str, ...] = ()
    kind: Literal["language"] = "language"


@dataclass(frozen=True, config=STRICT)
class Language:
    """Cross-entropy of the next token over the responses; prompts are read, not learnt."""

    kind: Literal["language"] = "language"

    head_type: ClassVar[type] = LanguageHead
    targets: ClassVar[str] = "texts"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "perplexity"
    larger: ClassVar[bool] = False

    def head(self, data: Labelled, seed: int) -> LanguageHead:
        """The model's own, whatever the data."""
        return LanguageHead(seed)

    def attach_(self, model: nn.Module, head: LanguageHead, anatomy: Anatomy | None = None) -> nn.Module:
        """The model as it is; ModelError where it reads no text."""
        if not hasattr(model, "generate"):
            raise ModelError(
                f"`{type(model).__name__}` is no language model",
                hint="name one: `--model smollm2_135m_instruct`, `--model causal:DIR`",
            )
        return model

    def size(self, head: Any, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The model's own."""
        return own

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Tokens (B, N) and labels (B, N) of samples (2, n), filled up on the right, where no label is to be learnt."""
        longest = max(rows.shape[1] for rows in images)
        ids = torch.stack([F.pad(rows[0], (0, longest - rows.shape[1])) for rows in images])
        labels = [F.pad(rows[1], (0, longest - rows.shape[1]), value=IGNORED) for rows in images]
        return ids, torch.stack(labels)

    def pack(self, images: Sequence[Tensor], targets: Sequence[Any], longest: int) -> tuple[Tensor, Tensor]:
        """As `collate`, of samples joined in order into rows of at most `longest` tokens (`prompts.packed`)."""
        rows = [torch.tensor(row) for row in packed([(one[0].tolist(), one[1].tolist()) for one in images], longest)]
        return self.collate(rows, rows)

    def named(self, targets: Tensor) -> dict[str, Tensor]:
        """What a model is told besides tokens in training: the places (B, N) whose logits are needed."""
        return {"said": F.pad(targets[:, 1:] != IGNORED, (0, 1))}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(B,): cross-entropy of logits (B, N, V), or (T, V) of what is learnt alone, summed over a response, each
        token said one place before it."""
        learnt = targets[:, 1:] != IGNORED
        each = F.cross_entropy(_said(output, learnt), targets[:, 1:][learnt], reduction="none")
        return each.new_zeros(len(targets)).index_add_(0, learnt.nonzero()[:, 0], each)

    def weight(self, targets: Tensor) -> int:
        """Tokens that are learnt."""
        return int((targets[:, 1:] != IGNORED).sum())

    def learn(self, output: Tensor, taught: Tensor, targets: Tensor, hard: bool, temperature: float) -> Tensor:
        """(B,): how far logits (as in `loss`) are from a teacher's over a response, summed: cross-entropy with the
        token that it takes for the next, or KL divergence. TrainingError where the teacher has another vocabulary."""
        if output.shape != taught.shape:
            raise TrainingError(
                f"the teacher knows {taught.shape[-1]} tokens, the model {output.shape[-1]}",
                hint="distil from a model with the same tokeniser",
            )
        learnt = targets[:, 1:] != IGNORED
        ours, theirs = _said(output, learnt), _said(taught, learnt)
        if hard:
            each = F.cross_entropy(ours, theirs.argmax(-1), reduction="none")
        else:
            logs = F.log_softmax(ours / temperature, -1), F.log_softmax(theirs / temperature, -1)
            each = F.kl_div(*logs, reduction="none", log_target=True).sum(-1) * temperature**2
        return each.new_zeros(len(targets)).index_add_(0, learnt.nonzero()[:, 0], each)

    def metrics(self, head: LanguageHead) -> MetricCollection:
        """Perplexity of the responses, and how many of their tokens, and of them as a whole, are the likeliest."""
        parts = {
            "perplexity": Perplexity(ignore_index=IGNORED),
            "token_accuracy": MeanMetric(),
            "exact_match": MeanMetric(),
        }
        return MetricCollection(parts, compute_groups=False)  # type: ignore[arg-type]

    def update_(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Count a batch of logits (B, N, V)."""
        learnt = targets[:, 1:] != IGNORED
        if not bool(learnt.any()):
            return
        said, wanted = output[:, :-1][learnt].float(), targets[:, 1:][learnt]
        right = said.argmax(-1) == wanted
        rows = learnt.nonzero()[:, 0]
        wrong = torch.zeros(len(targets), device=rows.device).index_add_(0, rows, (~right).float())
        metrics["perplexity"].update(said[None], wanted[None])
        metrics["token_accuracy"].update(right.float())
        metrics["exact_match"].update((wrong == 0)[learnt.any(1)].float())

    def figures(self, found: Mapping[str, Tensor], head: LanguageHead) -> dict[str, Any]:
        """Perplexity, accuracy of tokens, exact matches."""
        return {name: float(found[name]) for name in ("perplexity", "token_accuracy", "exact_match")}

    def decode(self, output: Tensor, head: LanguageHead, top: int) -> list[dict[str, Any]]:
        """Nothing of one pass: what a model answers takes a pass a token, see `respond`."""
        return [{} for _ in output]

    def respond(self, model: nn.Module, asked: Sequence[Instruction], tokens: Tokens) -> list[dict[str, Any]]:
        """What the model answers to each instruction, greedily, at most `longest` tokens."""
        tokeniser = causal.tokeniser(tokens.tokeniser)
        prompts = [replace(one, output="").prompt for one in asked]
        return [{"answer": text} for text in answers(model, tokeniser, prompts, tokens.longest)]


def _said(logits: Tensor, learnt: Tensor) -> Tensor:
    """(T, V) of the places (B, N - 1) that are learnt, where that is not what the logits are already."""
    return _full(logits if logits.dim() == 2 else logits[:, :-1][learnt])


def _full(logits: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over a vocabulary."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
