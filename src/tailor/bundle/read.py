"""From a bundle's folder to its model: what is stored, on the backbone or the bundle that it names.

`verify` has looked at every file before anything here is built.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tailor import backbones
from tailor import build as builder
from tailor.build import Opened
from tailor.bundle.live import route_bundle
from tailor.bundle.manifest import INDEX_PREFIX, Bundle, Manifest, unpack
from tailor.bundle.verify import check_files, of_palette, read_manifest, read_raw, read_tensors
from tailor.errors import BundleError, PlanError
from tailor.plans import PLANS
from tailor.preprocessing import Interpolation
from tailor.run_folder import MANIFEST, TENSORS
from tailor.spec import BUNDLE, BackboneRef, Spec
from tailor.strangers import AGAIN
from tailor.surgery import load_changed_
from tailor.tasks import Head

MOST_LINKS = 16
"""How many bundles may go on from one another."""
MISFIT = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What layers raise that are made, or put around others, by numbers that nobody wrote."""


def read(path: Path, route: str | None = None, download: bool = False) -> Bundle:
    """The bundle in folder `path`, every file checked against its digest.

    Of a palette it is the `route` of that name, merged, by default the dearest that is deployed; `download` allows to
    fetch what its anchors lack on this machine.
    """
    path = Path(path)
    if (path / MANIFEST).is_file() and of_palette(read_raw(path)):
        return route_bundle(path, route, download)
    if route is not None:
        raise BundleError(f"`{path}` is one model and has no routes", hint="leave `--route` out")
    manifest = read_manifest(path)
    check_files(path, manifest.files)
    tensors = read_tensors(path / TENSORS, manifest.tensors)
    lists = {name: t for name, t in tensors.items() if name.startswith(INDEX_PREFIX)}
    spec = unpack(manifest.spec, lists)
    return Bundle(path, manifest, spec, {name: t for name, t in tensors.items() if name not in lists})


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
