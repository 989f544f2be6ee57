"""Bundled configurations: YAML files such as `isomorphic/deit-4.2g`, for `--config` and as keyword arguments.

A file may be a stranger's: its size and depth are bounded, nothing in it stands for something else, no key comes twice.
"""

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tailor.errors import UsageError, nearest

_ROOT = Path(__file__).parent
LARGEST = 1 << 16  # bytes; the parser needs a second for them
DEEPEST = 20


def names() -> list[str]:
    """The bundled configurations, sorted."""
    return sorted(str(path.relative_to(_ROOT).with_suffix("")) for path in _ROOT.rglob("*.yaml"))


def find(name: str) -> Path:
    """The file at this path, or the bundled configuration of this name; UsageError where there is neither."""
    path = Path(name)
    if os.path.isfile(path):  # unlike Path's, False for a name too long
        return path
    if name in names():
        return _ROOT / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"there is no file `{name}`", hint="check `--config`")
    raise UsageError(f"`{name}` is no file and no bundled configuration", hint=nearest(name, names()))


def read(name: str) -> dict[str, Any]:
    """The settings in a file or a bundled configuration: `tailor.prune(**read("isomorphic/deit-4.2g"), data=...)`."""
    path = find(name)
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"`{path}` has {path.stat().st_size:,} bytes, more than {LARGEST:,}", hint="shorten it")
        text = path.read_text(encoding="utf-8")
        _check(path, text)
        loaded = yaml.load(text, Loader=_Strict)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}", hint="check `--config`") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:  # ValueError: a date such as 2026-13-40
        raise UsageError(f"`{path}` is not YAML: {_first(error)}", hint="write `key: value` lines") from None
    if not isinstance(loaded, Mapping):
        raise UsageError(f"`{path}` holds no settings", hint="write `key: value` lines")
    return dict(loaded)


class _Strict(yaml.SafeLoader):
    """PyYAML's safe loader, which lets the last of equal keys win, but for that."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            mark = (key.tag, str(key.value))
            if mark in seen:
                raise yaml.constructor.ConstructorError(problem=f"`{key.value}` stands twice, {_line(key)}")
            seen.add(mark)
        return super().construct_mapping(node, deep)


def _check(path: Path, text: str) -> None:
    """UsageError for what makes a small file large, or the loader recurse: aliases, and nesting without end."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UsageError(f"`{path}` is nested deeper than {DEEPEST} levels, {_line(event)}", hint="flatten it")
        if isinstance(event, yaml.AliasEvent):
            raise UsageError(f"`{path}` refers to `*{event.anchor}`, {_line(event)}", hint="write the value again")


def _line(part: yaml.Event | yaml.Node) -> str:
    return f"line {part.start_mark.line + 1}" if part.start_mark is not None else ""


def _first(error: Exception) -> str:
    """What is wrong and where, in one line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{problem}, line {mark.line + 1}" if mark is not None else str(problem)
