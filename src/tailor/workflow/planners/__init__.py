"""Planners: one row each in the table of the verb that asks. Settings in, a decision out.

A planner is a frozen dataclass: fields marked as flags are its flags and its top-level keys in a file, the one field
that is a dataclass itself is its section there. `plan(context)` decides. Nothing here loads torch before that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import ValidationError

from tailor.errors import UsageError, nearest
from tailor.pruning.settings import Widths
from tailor.settings import configured, flags, section
from tailor.tuning.methods import MODULES, SELECTIONS, VARIANTS
from tailor.tuning.spt.settings import SPT
from tailor.workflow.planners.auto import Auto
from tailor.workflow.planners.blocks import KeepBlocks
from tailor.workflow.planners.convolve import DrawOperations, GateHeads, KeepBest, SearchOperations, WriteOperations
from tailor.workflow.planners.layers import DropLayers
from tailor.workflow.planners.noah import SearchModules
from tailor.workflow.planners.plain import Plain
from tailor.workflow.planners.spt import PlaceBudget
from tailor.workflow.planners.widths import CutWidths

if TYPE_CHECKING:
    from tailor.build import Opened
    from tailor.tuning.plan import TunePlan
    from tailor.workflow.context import Context, Decision


class Planner(Protocol):
    """What a row has to offer.

    `needs` says what must be there before anything is opened: `images`, `classes` (a class a sample), `modules` (the
    tunes are folded in by the planner itself or stay). `page` documents its settings.
    """

    page: ClassVar[str]

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without."""
        ...

    def numbered(self, name: str, number: int) -> "Planner":
        """The planner of `name-number`; UsageError where it has no size."""
        ...

    def plan(self, context: "Context") -> "Decision":
        """Decide."""
        ...


class Tuner(Planner, Protocol):
    """A planner of `adapt`: it also explains its plan in lines of text for a terminal."""

    def explain(self, plan: "TunePlan", opened: "Opened") -> tuple[str, ...]:
        """What a person may read of the plan."""
        ...


PLANNERS: dict[str, dict[str, Any]] = {
    "adapt": {
        **{name: Plain(name) for name in (*SELECTIONS, *MODULES, *VARIANTS)},
        **{name: PlaceBudget(name, spt=settings) for name, settings in SPT.items()},
        "noah": SearchModules(),
    },
    "prune": {
        "sls": DropLayers(),
        "blocks": KeepBlocks(),
        "isomorphic": CutWidths("isomorphic"),
        "depgraph": CutWidths("depgraph", widths=Widths("depgraph")),
        "uniform": CutWidths("uniform", widths=Widths("uniform")),
        "random": CutWidths("random", widths=Widths(drawn=True)),
        "spvit": SearchOperations(),
        "swap": WriteOperations(),
        "nas-heads": GateHeads(),
        "step": KeepBest(),
        "random-blocks": DrawOperations(),
        "auto": Auto(),
    },
}
"""By verb and method name, with their default settings."""

DEFAULT = {"adapt": "spt-lora", "prune": "sls"}
"""What a verb takes where no method is named: for `adapt` what the table of controls supports, on validation."""

THEN = {"adapt": PLANNERS["prune"]["auto"]}
"""What a verb goes on with where a setting of that planner says so: its flags and its section are the verb's too."""


def known(verb: str) -> dict[str, str]:
    """Every setting that some planner of the verb takes, flag or section, and a planner that takes it."""
    found: dict[str, str] = {}
    for name, planner in PLANNERS[verb].items():
        for setting in (*flags(type(planner)), section(planner)):
            if setting:
                found.setdefault(setting, name)
    return found


def asked(planner: Any) -> dict[str, Any]:
    """What a planner was asked for, as plain values: its flags, and of its section what is not the default."""
    found = {
        "method": getattr(planner, "method", ""),
        **{name: getattr(planner, name) for name in flags(type(planner))},
    }
    inner = section(planner)
    if inner:
        given, default = getattr(planner, inner), type(getattr(planner, inner))()
        found[inner] = {f.name: v for f in fields(given) if (v := getattr(given, f.name)) != getattr(default, f.name)}
    return found


