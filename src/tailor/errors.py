"""Errors a user can cause: one line that says what was found and expected, and a hint that can be pasted.

The command line prints both and exits 2. What cannot happen is an `assert`, never one of these.
"""

import difflib


class TailorError(Exception):
    """Something the user can put right: `message` (what was found, what was expected, where) and a `hint`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(TailorError):
    """A flag, a name or a number on the command line or in a recipe that means nothing."""


class ModelError(TailorError):
    """A backbone that cannot be made, loaded, described or traced."""


class PlanError(TailorError):
    """A plan that does not fit the model, the budget or the data."""


class DataError(TailorError):
    """Images or labels that are missing, unreadable or inconsistent."""


class BundleError(TailorError):
    """A bundle that is unfinished, damaged, hostile or made for another backbone."""


class TrainingError(TailorError):
    """A run that cannot start, go on or be resumed."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A hint: the known names most like `name` (`did you mean ...`), or all of them where none is close."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    if close:
        return "did you mean " + " or ".join(f"`{c}`" for c in close) + "?"
    more = f" and {len(known) - 40:,} more" if len(known) > 40 else ""
    return "known: " + ", ".join(sorted(known)[:40]) + more


def check_choice(flag: str, value: object, known: tuple[str, ...]) -> None:
    """UsageError where a flag has a value that is none of those known; None is a flag that was not given."""
    if value is not None and value not in known:
        raise UsageError(f"`--{flag} {value}` is no choice", hint=nearest(str(value), known))
