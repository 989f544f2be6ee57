"""What a pruning decided, written to its folder before anything trains, with the request that it answers.

Every process takes what the main one wrote, and a resumed run what was written before it was interrupted.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from tailor.bundle.files import replacing
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.errors import BundleError
from tailor.plans import AnyPlan
from tailor.spec import Spec
from tailor.workflow.context import Decision
from tailor.workflow.records import Pruned, pruned

TENSORS = "decided.safetensors"
"""The tensors, until the bundle is written, that a search has trained or a recovery changed while it was decided."""
STEPS = "steps"
"""The folder, inside the output folder, of the steps of a pruning in steps."""

RACE = "race"
"""The folder, inside the output folder, of what the automatic planner found and trained."""

ADAPTED = "adapted"
"""The folder, inside the output folder, of the adapted bundle that a target made smaller."""
BEGAN = "resume it with the command that began it, or start anew with `--overwrite`"

_PLANS: TypeAdapter[tuple[AnyPlan, ...]] = TypeAdapter(tuple[AnyPlan, ...])


@dataclass(frozen=True)
class Decided:
    """The spec of the smaller model, the decision in the dense model's names, and what came of it."""

    spec: Spec
    decision: Decision
    found: Pruned


def note(folder: Path, decided: Decided, asked: Mapping[str, Any]) -> None:
    """Write down what was decided, and what was asked."""
    plans = _PLANS.dump_python(decided.decision.plans, mode="json")
    if decided.decision.tensors is not None:
        with replacing(folder / TENSORS) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in decided.decision.tensors.items()}, temporary)
    candidates = {"candidates": list(decided.decision.candidates)} if decided.decision.candidates else {}
    found = {"decided": plans, "found": decided.found.known(), **candidates}
    write_plan(folder, decided.spec, {**asked, **found})


def noted(folder: Path) -> Decided:
    """What was decided in the folder."""
    file = read_plan(folder)
    plans = _PLANS.validate_json(json.dumps(file.settings["decided"]))  # by JSON's rules: lists stand for tuples
    found = pruned(file.settings["found"], folder)
    tensors = load_file(folder / TENSORS) if (folder / TENSORS).is_file() else None
    return Decided(file.spec, Decision(plans, found.reason, tensors), found)


def forget(folder: Path) -> None:
    """Remove what a search left beside its plans, tensors and checkpoints: the bundle holds what they became."""
    (folder / TENSORS).unlink(missing_ok=True)
    for training in (folder / RACE).glob("*/"):
        shutil.rmtree(training, ignore_errors=True)


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """BundleError where the run in the folder, if there is one, was begun with another request."""
    begun = [place for place in (folder, folder / STEPS / "1") if (place / PLAN).is_file()]
    settings = read_plan(begun[0]).settings if begun else asked
    if "name" not in settings:
        raise BundleError(f"the run in `{folder}` adapts, and makes nothing smaller", hint=BEGAN)
    for key, value in json.loads(json.dumps(asked)).items():
        was = settings.get(key)
        if begun and was != value:
            raise BundleError(
                f"the run in `{folder}` was begun with another `{key}`: {'none' if was is None else was}",
                hint=BEGAN,
            )
