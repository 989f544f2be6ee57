"""The page of a run in the documentation, and a picture of it: `python scripts/picture.py runs/fast [OTHER...]`.

It needs Chromium (Debian's package `chromium`). The page is made without data, so no picture of anybody's is in it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import tailor

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDE, TALL = 1200, 1290
COLOURS = 256


def draw(bundles: list[str]) -> None:
    """Write `docs/images/report.html`, and the top of it as `report.png`."""
    page = IMAGES / "report.html"
    made = tailor.report(*bundles, out=page, overwrite=True)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("there is no Chromium here: `apt-get install chromium`")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        flags += [f"--user-data-dir={folder}", f"--window-size={WIDE},{TALL}", f"--screenshot={shot}"]
        subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("RGB").quantize(COLOURS).save(IMAGES / "report.png", optimize=True)
    print(*made.verdicts, f"{made.bytes:,} bytes in {page}", sep="\n")


if __name__ == "__main__":
    draw(sys.argv[1:])
