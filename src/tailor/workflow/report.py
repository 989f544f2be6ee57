"""The page of a run: gathered from its bundle and evidence, written beside it, or beside others into one file.

A bundle holds no images and a run's own page shows none; pictures of mistakes come in only where data are named.
"""

import base64
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from tailor import bundle
from tailor.bundle.evidence import LARGEST, CostRecord, Evidence, ModelCost, Score, note, read_evidence
from tailor.bundle.files import write_text
from tailor.bundle.palette import read_palette
from tailor.bundle.verify import is_palette
from tailor.errors import TailorError
from tailor.events import Event, Tell
from tailor.evidence.page import Mistake, PageRun, Parity, page, verdict
from tailor.plans import PLANS
from tailor.run_folder import CARD, MANIFEST, TENSORS
from tailor.spec import Spec
from tailor.tasks import task_of
from tailor.workflow.evaluate import scored
from tailor.workflow.records import Pruned

PAGE = "report.html"
MISTAKES, THUMB = 12, 128
"""Mistakes that are shown, and pixels a side of their pictures."""
FORMATS = {"ONNX": "model.onnx", "torch.export": "model.pt2"}


def leave_page(folder: Path, seconds: float | None = None) -> Path:
    """Write the page of the run that wrote the bundle in `folder`, in which it took that long, beside the bundle."""
    if seconds is not None:
        note(folder, seconds=round(seconds, 1))
    write_text(folder / PAGE, page([gathered(folder, final(folder))]))
    return folder / PAGE


def final(folder: Path) -> str:
    """The name that the folder will have: a run that replaces another writes beside it."""
    name = folder.name
    partial = name.startswith(".") and name.endswith(".partial")
    return str(folder.with_name(name[1:].removesuffix(".partial")) if partial else folder)


def report(
    places: Sequence[Path],
    out: Path,
    data: str | None,
    exports: bool,
    seed: int,
    tell: Tell,
) -> tuple[int, list[str]]:
    """Write one page of all bundles; its bytes, and the sentence on each."""
    runs = []
    for done, place in enumerate(places):
        tell(Event("reading", done, len(places), str(place)))
        run = gathered(place, str(place))
        if data is not None:
            run = with_mistakes(run, place, data, seed, tell)
        if exports:
            run = replace(run, parity=held_against(place, tell))
        runs.append(run)
    text = page(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return len(text.encode()), [f"{one.sentence}: {one.word}" for one in map(verdict, runs)]


def gathered(place: Path, name: str) -> PageRun:
    """What the folder says: the bundle, and the evidence beside it, or where there is none what the bundle measured."""
    if is_palette(place):
        return _palette(place, name)
    made = bundle.read_manifest(place)
    found = bundle.summary(made)
    spec = bundle.read(place).spec
    evidence = read_evidence(place) or _from_metrics(made.metrics, spec)
    return PageRun(
        name,
        evidence,
        str(found["backbone"]),
        f"{task_of(spec.head).kind}, {len(spec.head.classes)} classes" if spec.head.classes else spec.head.kind,
        spec.head.classes,
        _bytes(place),
        _plain(made.provenance),
        tuple(PLANS[plan.kind].line(plan).replace("`", "") for plan in spec.plans),
    )


def _palette(place: Path, name: str) -> PageRun:
    found = read_palette(place)
    anchors = ", ".join(anchor.backbone.name for anchor in found.palette.anchors)
    heads = [anchor.head for anchor in found.palette.anchors if isinstance(anchor, Spec)]
    classes = heads[0].classes if heads else ()
    routes = found.manifest.routes
    line = f"palette: {len(routes)} routes, {sum(one.deployed for one in routes)} deployed"
    evidence = read_evidence(place) or Evidence()
    return PageRun(name, evidence, anchors, "", classes, _bytes(place), _plain(found.manifest.provenance), (line,))


def _bytes(place: Path) -> int:
    """Of manifest, tensors and card, as a training counts them."""
    return sum((place / name).stat().st_size for name in (MANIFEST, TENSORS, CARD) if (place / name).is_file())


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): f"{value}" for name, value in values.items() if isinstance(value, str | int | float)}


def _from_metrics(metrics: Mapping[str, Any], spec: Spec) -> Evidence:
    """The little that a bundle without evidence says of itself: it was picked, merged, or made long ago."""
    task = task_of(spec.head)

    def number(name: str) -> float | None:
        value = metrics.get(name)
        return float(value) if isinstance(value, int | float) and abs(value) < LARGEST else None

    after, before = number(task.metric), number("score_before")
    n, split = metrics.get("n"), str(metrics.get("split", ""))
    counted, score, costs = getattr(task, "counted", False), None, None
    with suppress(ValueError):  # a stranger's figures may be anything
        n = n if isinstance(n, int) else 0
        score = Score(task.metric, task.larger, split, n, after, before, number("score_cut"), counted)
        costs = CostRecord(ModelCost(metrics["macs"], metrics["params"])) if "macs" in metrics else None
    with suppress(TypeError, ValueError):
        known = Pruned(**{"bundle": "", "bundle_bytes": 0, **metrics})
        before_, after_ = (
            ModelCost(getattr(known, f"macs_{w}"), getattr(known, f"params_{w}")) for w in ("before", "after")
        )
        costs = CostRecord(after_, before_, known.throughput_ratio)
    return Evidence(score=score if after is not None else None, costs=costs, seconds=number("seconds"))


def with_mistakes(run: PageRun, place: Path, data: str, seed: int, tell: Tell) -> PageRun:
    """The run with its confusion on these data, and pictures of what it got most wrong."""
    made = scored(place, None, data, None, False, "skip", seed, tell, worst=MISTAKES)
    mistakes = []
    for one in made.worst:
        target = made.split.records[one.index].target
        truth = run.classes[target] if isinstance(target, int) and target < len(run.classes) else ""
        called = str(one.found.get("label", one.found.get("value", "")))
        picture = _picture(made.split.read(one.index))
        mistakes.append(Mistake(one.source, one.loss, called, one.found.get("score"), truth, picture))
    counts = tuple(tuple(row) for row in made.figures.get("confusion", ()))
    return replace(run, mistakes=tuple(mistakes), evidence=replace(run.evidence, confusion=counts))


def _picture(image: Image.Image) -> str:
    """A small JPEG of its middle, as base64; nothing of the file it came from is in it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    small = image.convert("RGB").crop((left, top, left + side, top + side)).resize((THUMB, THUMB))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=80)
    return base64.b64encode(held.getvalue()).decode()


def held_against(place: Path, tell: Tell) -> tuple[Parity, ...]:
    """Every format that the model exports to, held against it; the files are not kept."""
    from tailor.workflow.export import exported

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, file in FORMATS.items():
            tell(Event("exporting", text=kind))
            try:
                made = exported(place, None, Path(folder) / file, None, False, None, False, False, tell)
                found.append(Parity(kind, made[1]))
            except TailorError as error:
                found.append(Parity(kind, reason=error.message))
    return tuple(found)
