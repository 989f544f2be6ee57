"""Where a race stands, on disk: candidates with their plans and scores, what was decided to train, seconds spent.

It is written after every stage, so that an interrupted race goes on where it was; the trainings have checkpoints of
their own beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tailor.bundle.files import dumps, write_text
from tailor.plans import AnyPlan
from tailor.pruning.race.candidates import Candidate
from tailor.strangers import read_json
from tailor.workflow.race.find import PlannedCandidate

LEDGER = "race.json"
"""The file, in the folder of a race."""

_PLANS: TypeAdapter[tuple[AnyPlan, ...]] = TypeAdapter(tuple[AnyPlan, ...])
_CANDIDATE: TypeAdapter[Candidate] = TypeAdapter(Candidate)


@dataclass(frozen=True)
class Ledger:
    """The state of a race: `planned` are the epochs of each round by candidate, `done` the rounds that are over."""

    folder: Path
    found: tuple[PlannedCandidate, ...] = ()
    planned: tuple[dict[str, int], ...] = ()
    seconds: float = 0.0

    def written(self, seconds: float, **changes: Any) -> "Ledger":
        """The state with changes, on disk too."""
        new = replace(self, seconds=seconds, **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [{**asdict(one.candidate), "decided": _PLANS.dump_python(one.plans, mode="json")} for one in new.found]
        values = {"seconds": round(seconds, 2), "planned": list(new.planned), "candidates": rows}
        write_text(self.folder / LEDGER, dumps(values))
        return new

    def scored(self, candidate: Candidate, seconds: float) -> "Ledger":
        """With a candidate as it is now."""
        found = tuple(replace(f, candidate=candidate) if f.candidate.name == candidate.name else f for f in self.found)
        return self.written(seconds, found=found)

    @property
    def candidates(self) -> list[Candidate]:
        """All of them."""
        return [one.candidate for one in self.found]

    def of(self, name: str) -> PlannedCandidate:
        """The candidate of that name."""
        return next(one for one in self.found if one.candidate.name == name)


def opened(folder: Path, resume: bool) -> Ledger:
    """The ledger of an interrupted race, where it is to be gone on with; else an empty one."""
    file = folder / LEDGER
    if not resume or not file.is_file():
        return Ledger(folder)
    values = read_json(file)
    return Ledger(folder, tuple(map(_read, values["candidates"])), tuple(values["planned"]), values["seconds"])


def _read(row: dict[str, Any]) -> PlannedCandidate:
    plans = _PLANS.validate_json(json.dumps(row.pop("decided")))
    return PlannedCandidate(_CANDIDATE.validate_json(json.dumps(row)), plans)


def evidence(candidates: Sequence[Candidate], chosen: str) -> list[dict[str, Any]]:
    """All candidates as plain numbers, for the plan file."""
    return [{**asdict(one), "chosen": one.name == chosen} for one in candidates]
