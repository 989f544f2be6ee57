"""Reading a bundle, trusting nothing in it: format, paths, sizes, digests, key sets and shapes before any allocation.

The safetensors header alone is compared with the manifest first; what it declares beyond the file's own size never gets
memory. Nothing is unpickled.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tailor import backbones
from tailor import build as builder
from tailor.build import Opened
from tailor.bundle.files import sha256
from tailor.bundle.manifest import INDEX_PREFIX, READS, File, Manifest, unpack
from tailor.errors import BundleError, PlanError
from tailor.plans import PLANS
from tailor.preprocessing import Interpolation
from tailor.run_folder import MANIFEST, TENSORS
from tailor.spec import BUNDLE, BackboneRef, Spec
from tailor.strangers import AGAIN, is_link, read_json
from tailor.surgery import load_changed_
from tailor.tasks import Head

MOST_LINKS = 16
"""How many bundles may go on from one another."""
MISFIT = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What layers raise that are made, or put around others, by numbers that nobody wrote."""
_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
PALETTE_KIND = "palette"
T = TypeVar("T")
Declared = Mapping[str, tuple[str, tuple[int, ...]]]
"""Each tensor's type and shape."""


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: its folder, manifest, spec and tensors (index lists taken out)."""

    path: Path
    manifest: Manifest
    spec: Spec
    tensors: dict[str, Tensor]


def read_manifest(path: Path) -> Manifest:
    """`bundle.json`, validated; BundleError where the folder is no bundle, unfinished, or of another format."""
    raw = read_raw(path)
    if of_palette(raw):
        raise BundleError(
            f"`{path}` is a palette of several models", hint=f"pick one: `tailor pick {path} --macs 50% -o OUT`"
        )
    return validated(_MANIFEST, raw, path / MANIFEST)


def read_raw(path: Path) -> Any:
    """The JSON of `bundle.json` of any kind of bundle, of our format and not too deep."""
    file = path / MANIFEST
    if not path.exists():
        raise BundleError(f"there is no bundle `{path}`", hint="give a folder that `tailor adapt` wrote")
    if not file.is_file():
        unfinished = (path / "checkpoints").is_dir() or (path / TENSORS).is_file()
        hint = "continue it with `--resume`" if unfinished else "give a folder that `tailor adapt` wrote"
        what = "an unfinished run" if unfinished else "not a bundle"
        raise BundleError(f"`{path}` is {what}: it has no `{MANIFEST}`", hint=hint)
    raw = read_json(file)
    if isinstance(raw, dict) and raw.get("format") not in READS:
        raise BundleError(
            f"`{file}` has format {raw.get('format')!r}, this tailor reads up to {READS[-1]}",
            hint="update tailor, or " + AGAIN,
        )
    return raw


def validated(adapter: TypeAdapter[T], raw: Any, file: Path) -> T:
    """The values as the type that they should be; BundleError where they are not."""
    try:
        return adapter.validate_json(json.dumps(raw))
    except PlanError as error:
        raise BundleError(f"`{file}` is not valid: {error.message}", hint=AGAIN) from None
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BundleError(f"`{file}` is not valid at `{where}`: {error.errors()[0]['msg']}", hint=AGAIN) from None


def of_palette(raw: Any) -> bool:
    """Whether it is the manifest of a palette."""
    return isinstance(raw, dict) and raw.get("kind") == PALETTE_KIND


def read(path: Path, route: str | None = None, download: bool = False) -> Bundle:
    """The bundle in folder `path`, every file checked against its digest.

    Of a palette it is the `route` of that name, merged, by default the dearest that is deployed; `download` allows to
    fetch what its anchors lack on this machine.
    """
    path = Path(path)
    if (path / MANIFEST).is_file() and of_palette(read_raw(path)):
        from tailor.bundle.live import route_bundle  # it is read by the functions here

        return route_bundle(path, route, download)
    if route is not None:
        raise BundleError(f"`{path}` is one model and has no routes", hint="leave `--route` out")
    manifest = read_manifest(path)
    check_files(path, manifest.files)
    tensors = read_tensors(path / TENSORS, manifest.tensors)
    lists = {name: t for name, t in tensors.items() if name.startswith(INDEX_PREFIX)}
    spec = unpack(manifest.spec, lists)
    return Bundle(path, manifest, spec, {name: t for name, t in tensors.items() if name not in lists})


def check_files(path: Path, files: Mapping[str, File]) -> None:
    """BundleError unless every file that the manifest names is in the folder, as it was written, the tensors too."""
    for name, file in files.items():
        place = path / name
        if Path(name).name != name or is_link(place):
            raise BundleError(f"the bundle names a file outside its folder, or a link: `{name}`", hint=AGAIN)
        if not place.is_file():
            raise BundleError(f"the bundle `{path}` lacks `{name}`", hint=AGAIN)
        if place.stat().st_size != file.bytes or sha256(place) != file.sha256:
            raise BundleError(f"`{place}` was changed or cut short: its digest differs from the manifest", hint=AGAIN)
    if TENSORS not in files:
        raise BundleError(f"the bundle `{path}` names no `{TENSORS}`", hint=AGAIN)


def read_tensors(path: Path, declared: Declared, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of the file, whose names, types and shapes must be those declared; with `wanted`, these only."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != declared.keys():
                odd = sorted(names ^ declared.keys())[0]
                raise BundleError(f"`{path}` and its manifest disagree about tensor `{odd}`", hint=AGAIN)
            _fits(path, declared)
            tensors = {}
            for name, (kind, shape) in declared.items():
                if wanted is not None and name not in wanted:
                    continue
                if tuple(file.get_slice(name).get_shape()) != shape:
                    raise BundleError(f"tensor `{name}` in `{path}` has another shape than declared", hint=AGAIN)
                tensors[name] = file.get_tensor(name)
                if str(tensors[name].dtype) != f"torch.{kind}":
                    raise BundleError(f"tensor `{name}` in `{path}` has another type than declared", hint=AGAIN)
                _finite(name, tensors[name], path)
    except SafetensorError as error:
        raise BundleError(f"`{path}` is not a safetensors file: {error}", hint=AGAIN) from None
    return tensors


def _fits(path: Path, declared: Declared) -> None:
    """The declared elements take no more bytes than the file has."""
    count = sum(math.prod(shape) for _, shape in declared.values())
    if count > path.stat().st_size or any(size < 0 for _, shape in declared.values() for size in shape):
        raise BundleError(f"the manifest declares {count:,} numbers, more than `{path}` can hold", hint=AGAIN)


def _finite(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise BundleError(f"tensor `{name}` in `{path}` holds NaN or infinite values", hint="train the model again")


def restore(
    bundle: Bundle, weights: str | None = None, download: bool = False, through: tuple[Path, ...] = ()
) -> nn.Module:
    """The bundle's model, built and loaded, in eval mode, as it was when it was written (tunes unmerged).

    `weights` replaces where the backbone's weights are looked for (a moved checkpoint file, or the bundle that this one
    goes on from). Without `download` the network is not used: ModelError says what of the backbone would have to be
    fetched. `through` are the bundles that led here.
    """
    spec = bundle.spec
    if bundle.manifest.complete:
        spec = _elsewhere(spec, "random")  # every tensor is in the bundle: the backbone's own need not be found
    elif weights is not None:
        spec = _elsewhere(spec, weights)
    if not download:
        spec = _here(spec)
    stored = sum(tensor.numel() for tensor in bundle.tensors.values())
    try:
        whole, chain = bundle.manifest.complete, (*through, bundle.path)
        made = base(spec.backbone, spec.head, check=not whole, download=download, through=chain)
        # What a plan puts in, the bundle has to hold.
        model = builder.apply_plans_(made, spec.plans[len(made.spec.plans) :], stored).model
        if bundle.manifest.complete:
            load_all_(model, bundle.tensors)
        else:
            load_changed_(model, bundle.tensors)
    except PlanError as error:
        raise BundleError(f"`{bundle.path}`: {error.message}", hint=error.hint) from None
    except MISFIT as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BundleError(f"the plans of `{bundle.path}` do not fit its backbone: {reason}", hint=AGAIN) from error
    return model.eval()


def blank(bundle: Bundle) -> nn.Module:
    """The bundle's architecture on random weights, in eval mode: nothing is looked for, no tensor is loaded."""
    return builder.build(_here(_elsewhere(bundle.spec, "random")), check=False).eval()


