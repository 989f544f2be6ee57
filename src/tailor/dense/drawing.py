"""Pictures of label maps and objects: colours, a legend, the image below."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

OPACITY = 0.55
_LINE = 14


def colours(count: int) -> np.ndarray:
    """(count, 3) uint8: hues a golden angle apart, in two strengths, so that neighbours in the list differ."""
    found = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, (0.65, 0.95)[index % 2], (0.95, 0.75)[index % 2])
        found.append([round(255 * part) for part in (red, green, blue)])
    return np.array(found, dtype=np.uint8).reshape(-1, 3)


def stored(labels: np.ndarray) -> Image.Image:
    """A label map (H, W) as an image of its values."""
    return Image.fromarray(labels.astype(np.uint8))


def overlay(image: Image.Image, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """The image under the colours of its label map, with the names of the classes that occur at its left edge."""
    paint = colours(len(classes))
    picture = Image.blend(image.convert("RGB"), Image.fromarray(paint[labels]), OPACITY)
    shown = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(classes)))
    legend(picture, [(classes[i], paint[i]) for i in shown.tolist()])
    return picture


def heated(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """The image in grey under weights (h, w), resized to it: the redder the larger, white where the largest is."""
    share = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32))
    heat = np.asarray(share.resize(image.size, Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    hot = np.concatenate([np.full_like(heat, 255), 255 * np.clip(4 * heat - 3, 0, 1).repeat(2, -1)], -1)
    strength = 0.85 * np.clip(heat, 0, 1)
    return Image.fromarray(((1 - strength) * grey + strength * hot).round().astype(np.uint8))


def legend(picture: Image.Image, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write the names beside their colours, as many as fit."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for number, (name, colour) in enumerate(rows[: max(0, (picture.height - 4) // _LINE)]):
        top = 2 + number * _LINE
        width = pen.textlength(name, font=font)
        pen.rectangle((2, top, 18 + width, top + _LINE - 1), fill=(20, 20, 20))
        pen.rectangle((4, top + 3, 12, top + 11), fill=tuple(int(c) for c in colour))
        pen.text((16, top), name, fill=(255, 255, 255), font=font)


def framed(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
    classes: Sequence[str],
) -> Image.Image:
    """The image with its boxes (x0, y0, x1, y1), each with its class and score."""
    picture, paint = image.convert("RGB").copy(), colours(len(classes))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for box, label, score in reversed(list(zip(boxes, labels, scores, strict=True))):  # the best on top
        colour = tuple(int(c) for c in paint[int(label)])
        pen.rectangle(tuple(box), outline=colour, width=2)
        text = f"{classes[int(label)]} {float(score):.2f}"
        pen.rectangle((box[0], box[1], box[0] + pen.textlength(text, font=font) + 4, box[1] + _LINE - 2), fill=colour)
        pen.text((box[0] + 2, box[1]), text, fill=(0, 0, 0), font=font)
    return picture


def outlined(
    image: Image.Image, masks: np.ndarray, labels: Sequence[int], scores: Sequence[float], classes: Sequence[str]
) -> Image.Image:
    """The image under its objects' masks (K, H, W), the best on top, and the names of their classes."""
    paint, own = colours(len(classes)), colours(max(len(masks), 1))
    mixed = np.asarray(image.convert("RGB"), dtype=np.float64).copy()
    for mask, colour in reversed(list(zip(masks, own))):
        mixed[mask] = (1 - OPACITY) * mixed[mask] + OPACITY * colour
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    named = [(f"{classes[label]} {score:.2f}", own[i]) for i, (label, score) in enumerate(zip(labels, scores))]
    legend(picture, named or [("nothing", paint[0])])
    return picture
