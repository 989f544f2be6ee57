"""An example of instructions as what a language model is given: tokens, and which of them it has to say."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.backbones import causal
from tailor.backbones.prompts import Instruction, encode
from tailor.errors import DataError
from tailor.preprocessing import Tokens


@dataclass(frozen=True)
class Encoded:
    """Tokens and labels (2, N) int64 of an example; labels are `IGNORED` over the prompt.

    The tokeniser is looked up by name when it is needed, so that workers may be given this.
    """

    tokens: Tokens

    def __call__(self, example: Instruction) -> Tensor:
        """DataError for a token that the model does not know: the tokeniser is another model's."""
        rows = torch.tensor(encode(example, causal.tokeniser(self.tokens.tokeniser), self.tokens.longest))
        if int(rows[0].max()) >= self.tokens.vocabulary:
            raise DataError(
                f"the tokeniser of `{self.tokens.tokeniser}` gives token {int(rows[0].max())}, "
                f"the model knows {self.tokens.vocabulary}",
                hint="name a model and the tokeniser that it was trained with",
            )
        return rows
