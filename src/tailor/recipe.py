"""The training settings as data: what the engine, the transforms and the builder are told, nothing they decide.

Defaults are those of SPT (He et al. 2023 and its released code): AdamW, 1e-3, weight decay 1e-4, batch 64, 100 epochs,
a tenth of them warm-up, cosine to 1e-5, drop-path 0.1. Deviations: the rate follows every update, not every epoch, and
really reaches its peak (the cosine begins where the warm-up ends, as in SLS).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tailor.errors import UsageError, nearest

SCHEDULES = ("cosine", "constant", "step", "multistep", "poly", "tanh")  # timm's that need no metric
OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "momentum", "nadamw", "radam", "rmsprop", "sgd")
"""Those known without asking timm, whose list takes seconds to load; any other name is looked up there."""
_EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Distil:
    """Learning from a teacher as well: `(1 - weight) * loss + weight * distillation + features * apart`.

    `soft`: KL divergence of the two distributions at `temperature`, times its square (Hinton et al. 2015).
    `hard`: cross-entropy with the teacher's own prediction as the label (DeiT, Touvron et al. 2021).
    `two-heads`: so, but the labels are for the classifier and the teacher's predictions, smoothed as they are, for the
    distillation classifier that the model has beside it (DeiT's token).

    `apart` is how far what enters the classifier is from the teacher's, in the channels that a cut left: squared
    distance over squared length, mean over the images. It is for a model and the bundle it was cut from.
    """

    kind: Literal["soft", "hard", "two-heads"] = "soft"
    weight: float = 0.5
    temperature: float = 1.0
    features: float = 0.0

    def __post_init__(self) -> None:
        _within("distil.weight", self.weight, 0, 1)
        _within("distil.features", self.features, 0, math.inf)
        _within("distil.temperature", self.temperature, 1e-3, 1e3)


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """The settings of one training run.

    `batch_size` is that of an update over all processes; `accumulate` splits it, without changing the gradient, to save
    memory. `warmup_epochs` None means a tenth of the epochs; `betas` and `eps` None mean the optimiser's own.
    `decay_epochs` is the interval of `step`, `milestones` (fractions of the run) are where `multistep` falls,
    `decay_rate` is the factor of both, or the power of `poly`. `ema` is the decay of an average of the weights that
    replaces them in validation and at the end. `select` takes the epoch that validates best (on val, never on test) or
    the last. `evaluate_every` and `checkpoint_every` count epochs, `checkpoint_steps` (0: never) updates within one.
    `backbone_lr` is a factor on the rate of the backbone's own weights, not of what was put in or of the head.
    `frozen: bf16` holds the layers' weights that do not train as `precision: bf16` computes with them anyhow;
    `recompute` runs blocks again in the backward pass instead of keeping what they computed; `packing` joins the texts
    of a batch into fewer rows.
    The transforms read `augment` and `interpolation`, of texts `longest` (tokens); the builder reads `drop_path`. With
    `repeats` an epoch has as many updates, but sees one image in so many, that often, each time drawn anew (Hoffer et
    al. 2020).
    """

    epochs: int = 100
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 1e-3
    backbone_lr: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    schedule: str = "cosine"
    warmup_epochs: float | None = None
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    decay_epochs: float = 30.0
    milestones: tuple[float, ...] = (0.9, 0.95)
    decay_rate: float = 0.1
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    distil: Distil = field(default_factory=Distil)
    ema: float | None = None
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    frozen: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    packing: bool = False
    augment: str = "none"
    repeats: int = 1
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    longest: int = 256
    drop_path: float = 0.1
    select: Literal["best", "last"] = "best"
    evaluate_every: int = 1
    checkpoint_every: int = 1
    checkpoint_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "repeats", "longest", "evaluate_every", "checkpoint_every"):
            _within(name, getattr(self, name), 1, math.inf)
        for name in (
            "weight_decay",
            "min_lr",
            "warmup_lr",
            "mixup",
            "cutmix",
            "checkpoint_steps",
            "seed",
            "backbone_lr",
        ):
            _within(name, getattr(self, name), 0, math.inf)
        for name in ("lr", "decay_epochs", "decay_rate"):
            _above_zero(name, getattr(self, name))
        if self.clip_norm is not None:
            _above_zero("clip_norm", self.clip_norm)
        for name in ("label_smoothing", "drop_path", "momentum"):
            _within(name, getattr(self, name), 0, 1)
        for milestone in self.milestones:
            _within("milestones", milestone, 0, 1)
        if self.ema is not None:
            _within("ema", self.ema, 0, 1)
        _within("warmup_epochs", self.warmup, 0, self.epochs)
        if self.frozen == "bf16" and self.precision != "bf16":
            raise UsageError("`frozen: bf16` is for computing in half precision", hint="set `precision: bf16` as well")
        if self.optimizer not in OPTIMIZERS:
            from timm.optim import list_optimizers

            _known("optimizer", self.optimizer, tuple(str(name) for name in list_optimizers()))
        _known("schedule", self.schedule, SCHEDULES)
        if self.min_lr > self.lr and self.schedule not in ("constant", "step", "multistep"):
            raise UsageError(
                f"`min_lr` {self.min_lr:g} is above `lr`: {self.lr:g}",
                hint=f"set `min_lr: {self.lr / 100:g}` in the recipe",
            )

    @property
    def warmup(self) -> float:
        """The warm-up in epochs."""
        return self.epochs / 10 if self.warmup_epochs is None else self.warmup_epochs


def recipe_of(
    settings: Mapping[str, Any] | None, seed: int, usual: Mapping[str, Any] | None = None, /, **flags: Any
) -> Recipe:
    """The recipe: defaults, then what is `usual` for the head, then the recipe file's settings, then the flags given.

    UsageError where the file's settings name another seed: a run has one, which divides the data too.
    """
    if settings and settings.get("seed", seed) != seed:
        raise UsageError(
            f"the recipe says seed {settings['seed']}, the run has seed {seed}",
            hint="leave it out of the recipe, and write `--seed`",
        )
    return read_recipe(
        {**(usual or {}), **(settings or {}), "seed": seed, **{k: v for k, v in flags.items() if v is not None}}
    )


def read_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The recipe of a parsed JSON or YAML mapping; UsageError naming the first key or value that does not fit."""
    known = tuple(f.name for f in fields(Recipe))
    for key in settings:
        if key not in known:
            raise UsageError(f"the recipe has no setting `{key}`", hint=nearest(str(key), known))
    try:
        # By JSON's rules, so that a list may stand for a tuple, as it must in a file.
        return TypeAdapter(Recipe).validate_json(json.dumps({k: _number(v) for k, v in settings.items()}, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise UsageError(
            f"`{path}` in the recipe: {first['msg'][:1].lower()}{first['msg'][1:]}, found: {first['input']!r}",
            hint="see `docs/recipe.md` for the settings and their types",
        ) from None


def retraining(recipe: Recipe, name: Literal["1clr", "ft", "tfs"]) -> Recipe:
    """The recipe for what a pruner left (the strategies of SLS, ECCV 2024).

    `1clr`: the full schedule again, from the peak. `ft`: a constant 1e-5. `tfs`: as `1clr`; that it starts from fresh
    adapters and head is for the caller to see to.
    """
    if name == "ft":
        return replace(recipe, lr=1e-5, schedule="constant", warmup_epochs=0.0)
    if name in ("1clr", "tfs"):
        return recipe
    raise UsageError(f"no way of retraining is called `{name}`", hint=nearest(name, ("1clr", "ft", "tfs")))


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text, since it has no point; nothing else that is text becomes a number."""
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        bound = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise UsageError(f"`{name}` must be {bound}, found: {value:g}", hint=_change(name))


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"`{name}` must be above 0, found: {value:g}", hint=_change(name))


def _change(name: str) -> str:
    flag = f"change `--{name.replace('_', '-')}`, or " if name in ("epochs", "lr", "batch_size", "seed") else "change "
    return f"{flag}`{name}` in the recipe"


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"`{name}` in the recipe is unknown: {value}", hint=nearest(value, known))
