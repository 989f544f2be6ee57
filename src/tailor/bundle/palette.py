"""A palette on disk: what one task trained, and the base it stands on, which all tasks of a family share.

`base/` holds the least-squares starts of the stitching layers, which no name gives again, and the tensors of anchors
that were no plain backbones; `bundle.json` names it by digest. Reading takes from both what the routes asked for need.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor, nn

from tailor import backbones
from tailor.bundle.files import dumps, replacing, sha256, write_text
from tailor.bundle.manifest import FORMAT, File, sane
from tailor.bundle.verify import check_files, of_palette, read_raw, read_tensors, validated
from tailor.errors import BundleError, PlanError
from tailor.palette import (
    PALETTE,
    LanguageAnchor,
    LanguagePalette,
    NestedPalette,
    Palette,
)
from tailor.run_folder import MANIFEST, TENSORS
from tailor.settings import STRICT
from tailor.spec import Spec
from tailor.stitching.plan import Layer
from tailor.stitching.routed import Routed
from tailor.strangers import AGAIN, read_json
from tailor.surgery import changed

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
    palette: Palette | NestedPalette | LanguagePalette
    base: BaseManifest
    base_path: Path


def write_base(
    folder: Path,
    specs: Sequence[Spec | LanguageAnchor],
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
        tensors=declared_of(tensors),
        facts=dict(facts),
    )
    write_text(folder / BASE_JSON, dumps(_BASE.dump_python(manifest, mode="json")))
    return sha256(folder / BASE_JSON)


def read_base(folder: Path, palette: Palette | NestedPalette | LanguagePalette) -> BaseManifest:
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
    load_part_(model.layers, read_part(folder, base, wanted), "layers.")
    return model


def write_palette(
    out: Path,
    palette: Palette | NestedPalette | LanguagePalette,
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
        tensors=declared_of(tensors),
        metrics=dict(metrics),
        provenance=dict(provenance),
    )
    write_text(out / MANIFEST, dumps(_MANIFEST.dump_python(manifest, mode="json")))
    return out


def read_palette(path: Path, base: Path | None = None) -> Read:
    """The palette in folder `path`, every file checked against its digest; `base` names a base that was moved."""
    path = Path(path)
    raw = read_raw(path)
    if isinstance(raw, dict) and "spec" in raw and not of_palette(raw):
        raise BundleError(
            f"`{path}` is a bundle of one model, not a palette", hint="give a folder that `tailor stitch` wrote"
        )
    manifest = validated(_MANIFEST, raw, path / MANIFEST)
    check_files(path, manifest.files)
    try:
        palette = PALETTE.validate_json(json.dumps(manifest.palette))
    except PlanError as error:
        raise BundleError(f"the palette is not valid: {error.message}", hint=AGAIN) from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(f"the palette is not valid at `{where}`: {error.errors()[0]['msg']}", hint=AGAIN) from None
    for spec in palette.anchors if not isinstance(palette, LanguagePalette) else ():
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


def load_part_(module: nn.Module, tensors: Mapping[str, Tensor], root: str) -> nn.Module:
    """Copy tensors, called `root` and the module's own name, into the module; heads that were not stored stay."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        mine = own.get(name.removeprefix(root))
        if mine is None or mine.shape != tensor.shape:
            raise PlanError(f"tensor `{name}` does not fit the palette", AGAIN)
        mine.copy_(tensor)
    return module


def read_part(folder: Path, base: BaseManifest, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of a base by name; PlanError where it lacks one."""
    missing = [name for name in wanted if name not in base.tensors]
    if missing:
        raise PlanError(f"the base lacks tensor `{missing[0]}`", AGAIN)
    return read_tensors(folder / TENSORS, base.tensors, wanted)


def _anchors(specs: Sequence[Spec | LanguageAnchor]) -> tuple[tuple[str, str], ...]:
    return tuple((spec.backbone.name, spec.backbone.digest) for spec in specs)


def _layers(layers: Sequence[Layer]) -> tuple[tuple[int, int, int, int], ...]:
    """Anchors and widths of every stitching layer."""
    return tuple((layer.front, layer.tail, layer.inputs, layer.outputs) for layer in layers)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": f"tailor-{FORMAT}"})


def _files(folder: Path, names: Sequence[str]) -> dict[str, File]:
    return {name: File((folder / name).stat().st_size, sha256(folder / name)) for name in names}


def declared_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of each tensor, as manifests say them."""
    return {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items()}
