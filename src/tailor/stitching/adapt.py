"""What trains in a palette: parameter-efficient stitch tuning of ESTA (He et al. 2024), as ordinary plans.

LoRA on the attention weights of every anchor (fused qkv and projection, shared by all routes) and on the stitching
layers, a bias of its own for each route at the attention's layers, the intercepts of the stitching layers, and one head
an anchor. Where anchors have no attention, the MLP's layers (or all of a block's) stand for it. The paper gives no
scale and no dropout for LoRA, so there is none. `full` is SN-Net: everything trains, and no route has a bias.
"""

from collections.abc import Sequence
from dataclasses import replace

from pydantic.dataclasses import dataclass

from tailor.anatomy import Anatomy, Site
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.stitching.plan import RouteBiasPlan
from tailor.stitching.routed import Routed, give_biases_, spans_of
from tailor.tuning.apply import apply_, cost
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Tune, TunePlan

ATTENTION = ("qkv", "q", "k", "v")
OUT = ("proj", "o_proj")
LEAST_RANK = 8
"""The largest anchor's rank; every smaller one has twice that of the next, as 32, 16, 8 for ViT-Ti, S and B."""


@dataclass(frozen=True, config=STRICT)
class Adapt:
    """What trains. `ranks` are LoRA's by anchor (none given: 8 for the largest, doubled for each smaller one).

    A stitching layer's rank is its front's width over `divisor`, 0 for none: the layer trains as a whole. `biases`
    names where routes have biases: `qkv` and `proj`, or the cheap `q` and `proj`, or nothing.
    """

    ranks: tuple[int, ...] = ()
    divisor: int = 4
    biases: tuple[str, ...] = ("qkv", "proj")
    full: bool = False

    def __post_init__(self) -> None:
        if min((*self.ranks, 1)) < 1 or self.divisor < 0:
            raise PlanError("ranks are 1 or more, and no divisor is negative", hint="leave them at their defaults")


def tune_plan(model: Routed, settings: Adapt) -> TunePlan:
    """What trains on the routed model, besides the heads and the routes' biases, before anything is wrapped."""
    if settings.full:
        heads = heads_of(model)
        names = [n for n, _ in model.named_parameters() if not any(n.startswith(f"{head}.") for head in heads)]
        plan = TunePlan("full", full=tuple(names))
    else:
        ranks = settings.ranks or tuple(LEAST_RANK << i for i in reversed(range(len(model.anchors))))
        if len(ranks) != len(model.anchors):
            raise PlanError(f"{len(ranks)} ranks were given for {len(model.anchors)} anchors", hint="give one for each")
        tunes = [
            Tune(f"anchors.{number}.{site.path}", Lora(rank=rank, dropout=0.0))
            for number, (anatomy, rank) in enumerate(zip(model.anatomies, ranks, strict=True))
            for site in shared_sites(anatomy)
        ]
        whole = [f"layers.{n}.{name}" for n, layer in enumerate(model.layers) for name, _ in layer.named_parameters()]
        if settings.divisor:
            inputs = [layer.inputs for layer in model.plan.layers]
            tunes += [
                Tune(f"layers.{n}", Lora(rank=max(1, width // settings.divisor), dropout=0.0))
                for n, width in enumerate(inputs)
            ]
            whole = [name for name in whole if name.endswith(".bias")]
        plan = TunePlan("pst", full=tuple(whole), tunes=tuple(tunes))
    return replace(plan, cost=cost(model, plan, heads_of(model)))


def bias_plan(model: Routed, settings: Adapt) -> RouteBiasPlan:
    """Where routes have biases of their own, and how many numbers these are in all."""
    sites: list[str] = []
    if not settings.full:
        for number, anatomy in enumerate(model.anatomies):
            sites += [f"anchors.{number}.{name}" for name in _bias_sites(anatomy, settings.biases)]
    plan = RouteBiasPlan(tuple(sites))
    spans = spans_of(model, plan)
    return replace(plan, cost=sum(sum(sizes.values()) for sizes in spans.values()))


def adapt_(model: Routed, tune: TunePlan, bias: RouteBiasPlan, seed: int = 0) -> Routed:
    """Freeze the model but for what the plans name and the heads; LoRA's start is drawn from `seed`."""
    apply_(model, tune, heads_of(model), seed)
    return give_biases_(model, bias)


def heads_of(model: Routed) -> tuple[str, ...]:
    """The classifier layers of every anchor."""
    return tuple(f"anchors.{n}.{head}" for n, anatomy in enumerate(model.anatomies) for head in anatomy.heads)


def shared_sites(anatomy: Anatomy) -> tuple[Site, ...]:
    """The layers in the blocks that all routes tune together: the attention's, or what stands for it."""
    layers = [site for site in anatomy.layers if site.block >= 0 and site.kind != "depthwise"]
    attention = [site for site in layers if site.op in (*ATTENTION, *OUT)]
    if any(site.op in ATTENTION for site in attention):
        return tuple(attention)
    return tuple(site for site in layers if site.op in ("fc1", "fc2")) or tuple(layers)


def _bias_sites(anatomy: Anatomy, names: Sequence[str]) -> list[str]:
    """Names of sites with a bias for each route; those of fused parts as ranges of the layer's outputs."""
    chosen = shared_sites(anatomy)
    if not names:
        return []
    if not any(site.op in ATTENTION for site in chosen):
        return [site.path for site in chosen]
    wanted = {*names, *(ATTENTION if "qkv" in names else ()), *(OUT if "proj" in names else ())}
    found = [site.path for site in chosen if site.op in wanted]
    parts = [s for s in anatomy.sites if s.rows and s.part in names and s.path not in found and s.block >= 0]
    found += [f"{site.path}[{site.rows[0]}:{site.rows[1]}]" for site in parts if site.rows]
    if not found:
        raise PlanError(f"no layer is called {' or '.join(names)}", hint="take `qkv,proj` or `q,proj`")
    return found
