"""What a pruning decided, written to its folder before anything trains, with the request that it answers.

Every process takes what the main one wrote, and a resumed run what was written before it was interrupted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.errors import BundleError
from tailor.spec import Spec
from tailor.tracing import WidthPlan
from tailor.verbs.pruned import Pruned, read, told

STEPS = "steps"
"""The folder, inside the output folder, of the steps of a pruning in steps."""

_CUT: TypeAdapter[WidthPlan | None] = TypeAdapter(WidthPlan | None)


@dataclass(frozen=True)
class Decided:
    """The spec of the smaller model, the cut of widths, if any, in the dense model's names, and what came of it."""

    spec: Spec
    cut: WidthPlan | None
    found: Pruned


def note(folder: Path, decided: Decided, asked: Mapping[str, Any]) -> None:
    """Write down what was decided, and what was asked."""
    cut = _CUT.dump_python(decided.cut, mode="json")
    write_plan(folder, decided.spec, {**asked, "cut": cut, "found": told(decided.found)})


def noted(folder: Path) -> Decided:
    """What was decided in the folder."""
    file = read_plan(folder)
    cut = _CUT.validate_json(json.dumps(file.settings["cut"]))  # by JSON's rules: lists stand for tuples
    return Decided(file.spec, cut, read(file.settings["found"], folder))


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """BundleError where the run in the folder, if there is one, was begun with another request."""
    begun = [place for place in (folder, folder / STEPS / "1") if (place / PLAN).is_file()]
    settings = read_plan(begun[0]).settings if begun else asked
    for key, value in json.loads(json.dumps(asked)).items():
        was = settings.get(key)
        if begun and was != value:
            raise BundleError(
                f"the run in `{folder}` was begun with another `{key}`: {'none' if was is None else was}",
                hint="resume it with the command that began it, or start anew with `--overwrite`",
            )
