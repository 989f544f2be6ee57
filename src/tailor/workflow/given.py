"""What `predict` is given on its command line: image files, or, for a model that reads text, instructions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailor.errors import DataError, UsageError
from tailor.workflow.names import MANIFEST
from tailor.workflow.predictions import images_in

if TYPE_CHECKING:
    from tailor.backbones.prompts import Instruction

TEXTS = (".json", ".jsonl")
LARGEST = 16 << 20
LONGEST = 80
"""Bytes of a manifest that is looked into, characters of an instruction that stand for it."""


def reads_text(path: str | Path) -> bool:
    """Whether the bundle's model reads text; of anything else than a bundle, no: whoever opens it says what it is."""
    file = Path(path) / MANIFEST
    try:
        if file.stat().st_size > LARGEST:
            return False
        said = json.loads(file.read_text(encoding="utf-8"))
        if said.get("kind") == "palette":
            return said["palette"]["kind"] == "language"  # type: ignore[no-any-return]
        return said["spec"]["preprocessing"]["kind"] == "tokens"  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def prompts_in(arguments: Sequence[str]) -> dict[str, "Instruction"]:
    """The instructions that the arguments name, by what stands for each: of JSON files `FILE#n`, else the text itself.

    UsageError where there is none; DataError for a file that is no list of instructions.
    """
    from tailor.backbones.prompts import Instruction
    from tailor.data.sources.instructions import read

    found: dict[str, Instruction] = {}
    for argument in arguments:
        if argument.lower().endswith(TEXTS):
            file = Path(argument)
            if not file.is_file():
                raise DataError(f"there is no file `{argument}`", hint="give a file of instructions, or a text")
            found |= {f"{argument}#{number}": example for number, example in read(file)}
        elif argument.strip():
            found[argument if len(argument) <= LONGEST else f"{argument[:LONGEST]}..."] = Instruction(argument)
    if not found:
        raise UsageError(
            "nothing was asked", hint='give a text in quotes, or a file: `tailor predict runs/a "Add 2 and 3."`'
        )
    return found


def inputs_in(path: str | Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What the bundle's model is to be given, by name: an example, or nothing but the name where that is a file's."""
    return dict(prompts_in(arguments)) if reads_text(path) else dict.fromkeys(images_in(arguments))


def files_of(inputs: Mapping[str, Any]) -> list[str]:
    """The files among what `inputs_in` found."""
    names = (name if one is None else name.rpartition("#")[0] for name, one in inputs.items())
    return [name for name in dict.fromkeys(names) if name]
