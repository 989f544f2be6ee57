"""Images with boxes, in VOC's layout or COCO's: whichever the folder has."""

from pathlib import Path

from tailor.data.records import ImageData
from tailor.data.sources import coco, voc
from tailor.data.sources.folder import SPLIT_NAMES


def load(where: str, seed: int) -> ImageData:
    """The images below `where` and their boxes."""
    root = Path(where).expanduser()
    drawn = root.is_dir() and any(any(folder.glob("*.xml")) for folder in _folders(root))
    return voc.load(where, seed) if drawn else coco.load_boxes(where, seed)


def _folders(root: Path) -> list[Path]:
    inner = [p for p in root.iterdir() if p.is_dir()]
    splits = [p for p in inner if p.name.lower() in SPLIT_NAMES]
    below = [q for p in splits for q in p.iterdir() if q.is_dir()]
    return [p for p in (*inner, *below) if p.name.lower() == "annotations"]
