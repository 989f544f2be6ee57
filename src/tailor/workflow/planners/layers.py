"""SLS: features of every block, the curve of their separation, and the blocks that stay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass as dataclass_
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic.dataclasses import dataclass

from tailor.errors import UsageError
from tailor.events import Event
from tailor.pruning.settings import Bridge, Sls
from tailor.settings import STRICT, Flag

if TYPE_CHECKING:
    from tailor.pruning.layers import LayerPlan
    from tailor.pruning.sls import BlockFeatures, Curve
    from tailor.workflow.context import Context, Decision

CURVE, MAPS = "layers.png", "tsne.png"
NEAR = 0.05
"""A separation this near the threshold is measured again under two other seeds."""
SAMPLES = "images that the decision is made on, drawn from train and val"


@dataclass(frozen=True, config=STRICT)
class DropLayers:
    """Drop the last blocks, as many as separate the classes no better than `alpha` of the end (Han & Tang 2024)."""

    alpha: Annotated[float, Flag("share of the last block's class separation that a block must reach to stay")] = 0.3
    samples: Annotated[int, Flag(SAMPLES)] = 1000
    bypass: Annotated[
        Bridge,
        Flag("in place of dropped blocks: the `identity`, or one `linear` map that best gives back what they did"),
    ] = "identity"
    sls: Sls = Sls()

    needs: ClassVar[frozenset[str]] = frozenset({"images", "classes"})
    closed: ClassVar[tuple[str, ...]] = ("alpha",)
    page: ClassVar[str] = "docs/methods/sls.md"
    method: ClassVar[str] = "sls"
    adapters: ClassVar[str] = ""
    steps: ClassVar[int] = 1
    recovers: ClassVar[int] = 0

    def __post_init__(self) -> None:
        Sls(self.alpha)  # refuses what is out of range
        check_samples(self.samples)

    def numbered(self, name: str, number: int) -> "DropLayers":
        """It has no size."""
        raise UsageError(f"`sls` takes no number, found `{name}`", hint="write `--method sls`")

    def plan(self, context: "Context") -> "Decision":
        """The layer plan; draws the curve and the maps into the run's folder."""
        from tailor.pruning.bypass import bypasses
        from tailor.pruning.layers import choose
        from tailor.pruning.sls import measure
        from tailor.training import processes_here
        from tailor.workflow.context import Decision
        from tailor.workflow.recover import recovered

        settings, seed, opened = replace(self.sls, alpha=self.alpha), context.recipe.seed, context.opened
        context.tell(Event("features", text=f"of every block, one pass over {self.samples} images at most"))
        features = _features(context, self.samples)
        if features.warning:
            context.tell(Event("warning", text=features.warning))
        curve = measure(
            features,
            settings,
            seed=seed,
            progress=lambda done, total: context.tell(Event("scoring blocks", done, total, "t-SNE and silhouette")),
        )
        plan = choose(curve.scores, settings, features.blocks, features.fixed)
        plan = replace(plan, facts={**plan.facts, **_facts(features, plan, seed)})
        context.tell(Event("layers", text=f"{len(plan.kept)} of {plan.blocks} blocks stay: {plan.facts['reason']}"))
        if processes_here().is_main_process:
            _draw(plan, curve, features, opened.spec.head.classes, context.folder)
        decision = Decision((plan,), str(plan.facts["reason"]))
        if self.bypass == "identity" or not plan.dropped:
            return decision
        bridged = replace(plan, bypasses=bypasses(opened.anatomy.blocks, plan.dropped))
        return recovered(context, replace(decision, plans=(bridged,)), "ridge")


def _features(context: "Context", samples: int) -> "BlockFeatures":
    """The features of images, or, where a task's images hold several things, of these."""
    from tailor.pruning.sls import collect, collect_regions

    opened = context.opened
    parts = [part for part in context.sample(samples, "train", "val") if len(part)]
    batches = chain.from_iterable(context.batches(part) for part in parts)
    regions = getattr(context.task, "regions", None)
    if regions is None:
        return collect(opened.model, opened.anatomy, batches)
    return collect_regions(opened.model, opened.anatomy, (_Regional.of(batch, regions) for batch in batches))


@dataclass_(frozen=True)
class _Regional:
    """A batch with the regions of its images, at the size that the model sees them, and what is in each."""

    images: Any
    sources: tuple[str, ...]
    regions: tuple[Any, ...]
    targets: tuple[Any, ...]

    @classmethod
    def of(cls, batch: Any, regions: Callable[..., Any]) -> "_Regional":
        found = regions(batch.targets, (batch.images.shape[-2], batch.images.shape[-1]))
        return cls(batch.images, batch.sources, tuple(one for one, _ in found), tuple(label for _, label in found))


def check_samples(samples: int) -> None:
    """UsageError where no image would decide."""
    if samples < 1:
        raise UsageError(f"no image would decide: `--samples {samples}`", hint="write `--samples 1000`")


def _facts(features: "BlockFeatures", plan: "LayerPlan", seed: int) -> dict[str, str | int | float]:
    """What the plan says besides the walk: images, seed, and how far a value near the threshold can be trusted."""
    from tailor.pruning.sls import again

    facts: dict[str, str | int | float] = {"samples": len(features.labels), "seed": seed}
    if features.warning:
        facts["warning"] = features.warning
    stopped = int(plan.facts["depth"]) - 2
    score = plan.curve[stopped] if stopped >= 0 else None
    if score is not None and abs(score - float(plan.facts["threshold"])) < NEAR and plan.dropped:
        others = again(features, stopped, (seed + 1, seed + 2))
        facts["near"] = f"block {stopped + 1} under two other seeds: SC " + ", ".join(f"{o:.3f}" for o in others)
    return facts


def _draw(plan: "LayerPlan", curve: "Curve", features: "BlockFeatures", classes: Sequence[str], folder: Path) -> None:
    from tailor.evidence.plots import sc_curve, scatter_tsne
    from tailor.workflow import evidence

    evidence.separated(folder, plan, curve.planes, features.labels.tolist())
    scores = [float("nan") if score is None else score for score in plan.curve]
    depth = int(plan.facts["depth"])
    sc_curve(range(1, len(scores) + 1), scores, float(plan.facts["threshold"]), depth, folder / CURVE)
    names = {f"block {i + 1}, SC {scores[i]:.2f}": curve.planes[i] for i in sorted(curve.planes)}
    scatter_tsne(names, features.labels.tolist(), classes, folder / MAPS)
