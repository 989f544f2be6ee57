"""Any decoder's settings, for heads read from JSON."""

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from tailor.dense import DECODERS

if TYPE_CHECKING:
    AnyDecoder = Any
else:
    AnyDecoder = Annotated[Union[tuple(DECODERS.values())], Field(discriminator="kind")]  # noqa: UP007
    """One of the settings of `DECODERS`."""
