"""A palette on disk: what one task trained, and the base it stands on, which all tasks of a family share.

`base/` holds the least-squares starts of the stitching layers, which no name gives again, and the tensors of anchors
that were no plain backbones; `bundle.json` names it by digest. Reading takes from both what the routes asked for need.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor, nn

from tailor import backbones
from tailor.bundle.files import dumps, replacing, sha256, write_text
from tailor.bundle.manifest import FORMAT, MANIFEST, TENSORS, File, Manifest, pack, sane
from tailor.bundle.read import Bundle, check_files, read_raw, read_tensors, validated
from tailor.bundle.strangers import AGAIN, read_json
from tailor.bundle.write import state
from tailor.errors import BundleError, PlanError
from tailor.palette import PALETTE, Fill, NestedPalette, Palette, build_nested, excerpt, routed
from tailor.settings import STRICT
from tailor.spec import Spec
from tailor.stitching.adapt import adapt_
from tailor.stitching.nested import cut_out
from tailor.stitching.picked import picked
from tailor.stitching.plan import Layer
from tailor.stitching.route import route_plans
from tailor.stitching.routed import Routed
from tailor.surgery import changed, load_changed_
from tailor.tuning.apply import cost

BASE, BASE_JSON = "base", "base.json"


@dataclass(frozen=True, config=STRICT)
class RouteRecord:
    """What is known of a route: costs by count, milliseconds and accuracy where they were measured."""

    route: str
    macs: int
    params: int
    interval: int
    deployed: bool = False
    score: float = 0.0
    visits: int = 0
    latency_ms: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, config=STRICT)
class BaseRef:
    """Where the base lies (relative to the palette, or absolute) and the sha256 of its `base.json`."""

    path: str
    sha256: str


@dataclass(frozen=True, config=STRICT)
class PaletteManifest:
    """The content of a palette's `bundle.json`."""

    format: int
    palette: dict[str, Any]
    base: BaseRef
    routes: tuple[RouteRecord, ...]
    files: dict[str, File]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    kind: Literal["palette"] = "palette"


@dataclass(frozen=True, config=STRICT)
class BaseManifest:
    """The content of `base.json`: anchors by name and digest, the layers' places, files; `facts` say of what images."""

    format: int
    anchors: tuple[tuple[str, str], ...]
    layers: tuple[tuple[int, int, int, int], ...]
    files: dict[str, File]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    facts: dict[str, Any] = Field(default_factory=dict)
    kind: Literal["base"] = "base"


_MANIFEST: TypeAdapter[PaletteManifest] = TypeAdapter(PaletteManifest)
_BASE: TypeAdapter[BaseManifest] = TypeAdapter(BaseManifest)


@plain_dataclass(frozen=True)
class Read:
    """A palette as read: its folder and manifest, the palette, and the base with its folder. No tensor is loaded."""

    path: Path
    manifest: PaletteManifest
    palette: Palette | NestedPalette
    base: BaseManifest
    base_path: Path


def write_base(
    folder: Path,
    specs: Sequence[Spec],
    stored: Sequence[bool],
    anchors: Sequence[nn.Module],
    joints: Sequence[tuple[Layer, nn.Module]],
    facts: Mapping[str, Any],
) -> str:
    """Write a base and return its digest: started stitching layers, anchors with nothing wrapped yet."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {f"layers.{n}": layer for n, (_, layer) in enumerate(joints)}
    kept |= {f"anchors.{n}": anchor for n, anchor in enumerate(anchors) if stored[n]}
    heads = tuple(f"anchors.{n}.{head}." for n, a in enumerate(anchors) for head in backbones.describe(a).heads)
    tensors = {
        f"{root}.{name}": tensor.detach().cpu().contiguous().clone()
        for root, module in kept.items()
        for name, tensor in module.state_dict().items()
        if not f"{root}.{name}".startswith(heads)
    }
    _save(folder / TENSORS, tensors)
    manifest = BaseManifest(
        format=FORMAT,
        anchors=_anchors(specs),
        layers=_layers([layer for layer, _ in joints]),
        files=_files(folder, (TENSORS,)),
        tensors=_declared(tensors),
        facts=dict(facts),
    )
    write_text(folder / BASE_JSON, dumps(_BASE.dump_python(manifest, mode="json")))
    return sha256(folder / BASE_JSON)


def read_base(folder: Path, palette: Palette | NestedPalette) -> BaseManifest:
    """The base in `folder`, whole and made for these anchors and layers; BundleError else."""
    file = folder / BASE_JSON
    if not file.is_file():
        raise BundleError(f"there is no stitch base in `{folder}`", hint="name the one it was made with, `--base DIR`")
    base = validated(_BASE, read_json(file), file)
    check_files(folder, base.files)
    layers: Sequence[Layer] = getattr(palette.plan, "layers", ())
    if base.anchors != _anchors(palette.anchors) or base.layers != _layers(layers):
        raise BundleError(
            f"the base in `{folder}` is of other anchors or another stitching space",
            hint="give another `--base`, or leave it out and one is made",
        )
    return base


def load_base_(model: Routed, folder: Path, base: BaseManifest) -> Routed:
    """Give the stitching layers of a model with nothing wrapped their start."""
    wanted = [f"layers.{n}.{name}" for n, layer in enumerate(model.layers) for name in layer.state_dict()]
    _load_(model.layers, _read(folder, base, wanted), "layers.")
    return model


def write_palette(
    out: Path,
    palette: Palette | NestedPalette,
    model: nn.Module,
    base: BaseRef,
    routes: Sequence[RouteRecord],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Path:
    """Write what the training of the palette's model has changed, the manifest last."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in changed(model).items()}
    _save(out / TENSORS, tensors)
    manifest = PaletteManifest(
        format=FORMAT,
        palette=PALETTE.dump_python(palette, mode="json"),
        base=base,
        routes=tuple(routes),
        files=_files(out, (TENSORS,)),
        tensors=_declared(tensors),
        metrics=dict(metrics),
        provenance=dict(provenance),
    )
    write_text(out / MANIFEST, dumps(_MANIFEST.dump_python(manifest, mode="json")))
    return out


