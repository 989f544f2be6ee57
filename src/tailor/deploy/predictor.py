"""A bundle ready to use: its model, the way to its input, and names for what comes out. Loads once, predicts often."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tailor import bundle
from tailor.backbones.prompts import Instruction
from tailor.data.images import read_image
from tailor.data.transforms import eval_transform
from tailor.dense.views import ONCE, Views
from tailor.errors import BundleError, DataError
from tailor.events import Event, Tell, silent
from tailor.tasks import task_of, viewed
from tailor.training import processes_here

Picture = str | Path | Image.Image | np.ndarray
"""A file, an image, or an array (H, W, 3) of uint8."""
Prompt = str | Mapping[str, str] | Instruction
"""An instruction as text, or with its `input`."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one image, under the names that its task gives (`label`, `score`, `top`; `value`)."""

    path: str
    found: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        found = {} if name.startswith("__") else object.__getattribute__(self, "found")
        if name in found:
            return found[name]
        raise AttributeError(f"a prediction has no `{name}`")

    def values(self) -> dict[str, Any]:
        """What JSON holds."""
        return {"path": self.path, **self.found}


class Predictor:
    """`Predictor("runs/a")("photo.jpg")`: what the bundle's model finds in an image, or in each of several; a language
    model's answer to an instruction.

    BundleError where the folder is no bundle. `top` is how many of the likeliest classes are named, `download`
    whether what the backbone lacks on this machine may be fetched, `route` the one of a palette, `views` how a
    segmenter looks at an image.
    """

    def __init__(
        self,
        path: str | Path,
        weights: str | None = None,
        top: int = 5,
        download: bool = False,
        route: str | None = None,
        views: Views = ONCE,
    ) -> None:
        self.path = Path(path)
        loaded = bundle.read(self.path, route, download)
        self.spec, self.top = loaded.spec, top
        self.task = task_of(self.spec.head)
        self.device = processes_here().device
        model = bundle.restore(loaded, weights, download).to(self.device)
        self.model, preprocessing = viewed(self.task, model, self.spec.head, self.spec.preprocessing, views)
        self.views, self.transform = views, eval_transform(preprocessing)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart."""
        return self.spec.head.classes

    def __call__(self, given: Picture | Prompt | Sequence[Picture | Prompt]) -> Any:
        """A prediction, or a list of them for several images or instructions."""
        several = isinstance(given, list | tuple)
        chosen: Sequence[Any] = given if several else [given]  # type: ignore[assignment]
        names = [str(one) if isinstance(one, str | Path) else "" for one in chosen]
        found = self._predicted(names, [self._opened(one) for one in chosen])
        return found if several else found[0]

    def stream(
        self,
        files: Iterable[str] | Mapping[str, Any],
        batch_size: int = 32,
        strict: bool = False,
        tell: Tell = silent,
        pictures: Path | None = None,
    ) -> Iterator[Prediction]:
        """Predictions for files, or for what has these names, batch by batch; one that cannot be read is told and left
        out, or, `strict`, fatal.

        Where the task draws, its pictures go to the folder `pictures`, and each prediction names its own.
        """
        batch_size = self.views.share(batch_size)
        given = files if isinstance(files, Mapping) else dict.fromkeys(files)
        whole = list(given)
        for start in range(0, len(whole), batch_size):
            names, things = [], []
            for name in whole[start : start + batch_size]:
                try:
                    things.append(self._opened(name if given[name] is None else given[name]))
                    names.append(name)
                except DataError as error:
                    if strict:
                        raise
                    tell(Event("left out", text=error.message))
            if things:
                yield from self._predicted(names, things, pictures)
            tell(Event("predicting", min(start + batch_size, len(whole)), len(whole)))

    def _opened(self, one: Any) -> Any:
        """An image as a tensor; an instruction as an example."""
        return asked(one) if self.responds else self.transform(opened(one))

    @property
    def responds(self) -> bool:
        """Whether the task answers texts, rather than finding something in images."""
        return hasattr(self.task, "respond")

    @torch.inference_mode()
    def _predicted(self, names: Sequence[str], things: list[Any], pictures: Path | None = None) -> list[Prediction]:
        if self.responds:
            found = self.task.respond(self.model, things, self.spec.preprocessing)  # type: ignore[attr-defined]
            return [Prediction(name, one) for name, one in zip(names, found, strict=True)]
        output = computed(self.model, torch.stack(things).to(self.device), self.path)
        found = self.task.decode(output, self.spec.head, self.top)
        if pictures is not None:
            drawn = self.task.draw(output, self.spec.head, [read_image(name) for name in names])  # type: ignore[attr-defined]
            found = [{**one, **_saved(own, pictures, name)} for one, own, name in zip(found, drawn, names, strict=True)]
        return [Prediction(name, one) for name, one in zip(names, found, strict=True)]


def _saved(drawn: dict[str, Image.Image], folder: Path, name: str) -> dict[str, str]:
    """Save an image's pictures as PNG; no two images of one name share a file."""
    stem = Path(name).stem
    names = (stem if number == 0 else f"{stem}-{number}" for number in count())
    own = next(one for one in names if not any((folder / f"{one}.{kind}.png").exists() for kind in drawn))
    paths = {kind: folder / f"{own}.{kind}.png" for kind in drawn}
    for kind, picture in drawn.items():
        picture.save(paths[kind])
    return {kind: str(path) for kind, path in paths.items()}


def computed(model: torch.nn.Module, images: Tensor, path: Path) -> Any:
    """What the bundle's model makes of images (B, C, H, W); BundleError where its layers do not fit each other.

    Plans are checked one by one when a bundle is read; that what they leave can be computed shows here.
    """
    try:
        return model(images)
    except bundle.MISFIT as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        size = " x ".join(map(str, images.shape[-2:]))
        raise BundleError(
            f"the model of `{path}` cannot compute images of {size}: {reason}",
            hint="the bundle is damaged or was edited by hand; make or copy it again",
        ) from error


def opened(picture: Picture) -> Image.Image:
    """The picture as an RGB image; DataError where it is none."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, str | Path):
        return read_image(str(picture))
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise DataError(
            f"an image as an array is (H, W, 3) of uint8, found {array.shape} of {array.dtype}",
            hint="convert it, or give a file",
        )
    return Image.fromarray(array)


def asked(given: Prompt) -> Instruction:
    """The instruction; DataError where it is none."""
    if isinstance(given, Instruction):
        return given
    if isinstance(given, str) and given.strip():
        return Instruction(given)
    if isinstance(given, Mapping) and given.get("instruction") and all(isinstance(v, str) for v in given.values()):
        return Instruction(given["instruction"], given.get("input", ""))
    raise DataError(f"a {type(given).__name__} is no instruction", hint='write a text, or `{"instruction": "..."}`')


def load(
    path: str | Path, weights: str | None = None, download: bool = False, route: str | None = None
) -> torch.nn.Module:
    """The plain `nn.Module` of the bundle in folder `path`, in eval mode, with `.classes` and `.transform`.

    `transform` makes an input (3, H, W) of an RGB image; `weights` names a moved checkpoint file; without `download`
    what the backbone lacks on this machine is named and not fetched. Of a palette it is the `route` of that name.
    """
    loaded = bundle.read(Path(path), route, download)
    model = bundle.restore(loaded, weights, download)
    # Not as attributes of the module's own kind: they are no part of what it computes or stores.
    model.__dict__["classes"] = loaded.spec.head.classes
    model.__dict__["transform"] = eval_transform(loaded.spec.preprocessing)
    return model
