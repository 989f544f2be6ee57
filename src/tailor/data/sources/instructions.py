"""Instructions and their answers in Alpaca's layout: JSON or JSON lines of `instruction`, `input`, `output`.

One file, or a file a split in a folder. A file may come from anyone: its size, depth and every value are checked.
Conversations are refused: which of their turns is to be learnt is not said.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailor.backbones.prompts import Instruction
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources.folder import SPLIT_NAMES, check_exists
from tailor.errors import DataError

LAYOUT = 'write `[{"instruction": "...", "input": "", "output": "..."}]`, or one such object a line (`.jsonl`)'
FORMATS = (".json", ".jsonl")
LARGEST, LONGEST, MOST = 1 << 29, 1 << 20, 1 << 22
"""Bytes of a file, characters of a text, examples of a file."""
DEEPEST = 16
_TURNS = ("conversations", "conversation", "messages", "dialog")
_KEYS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Texts:
    """Gives the example that a source (`FILE#n`) stands for."""

    examples: dict[str, Instruction]

    def __call__(self, source: str) -> Instruction:
        """The example; DataError for a source that is none of these."""
        if source not in self.examples:
            raise DataError(f"there is no example `{source}`", hint="read the data again")
        return self.examples[source]


def load(where: str, seed: int) -> ImageData:
    """The examples of a file, or of a folder's files by split; DataError where one is not as it should be."""
    root = Path(where).expanduser()
    check_exists(root)
    splits, notes = {}, list[str]()
    for split, file in _files(root).items():
        found, empty = {}, 0
        for number, example in read(file):
            if example.output:
                found[f"{file}#{number}"] = example
            empty += not example.output
        if empty:
            notes.append(f"{empty} examples of `{file.name}` have no `output` and were left out")
        if found:
            records = tuple(Record(source, example) for source, example in found.items())
            splits[split] = Split(split, records, Texts(found))
    if not splits:
        raise DataError(f"`{root}` holds no instruction with an answer", hint=LAYOUT)
    return ImageData(str(root), (), splits, tuple(notes), kind="texts")


def read(file: Path) -> Iterator[tuple[int, Instruction]]:
    """The examples of a file with their numbers: of a list from 0, of lines from 1. DataError names the first wrong."""
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"`{file}` is larger than {LARGEST >> 20} MiB", hint="divide it")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"`{file}` is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"`{file}` cannot be read: {error.strerror}", hint="check path and permissions") from None
    rows = _lines(text, file) if file.suffix.lower() == ".jsonl" else enumerate(_listed(text, file))
    for count, (number, row) in enumerate(rows):
        if count == MOST:
            raise DataError(f"`{file}` holds more than {MOST:,} examples", hint="divide it")
        yield number, _example(row, f"`{file}#{number}`")


def _files(root: Path) -> dict[str, Path]:
    """A file a split."""
    if root.is_file():
        return {"all": root}
    found: dict[str, Path] = {}
    inside = [(p.name, p) for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in SPLIT_NAMES]
    files = [(p.stem, p) for p in sorted(root.iterdir()) if p.is_file() and p.suffix.lower() in FORMATS]
    files += [(name, p) for name, place in inside for p in sorted(place.iterdir()) if p.suffix.lower() in FORMATS]
    for name, file in files:
        split = SPLIT_NAMES.get(name.lower(), "all")
        if split in found:
            raise DataError(
                f"two files of `{root}` are the {split} split: `{found[split].name}` and `{file.name}`",
                hint="call them `train.json`, `val.json` and `test.json`",
            )
        found[split] = file
    if "all" in found and len(found) > 1:
        raise DataError(
            f"`{found['all'].name}` in `{root}` is of no split", hint="call it `train`, `val` or `test`, or move it"
        )
    return {split: found[split] for split in ("train", "val", "test", "all") if split in found}


def _listed(text: str, file: Path) -> list[Any]:
    found = _parsed(text, f"`{file}`")
    if not isinstance(found, list):
        raise DataError(f"`{file}` is one {_kind(found)}, expected a list of examples", hint=LAYOUT)
    return found


def _lines(text: str, file: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parsed(line, f"line {number} of `{file}`")


def _parsed(text: str, where: str) -> Any:
    """The JSON, whose brackets are counted before a parser is trusted with them."""
    if _depth(text) > DEEPEST:
        raise DataError(f"{where} is nested more than {DEEPEST} deep", hint=LAYOUT)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}", hint=LAYOUT) from None


def _depth(text: str) -> int:
    """The deepest nesting; what stands in quotes is not looked at closely, so that it may be overestimated there."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return 0
    depth = deepest = 0
    quoted = escaped = False
    for letter in text:
        if quoted:
            escaped, quoted = letter == "\\" and not escaped, letter != '"' or escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _example(row: Any, where: str) -> Instruction:
    if not isinstance(row, dict):
        raise DataError(f"{where} is a {_kind(row)}, expected an object", hint=LAYOUT)
    turns = next((name for name in _TURNS if name in row), None)
    if turns is not None:
        raise DataError(
            f"{where} is a conversation (`{turns}`), which is not read",
            hint="write every turn to be learnt as an example: what came before is its `instruction`",
        )
    if not row.get("instruction"):
        raise DataError(f"{where} has no `instruction`", hint=LAYOUT)
    texts = [row.get(name) for name in _KEYS]
    for name, value in zip(_KEYS, texts, strict=True):
        if value is not None and not isinstance(value, str):
            raise DataError(f"`{name}` of {where} is a {_kind(value)}, expected text", hint="put it in quotes")
        if value is not None and len(value) > LONGEST:
            raise DataError(f"`{name}` of {where} has {len(value):,} characters", hint=f"at most {LONGEST:,}")
    return Instruction(*(value or "" for value in texts))


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(value), "null")
