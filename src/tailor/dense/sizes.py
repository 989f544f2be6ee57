"""What sizes a decoder may have: checked where settings are made."""

from tailor.errors import PlanError

MOST = 4096
"""No width, number of queries or blocks of any decoder comes near it."""


def check_sizes(width: int, heads: int, queries: int, blocks: int, threshold: float) -> None:
    """PlanError where a mask decoder of these sizes cannot be."""
    if not all(1 <= n <= MOST for n in (width, heads, queries, blocks)):
        raise PlanError(
            f"a decoder of width {width} with {heads} heads, {queries} queries and {blocks} blocks cannot be",
            hint=f"each is between 1 and {MOST}",
        )
    if width % (4 * heads):
        raise PlanError(
            f"a width of {width} does not divide among {heads} heads in fours", hint="write for instance `--width 256`"
        )
    if not 0 < threshold < 1:
        raise PlanError(f"a mask begins at a probability between 0 and 1, not at {threshold}", hint="write 0.5")


def check_width(width: int, multiple: int = 1) -> None:
    """PlanError where no decoder has such a width."""
    if not 1 <= width <= MOST or width % multiple:
        step = f", a multiple of {multiple}" if multiple > 1 else ""
        raise PlanError(f"a decoder of width {width} cannot be", hint=f"write a width between 1 and {MOST}{step}")