def base(
    reference: BackboneRef,
    head: Head,
    *,
    interpolation: Interpolation = "bicubic",
    check: bool = True,
    download: bool = False,
    through: tuple[Path, ...] = (),
) -> Opened:
    """The backbone with a fresh head, by `build.base`, or another bundle's model where the reference names one.

    That is merged, its head replaced, and its plans lead the spec.
    """
    if not reference.weights.startswith(BUNDLE):
        return builder.base(reference, head, interpolation=interpolation, check=check)
    loaded = read(Path(reference.weights.removeprefix(BUNDLE)))
    if through:
        _check_links(through[0], through, loaded.path)
    plain = builder.merged_(restore(loaded, download=download, through=through), loaded.spec).state_dict()
    return builder.continued(loaded.spec, plain, reference, head, check=check)


def sources(path: Path) -> list[Path]:
    """The bundles that the one in `path` goes on from, the nearest first, the last perhaps no longer there.

    BundleError where they lead back to one of them, or are too many.
    """
    found = [path]
    while (found[-1] / MANIFEST).is_file():
        spec: Any = read_manifest(found[-1]).spec
        backbone = spec.get("backbone") if isinstance(spec, dict) else None
        weights = str(backbone.get("weights", "")) if isinstance(backbone, dict) else ""
        if not weights.startswith(BUNDLE):
            break
        found.append(Path(weights.removeprefix(BUNDLE)))
        _check_links(path, found[:-1], found[-1])
    return found[1:]


