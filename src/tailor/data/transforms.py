"""From an RGB image to a normalised tensor: what a bundle stores (`Preprocessing`), what training adds (`AUGMENTS`).

Of texts (`Tokens`) see `encoded`.

A transform has two steps. `frame` is the same for every epoch (resize to a fixed size, uint8), so `loading` may keep
its result; `rest` draws (crop, flip, ...) and normalises. Masks and boxes move with their image. Draws come from
torch's default generator, which `loading` seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tailor.data.encoded import Encoded
from tailor.data.targets import inside, is_placed, moved
from tailor.errors import DataError, nearest
from tailor.preprocessing import Input, Interpolation, Preprocessing

FGVC_MARGIN = 256 / 224  # VPT's FGVC protocol resizes to 256 and crops 224


def preprocessing_of(config: Mapping[str, Any], crop: Literal["squash", "center"] = "squash") -> Preprocessing:
    """The preprocessing in a timm data config (`timm.data.resolve_model_data_config`); `squash` takes no crop_pct."""
    name = str(config.get("interpolation", "bicubic"))
    return Preprocessing(
        size=tuple(config["input_size"][-2:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bicubic" if name in ("", "random") else name,  # type: ignore[arg-type]  # pydantic checks
        crop=crop,
        crop_pct=float(config.get("crop_pct") or 1.0) if crop == "center" else 1.0,
    )


@plain_dataclass(frozen=True)
class Frame:
    """The deterministic step: resize both sides (a pair) or the shorter one (a number), then crop centrally."""

    resize: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    interpolation: Interpolation

    def __call__(self, image: Image.Image) -> Tensor:
        """`image` as a uint8 tensor (3, h, w)."""
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = F.resize(image, size, interpolation=v2.InterpolationMode(self.interpolation))
        if self.crop is not None:
            image = F.center_crop(image, list(self.crop))
        return F.pil_to_tensor(image)

    def target(self, target: Any) -> Any:
        """A target, its masks and boxes moved as the image is."""
        return moved(target, self._moved)

    def _moved(self, part: Any) -> Any:
        if self.resize is not None:
            part = F.resize(part, [self.resize] if isinstance(self.resize, int) else list(self.resize))
        return part if self.crop is None else F.center_crop(part, list(self.crop))

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) of the result, None where it depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)


@plain_dataclass(frozen=True)
class Transform:
    """RGB image -> float tensor (3, H, W): `frame`, which is fixed, then `rest`, which may draw.

    Without `moves` a target stays as it is in its file, to be compared with at full size.
    """

    frame: Frame
    rest: Callable[..., Any]
    moves: bool = True

    def __call__(self, image: Image.Image) -> Tensor:
        """`image` as a normalised float tensor (3, H, W)."""
        return self.rest(self.frame(image))

    def pair(self, image: Image.Image, target: Any) -> tuple[Tensor, Any]:
        """The tensor (3, H, W) of an image, and its target moved along."""
        return self.finish(self.frame(image), target)

    def finish(self, framed: Tensor, target: Any) -> tuple[Tensor, Any]:
        """`pair` of an image after its frame; DataError where a step of `rest` cannot move masks or boxes."""
        if not (self.moves and is_placed(target)):
            return self.rest(framed), target
        try:
            image, placed = self.rest(tv_tensors.Image(framed), self.frame.target(target))
        except TypeError as error:
            raise DataError(
                f"the augmentation moves images only: {error}", hint="use `augment: crop`, `flip` or `none`"
            ) from None
        return image.as_subclass(Tensor), inside(placed)


def eval_transform(pre: Input) -> Callable[[Any], Tensor]:
    """The transform of validation, test and deployment: no draw. Of texts it gives tokens and labels (2, N)."""
    return _still(pre) if isinstance(pre, Preprocessing) else Encoded(pre)


def scoring_transform(pre: Input) -> Callable[[Any], Tensor]:
    """The same where targets stay as they are stored: masks and boxes are compared with at full size."""
    return replace(_still(pre), moves=False) if isinstance(pre, Preprocessing) else Encoded(pre)


def train_transform(pre: Input, augment: str = "none") -> Callable[[Any], Tensor]:
    """The transform of training, by a name in `AUGMENTS`; texts have but one."""
    if augment not in AUGMENTS:
        raise DataError(f"there is no augmentation `{augment}`", hint=nearest(augment, tuple(AUGMENTS)))
    if isinstance(pre, Preprocessing):
        return AUGMENTS[augment](pre)
    if augment != "none":
        raise DataError(f"texts have no augmentation `{augment}`", hint="leave `augment` out of the recipe")
    return Encoded(pre)


def _still(pre: Preprocessing) -> Transform:
    return Transform(_eval_frame(pre), v2.Compose(_normalise(pre)))


def _eval_frame(pre: Preprocessing) -> Frame:
    height, width = pre.size
    if pre.crop == "squash":
        resized = (round(height / pre.crop_pct), round(width / pre.crop_pct))
        return Frame(resized, None if resized == pre.size else pre.size, pre.interpolation)
    # timm's rule for square inputs, floor included; for others the larger side, so that the crop never leaves the image
    return Frame(int(max(pre.size) / pre.crop_pct), pre.size, pre.interpolation)


def _normalise(pre: Preprocessing) -> list[Callable[[Tensor], Tensor]]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(pre.mean), list(pre.std))]


def _flip(pre: Preprocessing) -> Transform:
    return Transform(_eval_frame(pre), v2.Compose([v2.RandomHorizontalFlip(), *_normalise(pre)]))


def _fgvc(pre: Preprocessing) -> Transform:
    larger = (round(pre.size[0] * FGVC_MARGIN), round(pre.size[1] * FGVC_MARGIN))
    steps = [v2.RandomCrop(pre.size), v2.RandomHorizontalFlip(), *_normalise(pre)]
    return Transform(Frame(larger, None, pre.interpolation), v2.Compose(steps))


def _crop(pre: Preprocessing) -> Transform:
    steps = [*_random_crop(pre, smallest=0.35), *_normalise(pre)]
    return Transform(Frame(None, None, pre.interpolation), v2.Compose(steps))


def _imagenet(pre: Preprocessing) -> Transform:
    """What networks are usually trained with on ImageNet: a crop of 8 to 100 % of the image, and a flip."""
    steps = [*_random_crop(pre, smallest=0.08), *_normalise(pre)]
    return Transform(Frame(None, None, pre.interpolation), v2.Compose(steps))


def _strong(pre: Preprocessing) -> Transform:
    """timm's recipe for transformers: random resized crop, flip, RandAugment m9, random erasing 0.25."""
    draws = [*_random_crop(pre, smallest=0.08), v2.RandAugment(num_ops=2, magnitude=9)]
    return Transform(
        Frame(None, None, pre.interpolation), v2.Compose([*draws, *_normalise(pre), v2.RandomErasing(0.25)])
    )


def _random_crop(pre: Preprocessing, smallest: float) -> list[Callable[[Tensor], Tensor]]:
    # On tensors torchvision resizes by these two only; lanczos and nearest images train on bicubic crops.
    mode = v2.InterpolationMode("bilinear" if pre.interpolation == "bilinear" else "bicubic")
    return [
        v2.RandomResizedCrop(list(pre.size), scale=(smallest, 1.0), interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(),
    ]


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "none": (lambda images: images,),
    "flip": (lambda images: images, lambda images: images.flip(-1)),
}
"""By augmentation, all the looks that it gives to images (..., H, W) without masks or boxes, where these are few."""

AUGMENTS: dict[str, Callable[[Preprocessing], Transform]] = {
    "none": _still,
    "flip": _flip,
    "fgvc": _fgvc,
    "crop": _crop,
    "imagenet": _imagenet,
    "strong": _strong,
}
