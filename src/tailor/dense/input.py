"""How large a dense model sees its images: in the shape of the data, to a multiple of the coarsest stride."""

STEP = 32
LARGEST = 512
"""Pixels of the shorter side where nothing else is asked for."""


def input_size(shape: tuple[int, int], asked: int | None = None) -> tuple[int, int]:
    """(H, W) of the input for images of a shape: the shorter side as asked, else as it is, at most `LARGEST`."""
    short = min(shape)
    wanted = asked or min(short, LARGEST)
    return (_step(shape[0] * wanted / short), _step(shape[1] * wanted / short))


def _step(pixels: float) -> int:
    return max(1, round(pixels / STEP)) * STEP
