"""`tailor pick PALETTE`: one route of a palette becomes an ordinary bundle."""

from pathlib import Path

from tailor.events import Tell
from tailor.workflow.destination import Destination
from tailor.workflow.records import Picked
from tailor.workflow.telling import SHOWN, told
from tailor.workflow.wanted import Wanted


def pick(
    path: str | Path,
    *,
    macs: str | None = None,
    latency: str | None = None,
    accuracy: float | None = None,
    route: str | None = None,
    out: str | Path = "runs/picked",
    base: str | Path | None = None,
    overwrite: bool = False,
    progress: Tell | None = SHOWN,
) -> Picked:
    """Write one route of the palette in folder `path` as a bundle of its own, merged: it needs nothing else.

    Args:
        path: the palette.
        macs: what may remain, `50%` of the dearest route or `2G`: the best deployed route within it.
        latency: the same in milliseconds, `5ms`, batch 1, measured now on this machine.
        accuracy: the cheapest route that reaches it, where `--evaluate-routes` measured them.
        route: a route by its name, `0.6-1.7`.
        out: the folder to write.
        base: where the palette's base lies, if it was moved.
        overwrite: replace what an earlier run left in `out`.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    wanted = Wanted(route, macs, latency, accuracy)
    wanted.check()
    place = Destination(out, overwrite, inputs=(path, base), resumes=False)
    place.check()
    with told(progress) as tell:
        from tailor.workflow.output import output
        from tailor.workflow.pick import pick as carry_out

        with output(place) as found:
            made = carry_out(Path(path), wanted, None if base is None else Path(base), found.folder, tell)
            return found.settled(made)  # type: ignore[no-any-return]
