"""Budgets as people write them: `0.4%`, `0.4M`, `4.2G`, `5ms`. Pure data; what is counted is the verb's business."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from tailor.errors import UsageError

_AMOUNT = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|ms|[kKmMgG])?\s*$")
_SCALE = {"k": 1e3, "m": 1e6, "g": 1e9}
_EXAMPLE = {
    "--budget": "`0.4%` or `0.4M`",
    "--macs": "`50%` or `2G`",
    "--params": "`50%` or `20M`",
    "--latency": "`5ms`",
}


@dataclass(frozen=True)
class Amount:
    """A share of a whole (`value` in 0..1), a count (parameters, MACs), or milliseconds."""

    value: float
    unit: Literal["share", "count", "ms"]

    def of(self, whole: int) -> int:
        """The count this amount means when the whole is `whole` (rounded down); not defined for milliseconds."""
        assert self.unit != "ms"
        return int(self.value * whole) if self.unit == "share" else int(self.value)


def check_parameters(budget: str | None) -> None:
    """UsageError where `--budget` is no count or share."""
    if budget is not None and parse(budget).unit == "ms":
        raise UsageError(f"`--budget {budget}` is a time; a budget counts parameters", hint="write `0.4%` or `0.4M`")


def parse(text: str, flag: str = "--budget", *, zero: bool = False) -> Amount:
    """Read `0.4%`, `120M`, `4.2G`, `5ms` or a plain count; K M G are 10^3, 10^6, 10^9. UsageError on anything else.

    Nothing at all is an amount only with `zero`.
    """
    match, hint = _AMOUNT.match(text), f"write for instance {_EXAMPLE.get(flag, '`50%`')}"
    if not match:
        raise UsageError(f"`{flag} {text}` is not an amount", hint=hint)
    number, unit = float(match[1]), match[2] or ""
    if not math.isfinite(number):
        raise UsageError(f"`{flag} {text}` is no number that can be counted", hint=hint)
    if number == 0 and not zero:
        raise UsageError(f"`{flag} {text}` must be above zero", hint=hint)
    if not unit and 0 < number < 1:
        raise UsageError(f"`{flag} {text}` is less than one; a share takes a percent sign", hint=hint)
    if unit == "%":
        if number > 100:
            raise UsageError(f"`{flag} {text}` is above 100 %", hint="a percentage is of the whole, at most `100%`")
        return Amount(number / 100, "share")
    if not unit and number <= 100 and flag in ("--macs", "--params"):
        raise UsageError(f"`{flag} {text}` leaves next to nothing", hint=f"did you mean `{flag} {text.strip()}%`?")
    if unit == "ms":
        return Amount(number, "ms")
    return Amount(number * _SCALE.get(unit.lower(), 1.0), "count")