def given(verb: str, method: str, planner: Any) -> dict[str, Any]:
    """What a planner was asked for that is not its row's own."""
    usual = asked(named(verb, method, {}))
    return {name: value for name, value in asked(planner).items() if value != usual[name]}


def then(verb: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The planner that the verb goes on with, None where nothing asks for it, and the settings that are not its own.

    UsageError where they say how it is to go on, but not to what.
    """
    planner = THEN[verb]
    own = (*flags(type(planner)), section(planner))
    inner = {key: value for key, value in given.items() if key in own and value not in (None, {})}
    rest = {key: value for key, value in given.items() if key not in own}
    if all(value == getattr(planner, key) for key, value in inner.items()):
        return None, rest
    found = _configured(verb, planner.method, planner, inner)
    found.needs  # noqa: B018  # refuses settings without a target
    return found, rest


def takes(verb: str, name: str) -> tuple[str, ...]:
    """The settings that the planner `name` (or `name-16`) takes, flags and section."""
    planner = named(verb, name, {})
    inner = section(planner)
    return (*flags(type(planner)), *([inner] if inner else []))


def named(verb: str, name: str, given: Mapping[str, Any]) -> Any:
    """The planner `name` (or `name-16`) with the settings `given`; None leaves a setting at its default.

    UsageError for an unknown name or setting, with the nearest, or for a wrong value.
    """
    table = PLANNERS[verb]
    stem, _, number = name.rpartition("-")
    if name in table:
        planner = table[name]
    elif stem in table and number.isdigit():
        planner = table[stem].numbered(name, int(number))
    else:
        raise UsageError(f"unknown method `{name}`", hint=nearest(stem if number.isdigit() else name, [*table]))
    return _configured(verb, name, planner, given)


def _configured(verb: str, name: str, planner: Any, given: Mapping[str, Any]) -> Any:
    """The planner with the settings `given`; UsageError for one that it has not, or a wrong value."""
    inner = section(planner)
    own = [*flags(type(planner)), *([inner] if inner else [])]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key not in own:
            raise _foreign(verb, name, key, value, own)
        if key == inner:
            fixed = getattr(planner, "closed", ("kind",))
            value = configured(getattr(planner, inner), value, f"`{inner}:`", planner.page, closed=fixed)
        values[key] = value
    try:
        return replace(planner, **values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"`{where}` of `{name}`: {first['msg'].lower()}, found: {first['input']!r}", hint=f"see {planner.page}"
        ) from None


def several(verb: str, names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The planner of each name; a setting goes to those that take it, and some must."""
    if not names:
        raise UsageError("no method was named", hint=f"add for instance `--method {DEFAULT[verb]}`")
    if len(set(names)) < len(names):
        raise UsageError("a method is named twice", hint="name each method once")
    taken = {name: takes(verb, name) for name in names}
    alone = len(names) == 1
    found = {
        name: named(verb, name, {k: v for k, v in settings.items() if alone or k in taken[name]}) for name in names
    }
    for key, value in settings.items():
        if value is not None and not any(key in own for own in taken.values()):
            named(verb, names[0], {key: value})  # says what is wrong with it
    return found


def _foreign(verb: str, name: str, key: str, value: Any, own: list[str]) -> UsageError:
    """The error for a setting that the planner has not."""
    shown = f"`--{key.replace('_', '-')} {value}`" if not isinstance(value, Mapping) else f"`{key}:`"
    takers = [other for other, one in PLANNERS[verb].items() if key in (*flags(type(one)), section(one))]
    if takers:
        return UsageError(
            f"{shown} is not for `{name}`",
            hint=f"leave it out, or use `--method {takers[0]}`",
        )
    return UsageError(f"`{name}` has no setting `{key}`", hint=nearest(key, own or [*known(verb)]))
