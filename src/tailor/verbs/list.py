"""`tailor list KIND`: the names that the other verbs know."""

from fnmatch import fnmatchcase
from typing import Literal

from tailor.errors import UsageError, nearest

KINDS = ("models", "methods", "tasks", "decoders", "recipes")


def list(kind: Literal["models", "methods", "tasks", "decoders", "recipes"], *, pattern: str = "*") -> tuple[str, ...]:
    """Names of a kind that match the pattern.

    Args:
        kind: `models`, `methods` (of adapt, then of prune), `tasks`, `decoders`, `recipes` (bundled configurations).
        pattern: for instance `vit_*`.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no list of `{kind}`", hint=nearest(str(kind), KINDS))
    return tuple(name for name in _names(kind) if fnmatchcase(name, pattern))


def _names(kind: str) -> tuple[str, ...]:
    if kind == "models":
        from tailor.backbones import names

        return names()
    if kind == "methods":
        from tailor.workflow.planners import PLANNERS

        return tuple(f"{verb} --method {name}" for verb, table in PLANNERS.items() for name in table)
    if kind == "tasks":
        from tailor.tasks import TASKS

        return tuple(TASKS)
    if kind == "decoders":
        from tailor.dense import DECODERS

        return tuple(DECODERS)
    from tailor import recipes

    return tuple(recipes.names())
