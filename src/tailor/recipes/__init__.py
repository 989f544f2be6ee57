"""Bundled configurations: YAML files such as `isomorphic/deit-4.2g`, for `--config` and as keyword arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tailor.errors import UsageError, nearest

_ROOT = Path(__file__).parent


def names() -> list[str]:
    """The bundled configurations, sorted."""
    return sorted(str(path.relative_to(_ROOT).with_suffix("")) for path in _ROOT.rglob("*.yaml"))


def find(name: str) -> Path:
    """The file at this path, or the bundled configuration of this name; UsageError where there is neither."""
    path = Path(name)
    if path.is_file():
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
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}", hint="check `--config`") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"`{path}` is not YAML: {str(error).splitlines()[0]}", hint="write `key: value` lines"
        ) from None
    if not isinstance(loaded, Mapping):
        raise UsageError(f"`{path}` holds no settings", hint="write `key: value` lines")
    return dict(loaded)
