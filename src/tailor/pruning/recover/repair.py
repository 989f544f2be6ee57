"""Weights of a cut model that give back, as well as its units can, what the dense layers made: ridge regression.

Of each layer from the first that reads a cut axis or follows a dropped block: min over W, c of
|X W' + c - Y|^2 + eps |W - W_kept|^2, X what the layer is given, Y the outputs left of the dense layer, over a few
hundred images without labels. In order, X is that of the model repaired so far, so a layer also makes up for what those
before it could not. Depthwise convolutions stay: they reduce no inputs. Batch norms keep the dense statistics, which
are those of the targets, but for the mean's shift.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tailor.errors import DataError
from tailor.events import Event, Tell, silent
from tailor.layer_rows import applied, as_stored, channels_last, drawn, given_rows, made_rows
from tailor.pruning.recover.norms import batch_norms
from tailor.pruning.recover.places import RepairPlace, places
from tailor.pruning.recover.problem import Problem, Solved, solve_
from tailor.pruning.recover.watch import Calls, WatchedCall, watching
from tailor.pruning.recover.way import UnlabelledImages, Way, WayPart, segments
from tailor.pruning.settings import Repair
from tailor.surgery import eval_mode

FIRST = 8
"""Images that show in which order layers are called."""


@dataclass(frozen=True)
class RepairedLayer:
    """A layer's squared error on the images it was repaired on, as shares of its targets' variance."""

    path: str
    before: float
    after: float


@dataclass(frozen=True)
class Repaired:
    """What a repair did: the layers in order, those it could not take with the reason, on how many images, how long."""

    layers: tuple[RepairedLayer, ...]
    skipped: tuple[tuple[str, str], ...]
    images: int
    seconds: float

    @property
    def before(self) -> float:
        """The mean of the layers' errors before each was repaired."""
        return sum(layer.before for layer in self.layers) / max(len(self.layers), 1)

    @property
    def after(self) -> float:
        """The mean of their errors afterwards."""
        return sum(layer.after for layer in self.layers) / max(len(self.layers), 1)


@dataclass(frozen=True)
class Station:
    """A layer to repair: where it stands, how often a pass calls it, and the batch norm that reads it alone."""

    place: RepairPlace
    calls: int
    norm: str | None = None


@torch.no_grad()
def repair_(
    cut: nn.Module,
    dense: nn.Module,
    plans: Sequence[Any],
    batches: UnlabelledImages,
    settings: Repair | None = None,
    tell: Tell = silent,
) -> Repaired:
    """Repair `cut`, which `plans` (width plans, layer plans) made of `dense`, in place; the dense model is only read.

    `batches()` gives images (B, C, H, W) as the models take them, the same each time; no labels are needed. Both models
    are on one device. DataError where there is no image.
    """
    asked, started, device = settings or Repair(), time.monotonic(), next(cut.parameters()).device
    known = {place.path: place for place in places(dense, plans) if place.bypass or asked.layers == "behind"}
    line = _Line(cut, dense, known, asked)
    with eval_mode(cut), eval_mode(dense):
        shown = next((images[:FIRST].to(device) for images in batches()), None)
        if shown is None:
            raise DataError("there is no image to repair the cut model on", hint="give it at least one")
        parts = segments(cut, dense, plans, shown)
        way = Way(parts, batches, device)
        state = (shown, shown)
        for number, segment in enumerate(parts):
            stations, state = line.stations(segment, state)
            for group in _grouped(stations, asked):
                line.repair_(group, segment, way)
            tell(Event("repairing", number + 1, len(parts), f"{len(line.done)} layers"))
            if number + 1 < len(parts):
                way.go_on()
    return Repaired(tuple(line.done), line.left_out(), way.images, round(time.monotonic() - started, 2))


def _grouped(stations: Sequence[Station], settings: Repair) -> Iterator[Sequence[Station]]:
    """The layers that one pass over the images repairs."""
    if settings.order == "sequential":
        yield from ([station] for station in stations)
    elif stations:
        yield stations