def _check_links(start: Path, through: Sequence[Path], to: Path) -> None:
    """BundleError where the bundle `to` was passed on the way from `start`, or the way is too long."""
    if len(through) > MOST_LINKS or to.resolve() in {path.resolve() for path in through}:
        raise BundleError(f"`{start}` goes on from bundles that lead back to it, or from too many", hint=AGAIN)


def continued(path: Path, head: Head, seed: int) -> Opened:
    """The model of the bundle in folder `path` as a backbone for another task."""
    spec = read(path).spec
    return base(replace(spec.backbone, weights=BUNDLE + str(path), digest="", seed=seed), head)


def load_all_(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Copy every tensor of the model's state from `tensors`; PlanError on any other key set or shape."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ tensors.keys())
    wrong = [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    if odd or wrong:
        raise PlanError(f"tensor `{(odd or wrong)[0]}` does not fit the plans ({len(odd) + len(wrong)} in all)", AGAIN)
    model.load_state_dict(tensors)
    for module in model.modules():
        rebase = getattr(module, "rebase_", None)
        if callable(rebase):  # sparse deltas count from the stored weight
            rebase()
    return model


def _elsewhere(spec: Spec, weights: str) -> Spec:
    if spec.backbone.weights.startswith(BUNDLE) and (Path(weights) / MANIFEST).is_file():
        weights = BUNDLE + weights
    return replace(spec, backbone=replace(spec.backbone, weights=weights))


def _here(spec: Spec) -> Spec:
    """The spec with its backbone as it lies on this machine."""
    name, weights = backbones.local(spec.backbone.name, spec.backbone.weights)
    return replace(spec, backbone=replace(spec.backbone, name=name, weights=weights))


def load(path: str | Path, weights: str | None = None, download: bool = False) -> nn.Module:
    """The plain `nn.Module` of the bundle in folder `path`, in eval mode.

    `weights` names a moved checkpoint file; `download` allows to fetch the backbone's, which is refused without it.
    """
    return restore(read(Path(path), download=download), weights, download)


def summary(manifest: Manifest) -> dict[str, Any]:
    """What a bundle is, without building anything: backbone, classes, plans, sizes, metrics."""
    try:
        return _summary(manifest)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BundleError("the bundle's spec is not one that tailor writes", hint=AGAIN) from None


def _summary(manifest: Manifest) -> dict[str, Any]:
    spec = manifest.spec
    return {
        "backbone": spec["backbone"]["name"],
        "digest": spec["backbone"]["digest"],
        "classes": spec["head"]["classes"],
        "plans": [_plan_line(plan) for plan in spec["plans"]],
        "tensors": len(manifest.tensors),
        "bytes": {name: file.bytes for name, file in manifest.files.items()},
        "complete": manifest.complete,
        "metrics": manifest.metrics,
        "provenance": manifest.provenance,
    }


def _plan_line(plan: dict[str, Any]) -> dict[str, Any]:
    kind = str(plan.get("kind"))
    return {"kind": kind, **(PLANS[kind].summary(plan) if kind in PLANS else {})}
