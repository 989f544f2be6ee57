"""Sections of a configuration file that change the settings of one method: `spt:`, `noah:`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from tailor.errors import UsageError, nearest

T = TypeVar("T", bound=Any)


def configured(default: T, given: Mapping[str, Any], name: str, page: str, closed: tuple[str, ...] = ("kind",)) -> T:
    """`default`, a pydantic dataclass, with the settings that were given; lists count as tuples.

    `closed` are fields that no file sets, `page` is where the others are described. UsageError for an unknown key (with
    the nearest) or a wrong value.
    """
    known = [field.name for field in fields(default) if field.name not in closed]
    for key in given:
        if key not in known:
            raise UsageError(f"{name} has no setting `{key}`", hint=nearest(str(key), known))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return replace(default, **plain)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"`{'.'.join(map(str, first['loc']))}` of {name}: {first['msg'].lower()}, found: {first['input']!r}",
            hint=f"see {page} for its settings",
        ) from None
