"""A model as data: backbone, head, preprocessing, and the plans that made it what it is, in order.

`build` is the only way from a spec to a module. Paths and indices in a plan are those of the model that the earlier
plans leave.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.preprocessing import Preprocessing
from tailor.pruning.layers import LayerPlan
from tailor.pruning.plan import WidthPlan
from tailor.tuning.method import STRICT
from tailor.tuning.plan import TunePlan

MOST_PIXELS = 1 << 14
"""The largest side of an image that a spec may ask for."""

AnyPlan = Annotated[TunePlan | LayerPlan | WidthPlan, Field(discriminator="kind")]
"""Every kind of plan that a spec may hold."""


@dataclass(frozen=True, config=STRICT)
class BackboneRef:
    """Which backbone: its name, where its weights come from, and the digest they had.

    `weights` is `pretrained` (the hub or the package), `random` (drawn from `seed`; the bundle holds every tensor), or
    the path of a checkpoint file. `image_size` is None for the backbone's own.
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
class ClassifierHead:
    """A fresh linear classifier over `classes`, its start drawn from `seed`."""

    classes: tuple[str, ...]
    seed: int = 0
    kind: Literal["classifier"] = "classifier"

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise PlanError(
                f"a classifier needs two classes or more, found {len(self.classes)}", hint="name more classes"
            )


@dataclass(frozen=True, config=STRICT)
class Spec:
    """Backbone + head + preprocessing + plans in order: everything `build` needs besides the tensors."""

    backbone: BackboneRef
    head: ClassifierHead
    preprocessing: Preprocessing
    plans: tuple[AnyPlan, ...] = ()

    @property
    def tuning(self) -> tuple[TunePlan, ...]:
        """The plans that say what trains, in order."""
        return tuple(plan for plan in self.plans if isinstance(plan, TunePlan))

    @property
    def pruning(self) -> tuple[LayerPlan | WidthPlan, ...]:
        """The plans that take something away, in order."""
        return tuple(plan for plan in self.plans if not isinstance(plan, TunePlan))


SPEC: TypeAdapter[Spec] = TypeAdapter(Spec)
"""Reads and writes a spec as JSON, strictly."""
