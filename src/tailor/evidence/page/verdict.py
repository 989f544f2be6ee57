"""The verdict on a run in one sentence, and the rule it was made by."""

from dataclasses import dataclass

from tailor.evidence.page.run import PageRun

GAIN = 1.05
"""How many times faster a model has to be to count as faster at all."""


@dataclass(frozen=True)
class Advice:
    """`word` is `keep`, `weigh`, `leave` or `measured`; `why` says by which rule."""

    word: str
    sentence: str
    why: str


def verdict(run: PageRun) -> Advice:
    """Faster and not worse by more than one standard error: keep. Faster and worse: weigh. Not faster: leave."""
    parts = [_routes(run), _speed(run), _score(run), megabytes(run.bytes)]
    word, why = _judged(run)
    sentence = ", ".join(part for part in parts if part)
    return Advice(word, sentence[:1].upper() + sentence[1:], why)


def against(run: PageRun, other: PageRun) -> str:
    """The first run beside another one, in a sentence; empty where they share no figure."""
    parts = []
    ours, theirs = run.evidence, other.evidence
    if ours.costs and theirs.costs:
        times = theirs.costs.after.macs / max(ours.costs.after.macs, 1)
        parts.append(f"{times:.2g}x fewer MACs" if times >= 1 else f"{1 / times:.2g}x more MACs")
    same = ours.score and theirs.score and ours.score.metric == theirs.score.metric
    if same and ours.score and theirs.score and ours.score.after is not None and theirs.score.after is not None:
        parts.append(run.said(ours.score.after - theirs.score.after, signed=True).replace(" %", " points"))
    if run.bytes and other.bytes:
        times = other.bytes / run.bytes
        parts.append(f"{times:.2g}x smaller on disk" if times >= 1 else f"{1 / times:.2g}x larger on disk")
    return ", ".join(parts)


def megabytes(size: int) -> str:
    """Bytes for people."""
    if not size:
        return ""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"


def _routes(run: PageRun) -> str:
    """How many models a palette offers, of which the score is the best one's."""
    count = sum(one.made_by is not None and one.made_by.verb == "pick" for one in run.evidence.candidates)
    return f"{count} models in one file" if count else ""


def _speed(run: PageRun) -> str:
    costs = run.evidence.costs
    if costs is None or costs.ratio is None or costs.ratio <= 0:
        return ""
    if 1 / GAIN < costs.ratio < GAIN:
        return "as fast as before"
    return f"{costs.ratio:.1f}x faster" if costs.ratio > 1 else f"{1 / costs.ratio:.1f}x slower"


def _score(run: PageRun) -> str:
    score, change = run.evidence.score, run.change
    if score is None or score.after is None:
        return ""
    if change is None:
        chance = f" \u00b1 {100 * run.error:.1f}" if run.error is not None and run.percent else ""
        shown = run.said(score.after)
        return f"{shown.removesuffix(' %')}{chance}{' %' if run.percent else ''} {score.metric} on {score.split}"
    if not run.percent:
        return f"{score.metric} {run.said(score.after)}, {run.said(score.before)} before"
    chance = f" \u00b1 {100 * run.change_error:.1f}" if run.change_error is not None else ""
    return f"{100 * change:+.1f}{chance} points".replace("-", "\u2212")


def _judged(run: PageRun) -> tuple[str, str]:
    costs, change, score = run.evidence.costs, run.change, run.evidence.score
    if change is None or score is None or costs is None or costs.before is None:
        return "measured", "There is no larger model that it was made from to hold it against."
    gain = costs.ratio >= GAIN if costs.ratio is not None else costs.after.macs < costs.before.macs
    lost = -change if score.larger else change
    chance = run.change_error
    bound = "one standard error" if chance is not None else "nothing (chance is not known for this metric)"
    if not gain:
        return "leave", f"It is not {GAIN:g}x as fast as what it was made from."
    if lost > (chance or 0.0):
        return "weigh", f"It is faster, and worse by more than {bound}."
    return "keep", f"It is faster, and not worse by more than {bound}."