class _Line:
    """The repair on its way: both models, what was repaired so far, and what could not be."""

    def __init__(self, cut: nn.Module, dense: nn.Module, known: Mapping[str, RepairPlace], settings: Repair) -> None:
        self.cut, self.dense, self.settings = cut, dense, settings
        self.modules = dict(cut.named_modules())
        self.known = {path: place for path, place in known.items() if path in self.modules}
        self.norms = batch_norms(cut)
        self.begun = False
        self.done: list[RepairedLayer] = []
        self.skipped: dict[str, str] = {}

    def stations(self, segment: WayPart, state: tuple[Any, Any]) -> tuple[list[Station], tuple[Any, Any]]:
        """The layers of the segment to repair, as they are called, and what both models make of the `state`."""
        with watching(self.cut, [*self.known, *self.norms]) as ours:
            made = segment.ours(state[0])
        with watching(self.dense, {place.source for place in self.known.values()}) as theirs:
            aim = segment.theirs(state[1])
        self.begun = self.begun or segment.shortened
        reader = {id(call.entered): path for path in self.norms for call in ours.of(path)}
        found = []
        for path in (path for path in ours.by_path if path in self.known):
            place, calls = self.known[path], ours.of(path)
            self.begun = self.begun or place.reads or place.bypass
            if not self.begun or (not place.reads and getattr(self.modules[path], "groups", 1) > 1):
                continue
            why = self._unfit(place, calls, theirs.of(place.source))
            if why:
                self.skipped[path] = why
            else:
                found.append(Station(place, len(calls), reader.get(id(calls[0].left)) if len(calls) == 1 else None))
        return found, (made, aim)

    def _unfit(self, place: RepairPlace, ours: Sequence[WatchedCall], theirs: Sequence[WatchedCall]) -> str:
        """Why a layer cannot be repaired, nothing where it can."""
        layer: Any = self.modules[place.path]
        if len(ours) != len(theirs):
            return "it is not called as often as in the dense model"
        if not all(as_stored(layer, call.given, call.made) for call in ours):
            return "it computes in a way of its own"
        if sum(other.weight is layer.weight for other in map(self.modules.get, self.known)) > 1:  # type: ignore[union-attr]
            return "it shares its weight with another layer"
        if self.settings.order == "parallel" and getattr(layer, "groups", 1) > 1:
            return "a convolution in groups is repaired in order only"
        wanted = (place.target(channels_last(layer, call.made)).shape for call in theirs)
        if any(shape != channels_last(layer, call.made).shape for call, shape in zip(ours, wanted)):
            return "what it makes is not part of what the dense layer makes"
        return ""

    def repair_(self, stations: Sequence[Station], segment: WayPart, way: Way) -> None:
        """Gather the stations' sums over all images, and solve them."""
        problems = {s.place.path: Problem.zero(self.modules[s.place.path], way.device) for s in stations}
        counts = ({s.place.path: s.calls for s in stations}, {s.place.source: s.calls for s in stations})
        for number, (ours, theirs) in enumerate(way.states()):
            with watching(self.cut, counts[0]) as here:
                segment.ours(ours)
            with watching(self.dense, counts[1]) as there:
                segment.theirs(theirs)
            for station in stations:
                for rows in self._rows(station.place, here, there, len(ours), number):
                    problems[station.place.path].add_(*rows)
        for station in stations:
            path = station.place.path
            norm = self.modules[station.norm] if station.norm else None
            solved: Solved = solve_(self.modules[path], problems[path], self.settings.ridge, norm)
            self.done.append(RepairedLayer(path, solved.before, solved.after))

    def _rows(
        self, place: RepairPlace, here: Calls, there: Calls, images: int, number: int
    ) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Of every call of a layer: what it is given, makes of it, and should make."""
        layer: Any = self.modules[place.path]
        for mine, its in zip(here.of(place.path), there.of(place.source), strict=True):
            count = channels_last(layer, mine.made)[..., 0].numel()
            chosen = drawn(count, self.settings.positions * images, self.settings.seed + number)
            wanted = place.target(made_rows(layer, its.made, chosen))
            if self.settings.order == "sequential":
                yield given_rows(layer, mine.given, mine.made, chosen), made_rows(layer, mine.made, chosen), wanted
            else:
                given = given_rows(layer, place.kept(layer, its.given), its.made, chosen).double()
                yield given, applied(layer, given), wanted

    def left_out(self) -> tuple[tuple[str, str], ...]:
        """The layers that read a cut axis and were not repaired, and why."""
        seen = {layer.path for layer in self.done} | self.skipped.keys()
        silent_ones = {path: "it is not called" for path, p in self.known.items() if p.reads and path not in seen}
        return tuple((self.skipped | silent_ones).items())
