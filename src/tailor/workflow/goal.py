"""How much a width method is asked to take: shares that go, or one amount that may remain."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from tailor import budget as budgets
from tailor.errors import UsageError
from tailor.pruning.settings import Shares, WidthKind


@dataclass(frozen=True)
class Goal:
    """What was asked for: shares that go (`50%`), of all parts alike or by part, or an amount that may remain."""

    ratio: str | None = None
    emb: str | None = None
    heads: str | None = None
    dim: str | None = None
    mlp: str | None = None
    macs: str | None = None
    params: str | None = None
    latency: str | None = None

    def given(self) -> dict[str, float]:
        """The shares that were given, by the name of the part."""
        flags = {"embedding": "emb", "heads": "heads", "head_dim": "dim", "hidden": "mlp"}
        found = {}
        for part, flag in flags.items():
            text = getattr(self, flag)
            if text is not None:
                found[part] = _share(flag, text)
        return found

    def shares(self, parts: Iterable[str]) -> dict[str, float]:
        """The share of every part that loses a given one: the `ratio` of all `parts`, but those with their own."""
        ratio = {} if self.ratio is None else dict.fromkeys(parts, _share("ratio", self.ratio))
        return ratio | self.given()

    def target(self) -> tuple[str, budgets.Amount] | None:
        """The one amount that may remain, None where none is named; UsageError for two, or for a wrong unit."""
        shares = self.shares(get_args(WidthKind))
        Shares(**shares)  # refuses what is out of range
        named = [(flag, text) for flag in ("macs", "params", "latency") if (text := getattr(self, flag)) is not None]
        if len(named) > 1:
            raise UsageError(f"`--{named[0][0]}` and `--{named[1][0]}` are two targets", hint="leave one of them out")
        if not named:
            if not any(shares.values()):
                raise UsageError("nothing says how much is to go", hint="add `--macs 50%`, or `--ratio 50%`")
            return None
        if self.ratio is not None:
            raise UsageError(f"`--ratio` and `--{named[0][0]}` both say how much goes", hint="leave one of them out")
        flag, text = named[0]
        amount = budgets.parse(text, f"--{flag}")
        if (amount.unit == "ms") != (flag == "latency") and amount.unit != "share":
            raise UsageError(
                f"`--{flag} {text}` has the wrong unit", hint="write `--macs 2G`, `--latency 5ms` or `50%`"
            )
        return flag, amount


def _share(flag: str, text: str) -> float:
    """The number of a share, as a flag gives it: `0%` leaves a part alone."""
    amount = budgets.parse(text, f"--{flag}", zero=True)
    if amount.unit != "share":
        raise UsageError(f"`--{flag} {text}` is not a share", hint=f"write `--{flag} 50%`")
    return amount.value
