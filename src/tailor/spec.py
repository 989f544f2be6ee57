"""A model as data: backbone, head, preprocessing, and the plans that made it what it is, in order.

`build` is the only way from a spec to a module. Paths and indices in a plan are those of the model that the earlier
plans leave.
"""

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from tailor import plans as kinds
from tailor.errors import PlanError
from tailor.inputs import Inputs
from tailor.plans import AnyPlan
from tailor.preprocessing import Input
from tailor.settings import STRICT
from tailor.tasks.heads import AnyHead
from tailor.tuning.plan import TunePlan

MOST_PIXELS = 1 << 14
"""The largest side of an image that a spec may ask for."""

BUNDLE = "bundle:"
"""What `weights` begins with where the backbone is another bundle's model."""


@dataclass(frozen=True, config=STRICT)
class BackboneRef:
    """Which backbone: its name, where its weights come from, and the digest they had.

    `weights` is `pretrained` (the hub or the package), `random` (drawn from `seed`; the bundle holds every tensor), the
    path of a checkpoint file, or `bundle:` and the path of a bundle whose plans the spec repeats and whose tensors it
    goes on from. `image_size` is None for the backbone's own.
    """

    name: str
    weights: str = "pretrained"
    digest: str = ""
    image_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size is not None and not 1 <= self.image_size <= MOST_PIXELS:
            raise PlanError(
                f"images of {self.image_size} pixels a side cannot be", hint="write for instance `--image-size 224`"
            )


@dataclass(frozen=True, config=STRICT)
class Spec:
    """Backbone + head + preprocessing + plans in order: everything `build` needs besides the tensors."""

    backbone: BackboneRef
    head: AnyHead
    preprocessing: Input
    plans: tuple[AnyPlan, ...] = ()

    @property
    def inputs(self) -> Inputs:
        """What the model is called with."""
        return self.preprocessing.inputs

    @property
    def tuning(self) -> tuple[TunePlan, ...]:
        """The plans that say what trains, in order."""
        return kinds.tuning(self.plans)

    @property
    def pruning(self) -> tuple[AnyPlan, ...]:
        """The plans that take something away, in order."""
        return kinds.pruning(self.plans)


SPEC: TypeAdapter[Spec] = TypeAdapter(Spec)
"""Reads and writes a spec as JSON, strictly."""
