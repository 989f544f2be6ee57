"""What a verb tells its caller while it works. The library never prints: the command line draws these."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`stage` has done `done` of `total` (0 where unknown); `text` is what a person may read beside the bar."""

    stage: str
    done: int = 0
    total: int = 0
    text: str = ""


Tell = Callable[[Event], None]
Progress = Callable[[int, int], None]
"""What a loop calls with how much is done, and of how much."""


def silent(event: Event) -> None:
    """Tell nobody."""
