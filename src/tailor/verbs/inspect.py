"""`tailor inspect`: what is in a bundle (nothing is built), what a backbone consists of, what data hold."""

from pathlib import Path
from typing import Any

from tailor.events import Tell
from tailor.workflow.telling import SHOWN, told


def inspect(
    name: str | Path,
    *,
    groups: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    progress: Tell | None = SHOWN,
) -> dict[str, Any]:
    """Facts about a bundle, a plan, a backbone by name, or a data set, as plain values with a `kind`.

    Args:
        name: what to look at.
        groups: instead, what `prune` can make narrower: the groups of axes of a bundle's or a backbone's model, their
            members and ties, and every axis that stays, with the reason.
        image_size: pixels a side, other than the backbone's own.
        seed: of what is drawn.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    with told(progress) as tell:
        from tailor.workflow.inspect import facts

        return facts(str(name), groups, image_size, seed, tell)