def is_palette(path: Path) -> bool:
    """Whether the folder holds a palette that was written to its end."""
    try:
        raw = read_json(path / MANIFEST)
    except (OSError, BundleError):
        return False
    return isinstance(raw, dict) and raw.get("kind") == "palette"


def read_palette(path: Path, base: Path | None = None) -> Read:
    """The palette in folder `path`, every file checked against its digest; `base` names a base that was moved."""
    path = Path(path)
    manifest = validated(_MANIFEST, read_raw(path), path / MANIFEST)
    check_files(path, manifest.files)
    try:
        palette = PALETTE.validate_json(json.dumps(manifest.palette))
    except PlanError as error:
        raise BundleError(f"the palette is not valid: {error.message}", hint=AGAIN) from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(f"the palette is not valid at `{where}`: {error.errors()[0]['msg']}", hint=AGAIN) from None
    for spec in palette.anchors:
        sane(spec)
    if tuple(record.route for record in manifest.routes) != tuple(route.name for route in palette.plan.routes):
        raise BundleError(f"`{path}` does not list the routes that it has", hint=AGAIN)
    folder = base or path / manifest.base.path
    found = read_base(folder, palette)
    if sha256(folder / BASE_JSON) != manifest.base.sha256:
        raise BundleError(
            f"the base in `{folder}` is not the one that `{path}` was trained on", hint="name it with `--base DIR`"
        )
    return Read(path, manifest, palette, found, folder)


@plain_dataclass(frozen=True)
class Live:
    """A palette in memory. `model` runs the route that `set_route_(numbers[n])` sets, `plain` makes a model of route n,
    `spec` is what that model is in a bundle; n is the number in the whole palette.
    """

    model: Any
    numbers: Mapping[int, int]
    plain: Callable[[int], nn.Module]
    spec: Callable[[int], Spec]


def live(found: Read, routes: Sequence[int] | None = None) -> Live:
    """The palette's model, or that of some of its routes alone: then only what they cross is read and made."""
    chosen = tuple(routes if routes is not None else range(len(found.manifest.routes)))
    return _LIVE[found.palette.kind](found, chosen)


def _stitched(found: Read, routes: tuple[int, ...]) -> Live:
    model, part = restore_palette(found, routes)
    numbers = {number: at for at, number in enumerate(routes)}
    continuations = [part.continuation(i) for i in range(len(part.anchors))]

    def spec(number: int) -> Spec:
        at = numbers[number]
        chosen = part.plan.routes[at]
        anchors = [continuations[leg.anchor] for leg in chosen.legs]
        anchor = part.anchors[chosen.front]
        return replace(anchor, plans=(*anchor.plans, *route_plans(model, at, anchors)))

    return Live(model, numbers, lambda number: picked(model, part.tune, numbers[number]), spec)


def _nested(found: Read, routes: tuple[int, ...]) -> Live:
    palette = found.palette
    assert isinstance(palette, NestedPalette)
    try:
        anchor = palette.anchors[0]
        model = build_nested(palette, _filler(found, (0,)), _numbers(found.manifest.tensors))
        load_changed_(model, read_tensors(found.path / TENSORS, found.manifest.tensors))
    except PlanError as error:
        raise BundleError(f"`{found.path}`: {error.message}", hint=error.hint) from None

    def spec(number: int) -> Spec:
        cut = palette.plan.routes[number].cut
        return replace(anchor, plans=anchor.plans if cut is None else (*anchor.plans, cut))

    numbers = {number: number for number in routes}
    return Live(model.eval(), numbers, lambda number: cut_out(model, palette.tune, number), spec)


