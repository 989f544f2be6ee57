"""Which route of a palette is asked for, as plain values: checked before anything is loaded."""

from dataclasses import dataclass

from tailor import budget as budgets
from tailor.errors import UsageError


@dataclass(frozen=True)
class Wanted:
    """What a route has to be: named, or within an amount. None of them: the dearest that is deployed."""

    route: str | None = None
    macs: str | None = None
    latency: str | None = None
    accuracy: float | None = None

    def check(self) -> None:
        """UsageError for two wishes, or a wrong unit."""
        named = [name for name in ("route", "macs", "latency", "accuracy") if getattr(self, name) is not None]
        if len(named) > 1:
            raise UsageError(f"`--{named[0]}` and `--{named[1]}` both choose", hint="leave one of them out")
        for flag in ("macs", "latency"):
            text = getattr(self, flag)
            if text is not None and (budgets.parse(text, f"--{flag}").unit == "ms") != (flag == "latency"):
                raise UsageError(
                    f"`--{flag} {text}` has the wrong unit", hint="write `--macs 50%`, `--macs 2G` or `--latency 5ms`"
                )
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise UsageError(f"`--accuracy {self.accuracy:g}` is no share", hint="write for instance `--accuracy 0.8`")
