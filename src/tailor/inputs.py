"""Example arguments of any model, as data: what it is traced, counted, timed and exported with.

A model takes one argument or several, each a row of its own kind (images of any size and channels, token ids). Nobody
else makes arguments up, so a model with other ones needs a row here and no line elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tailor.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Example = tuple["Tensor", ...]
"""The arguments of one forward pass, in order: a model is called with `model(*example)`."""


@dataclass(frozen=True)
class Images:
    """Images (B, C, H, W) of normal values, in the model's own type."""

    channels: int
    height: int
    width: int

    name: ClassVar[str] = "images"
    axes: ClassVar[Mapping[int, str]] = {0: "batch"}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (self.channels, self.height, self.width)

    def draw(self, batch: int, generator: "torch.Generator", dtype: "torch.dtype | None") -> "Tensor":
        """`batch` of them: the same values in every type, up to rounding."""
        import torch

        return torch.randn(batch, *self.shape, generator=generator).to(dtype)

    def __str__(self) -> str:
        return f"images of {self.channels}x{self.height}x{self.width}"

    def as_json(self) -> dict[str, Any]:
        """What a file says of them."""
        return {"image_size": list(self.shape)}


@dataclass(frozen=True)
class TokenIds:
    """Token numbers (B, N) of a vocabulary: `length` of them where an example is drawn, any number in a file."""

    length: int
    vocabulary: int

    name: ClassVar[str] = "input_ids"
    axes: ClassVar[Mapping[int, str]] = {0: "batch", 1: "length"}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (self.length,)

    def draw(self, batch: int, generator: "torch.Generator", dtype: "torch.dtype | None") -> "Tensor":
        """`batch` rows of them: whole numbers, whatever the model's type."""
        import torch

        return torch.randint(self.vocabulary, (batch, self.length), generator=generator)

    def __str__(self) -> str:
        return f"{self.length} tokens"

    def as_json(self) -> dict[str, Any]:
        """What a file says of them."""
        return {"length": self.length, "vocabulary": self.vocabulary}


@dataclass(frozen=True)
class Inputs:
    """What a model is called with: its arguments, in the order of its forward pass."""

    arguments: tuple[Images | TokenIds, ...]

    @classmethod
    def images(cls, channels: int, height: int, width: int) -> "Inputs":
        """Images of one size."""
        return cls((Images(channels, height, width),))

    @classmethod
    def tokens(cls, length: int, vocabulary: int) -> "Inputs":
        """Rows of token ids."""
        return cls((TokenIds(length, vocabulary),))

    def example(
        self,
        batch: int = 2,
        seed: int = 0,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | None" = None,
    ) -> Example:
        """The arguments of a forward pass over `batch` samples, drawn from the seed, the same on every device.

        Two is the least that tracing takes: of one, a batch looks like any axis of size 1. UsageError below one.
        """
        import torch

        if batch < 1:
            raise UsageError(f"a batch has at least one sample, not {batch}", hint="give a batch of 1 or more")
        generator = torch.Generator().manual_seed(seed)
        return tuple(one.draw(batch, generator, dtype).to(device) for one in self.arguments)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arguments, as a file shows them."""
        return tuple(one.name for one in self.arguments)

    @property
    def axes(self) -> tuple[Mapping[int, str], ...]:
        """Of each argument the axes whose length a file leaves open, by name; axes of one name have one length."""
        return tuple(one.axes for one in self.arguments)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one sample, argument by argument."""
        return tuple(one.shape for one in self.arguments)

    @property
    def image(self) -> tuple[int, int, int]:
        """(C, H, W) of the images; ModelError where the model takes none."""
        for one in self.arguments:
            if isinstance(one, Images):
                return one.channels, one.height, one.width
        raise ModelError(f"this is defined for images, and the model takes {self}")

    def as_json(self) -> dict[str, Any]:
        """What a file says of its arguments."""
        return {key: value for one in self.arguments for key, value in one.as_json().items()}

    def __str__(self) -> str:
        return " and ".join(map(str, self.arguments))
