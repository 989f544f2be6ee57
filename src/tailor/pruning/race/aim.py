"""What a race runs for: the one amount that a candidate may have at most, and how it is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tailor import budget as budgets
from tailor.errors import UsageError

Quantity = Literal["speed", "latency", "macs", "params", "bytes"]
MEASURED: Mapping[str, int] = {"speed": 64, "latency": 1}
"""The quantities that a clock tells, and how many images pass at once."""
_TIMES = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*[xX]\s*$")


@dataclass(frozen=True)
class Aim:
    """At most `value` of a quantity: times faster (`speed`), a share of the dense model's, or an amount.

    Amounts are milliseconds a pass of one image (`latency`), multiply-accumulates, parameters, or bytes of the bundle.
    """

    quantity: Quantity
    value: float
    share: bool

    def limit(self, whole: float) -> float:
        """What may remain where the dense model has `whole`; of `speed`, milliseconds a batch."""
        if self.quantity == "speed":
            return whole / self.value
        return self.value * whole if self.share else self.value

    def said(self, value: float, whole: float) -> str:
        """An amount of the quantity for people; of `speed`, how many times as fast as `whole`."""
        if self.quantity == "speed":
            return f"{whole / value:.3g}x"
        return f"{value:.3g} ms" if self.quantity == "latency" else f"{value:,.0f} {self.quantity}"

    def milder(self, whole: float, part: float) -> "Aim":
        """An aim `part` of the way from the dense model, on the scale of ratios."""
        if self.quantity == "speed":
            return Aim("speed", self.value**part, True)
        return Aim(self.quantity, (self.limit(whole) / whole) ** part, True)


def aim_of(given: Mapping[str, str | None]) -> Aim:
    """The aim that flags state; UsageError for none, for two, or for an amount of another unit."""
    named = [(flag, text) for flag in get_args(Quantity) if (text := given.get(flag)) is not None]
    if not named:
        raise UsageError("nothing says how fast or how small it is to be", hint="add `--speed 4x`, or `--latency 3ms`")
    if len(named) > 1:
        raise UsageError(f"`--{named[0][0]}` and `--{named[1][0]}` are two targets", hint="leave one of them out")
    flag, text = named[0]
    if flag == "speed":
        match = _TIMES.match(text)
        if not match or not float(match[1]) > 1:
            raise UsageError(f"`--speed {text}` is no speed-up", hint="write for instance `--speed 4x`, above 1x")
        return Aim(flag, float(match[1]), True)
    amount = budgets.parse(text, f"--{flag}")
    if amount.unit != "share" and (amount.unit == "ms") != (flag == "latency"):
        raise UsageError(f"`--{flag} {text}` has the wrong unit", hint=f"write `--{flag} 50%`, or `--latency 3ms`")
    return Aim(flag, amount.value, amount.unit == "share")