_LIVE: dict[str, Callable[[Read, tuple[int, ...]], Live]] = {"palette": _stitched, "nested": _nested}
"""How a palette of each kind comes to life."""


def restore_palette(found: Read, routes: Sequence[int] | None = None) -> tuple[Routed, Palette]:
    """The routed model of a stitched palette, or of these routes of it alone (in this order), and what it is then.

    Only tensors of what the routes cross are read, and only their anchors are made.
    """
    palette = found.palette
    assert isinstance(palette, Palette)
    part = excerpt(palette, tuple(routes if routes is not None else range(len(palette.plan.routes))))
    try:
        _bounded(found, palette)
        model = routed(part.palette, _filler(found, part.anchors))
        own = [f"layers.{n}.{name}" for n, layer in enumerate(model.layers) for name in layer.state_dict()]
        wanted = {part.whole(name): name for name in own}
        starts = _read(found.base_path, found.base, list(wanted))
        _load_(model.layers, {wanted[name]: tensor for name, tensor in starts.items()}, "layers.")
        asked, held = cost(model, replace(part.palette.tune, full=())), _numbers(found.manifest.tensors)
        if asked > held:
            raise PlanError(f"{held:,} stored numbers do not fit the plan, whose modules have {asked:,} parameters")
        adapt_(model, part.palette.tune, part.palette.biases, part.palette.anchors[0].head.seed)
        names = {part.whole(name): name for name in changed(model)}
        tensors = read_tensors(found.path / TENSORS, found.manifest.tensors, names)
        load_changed_(model, {names[name]: tensor for name, tensor in tensors.items()})
    except PlanError as error:
        raise BundleError(f"`{found.path}`: {error.message}", hint=error.hint) from None
    return model.eval(), part.palette


def _filler(found: Read, anchors: Sequence[int]) -> Fill:
    """Gives anchors their stored tensors; `anchors` are their numbers in the whole palette."""

    def fill(number: int, anchor: nn.Module) -> nn.Module:
        root = f"anchors.{anchors[number]}."
        own = [name for name in found.base.tensors if name.startswith(root)]
        return _load_(anchor, _read(found.base_path, found.base, own), root)

    return fill


def dearest(found: Read) -> int:
    """The route of a palette that stands for it: the dearest that is deployed."""
    records = found.manifest.routes
    return max(range(len(records)), key=lambda n: (records[n].deployed, records[n].macs))


def route_bundle(path: Path, route: str | None) -> Bundle:
    """The route as the bundle that `pick` would write, in memory."""
    found = read_palette(path)
    number = dearest(found) if route is None else found.palette.plan.find(route)
    made = live(found, (number,))
    spec, tensors = made.spec(number), state(made.plain(number), complete=True)
    values, lists = pack(spec)
    record = found.manifest.routes[number]
    metrics = {"route": record.route, "macs": record.macs, "params": record.params}
    declared = _declared({**tensors, **lists})
    manifest = Manifest(FORMAT, values, found.manifest.files, declared, True, metrics, found.manifest.provenance)
    return Bundle(path, manifest, spec, tensors)


def _bounded(found: Read, palette: Palette) -> None:
    """PlanError where the layers would have more numbers than the base holds."""
    asked = sum(layer.inputs * layer.outputs for layer in palette.plan.layers)
    if asked > _numbers(found.base.tensors):
        raise PlanError(f"the stitching layers have {asked:,} numbers, more than the base holds", AGAIN)


def _numbers(declared: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    return sum(prod(shape) for _, shape in declared.values())


def _load_(module: nn.Module, tensors: Mapping[str, Tensor], root: str) -> nn.Module:
    """Copy tensors, called `root` and the module's own name, into the module; heads that were not stored stay."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        mine = own.get(name.removeprefix(root))
        if mine is None or mine.shape != tensor.shape:
            raise PlanError(f"tensor `{name}` does not fit the palette", AGAIN)
        mine.copy_(tensor)
    return module


def _read(folder: Path, base: BaseManifest, wanted: Sequence[str]) -> dict[str, Tensor]:
    missing = [name for name in wanted if name not in base.tensors]
    if missing:
        raise PlanError(f"the base lacks tensor `{missing[0]}`", AGAIN)
    return read_tensors(folder / TENSORS, base.tensors, wanted)


def _anchors(specs: Sequence[Spec]) -> tuple[tuple[str, str], ...]:
    return tuple((spec.backbone.name, spec.backbone.digest) for spec in specs)


def _layers(layers: Sequence[Layer]) -> tuple[tuple[int, int, int, int], ...]:
    """Anchors and widths of every stitching layer."""
    return tuple((layer.front, layer.tail, layer.inputs, layer.outputs) for layer in layers)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": f"tailor-{FORMAT}"})


def _files(folder: Path, names: Sequence[str]) -> dict[str, File]:
    return {name: File((folder / name).stat().st_size, sha256(folder / name)) for name in names}


def _declared(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()}
