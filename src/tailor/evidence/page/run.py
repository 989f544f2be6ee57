"""What a page shows of a run: its evidence, and what the bundle beside it says. Plain values; nothing is opened."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tailor.bundle.evidence import HERE, Asked, CandidateRecord, Evidence


@dataclass(frozen=True)
class Mistake:
    """A record that the model got most wrong: its name, what it is and what it was called, and a JPEG as base64."""

    source: str
    loss: float
    called: str = ""
    sure: float | None = None
    truth: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Parity:
    """An exported file held against the model: the largest difference, or why there is no such file."""

    kind: str
    difference: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class PageRun:
    """One bundle. `made_by` is its provenance, `plans` a line each, `bytes` those of the files that make it."""

    name: str
    evidence: Evidence
    backbone: str = ""
    task: str = ""
    classes: tuple[str, ...] = ()
    bytes: int = 0
    made_by: Mapping[str, str] = field(default_factory=dict)
    plans: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    parity: tuple[Parity, ...] = ()

    @property
    def percent(self) -> bool:
        """Whether the leading metric is a share, to be shown in percent."""
        score = self.evidence.score
        known = [v for v in (score.after, score.before, score.cut) if v is not None] if score else []
        return bool(known) and bool(score and score.larger) and all(0 <= value <= 1 for value in known)

    def said(self, value: float | None, signed: bool = False) -> str:
        """A value of the leading metric, for people."""
        if value is None:
            return ""
        if self.percent:
            return f"{100 * value:{'+' if signed else ''}.1f} %".replace("-", "\u2212")
        return f"{value:{'+' if signed else ''}.4g}".replace("-", "\u2212")

    @property
    def error(self) -> float | None:
        """One standard error of the score, of as many records, where it is a share of them."""
        score = self.evidence.score
        return _error(score.after, n=score.n) if score and score.counted else None

    @property
    def change(self) -> float | None:
        """The score less the one before the run."""
        score = self.evidence.score
        return None if score is None or score.after is None or score.before is None else score.after - score.before

    @property
    def change_error(self) -> float | None:
        """One standard error of the change, at most: as if both had been scored on different records."""
        score = self.evidence.score
        return _error(score.after, score.before, n=score.n) if score and score.counted else None

    @property
    def command(self) -> str:
        """The command that makes the bundle, ready to be pasted."""
        return command(self.evidence.asked, self.name) if self.evidence.asked else ""

    @property
    def settings(self) -> Sequence[str]:
        """The lines of the file that the command names, if it needs one."""
        asked = self.evidence.asked
        return yaml.safe_dump(asked.sections, sort_keys=False).splitlines() if asked and asked.sections else ()


def _error(*shares: float | None, n: int) -> float | None:
    known = [share for share in shares if share is not None and 0 <= share <= 1]
    return math.sqrt(sum(p * (1 - p) for p in known) / n) if n > 0 and len(known) == len(shares) else None


def command(asked: Asked, folder: str) -> str:
    """The command line, every word quoted as a shell wants it: a stranger's file adds no command of its own."""
    words = [folder if word == HERE else word for word in asked.words]
    line = ["tailor", asked.verb, *words]
    for name, value in asked.flags.items():
        flag = "-o" if name == "out" else f"--{name.replace('_', '-')}"
        line += [flag] if value is True else [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    if asked.sections:
        line += ["--config", "settings.yaml"]
    if "out" not in asked.flags:
        line += ["-o", f"{Path(folder).name or 'out'}-again"]
    return shlex.join(line)


def made_by(one: CandidateRecord, folder: str) -> str:
    """The command that makes a candidate, where it is known."""
    return command(one.made_by, folder) if one.made_by else ""
