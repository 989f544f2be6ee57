"""Distil the bundled minis from an EfficientNet-Lite0 that knows ImageNet, on Tiny ImageNet, with one CPU core.

The teacher looks once at every image, at 128 px, through ONNX Runtime; a 200-way head is fitted on what it sees, and
its logits at each of the 4 x 4 places of its last map are kept. A mini is taught by their mean (its class token) and
by the place above each of its patches (token labelling, Jiang et al. 2021). Needs the packages of the extra `lite`.

    python scripts/distil_minis.py teach
    python scripts/distil_minis.py train --size ti --minutes 40
    python scripts/distil_minis.py train --size s --minutes 40 --init scratch/minis/tailor_mini_ti.safetensors
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain_minis import (
    CLASSES,
    MINIS,
    WIDTHS,
    Recipe,
    Run,
    batches,
    finish,
    mini,
    read_split,
    resize,
    to_input,
)
from tailor import backbones

TEACHER = "tf_efficientnet_lite0"
PIXELS, PLACES = 128, 16
"""The teacher's input size, and the places of its last map: each lies above 2 x 2 patches of a mini."""


@dataclass(frozen=True)
class Distillation(Recipe):
    """A recipe with what the teacher adds: the share of the true labels, and the weight of the loss at the places."""

    optimizer: str = "muon"
    batch: int = 128
    patch_drop: float = 0.5
    full_from: float = 0.75
    hard: float = 0.2
    local: float = 0.5
    temperature: float = 1.0


class Maps(nn.Module):
    """The teacher's last map `(B, C, 4, 4)`, before pooling."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)


def session(folder: Path) -> ort.InferenceSession:
    """The teacher in ONNX Runtime on one thread: on one core three times as fast as PyTorch."""
    maps = Maps(backbones.create(TEACHER)).eval()
    file = folder / f"{TEACHER}.onnx"
    torch.onnx.export(maps, (torch.zeros(32, 3, PIXELS, PIXELS),), file, dynamo=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(file, options)


def look(teacher: ort.InferenceSession, images: Tensor, out: Path) -> np.ndarray:
    """The maps of all images, `(N, C, 4, 4)` fp16, in a file that is read as needed (4 GB for 100,000 images)."""
    if out.exists():
        return np.load(out, mmap_mode="r")
    part = out.with_suffix(".part")
    name, began, maps = teacher.get_inputs()[0].name, time.monotonic(), None
    for start in range(0, len(images), 32):
        batch = images[start : start + 32].permute(0, 3, 1, 2).float()
        big = F.interpolate(batch, size=PIXELS, mode="bicubic", align_corners=False).clamp(0, 255) / 127.5 - 1
        padded = torch.cat([big, big[:1].expand(32 - len(big), -1, -1, -1)])
        found = teacher.run(None, {name: padded.numpy()})[0][: len(batch)].astype(np.float16)
        if maps is None:
            shape = (len(images), *found.shape[1:])
            maps = np.lib.format.open_memmap(part, "w+", dtype=np.float16, shape=shape)
        maps[start : start + len(batch)] = found
        if start % 6400 == 0:
            print(f"{start:6d} images, {start / (time.monotonic() - began):.0f}/s", flush=True)
    maps.flush()
    part.rename(out)
    return maps


def fit_head(features: Tensor, labels: Tensor, epochs: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear classifier on pooled features `(N, C)`: AdamW, linear decay, dropout on the input."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.zeros(CLASSES, features.shape[1], requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(features) // 1000)
    for step, index in enumerate(batches(len(features), 1000, 0, seed)):
        if step == steps:
            return weight.detach(), bias.detach()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        kept = (torch.rand(1000, features.shape[1], generator=rng) > 0.2) / 0.8
        loss = F.cross_entropy((features[index] * kept) @ weight.T + bias, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("the batches never end")


def teach(data: Path, cache: Path) -> None:
    """Write `train_local.npy`: the head's logits at each place, `(N, 16, classes)` fp16; print the teacher's top-1."""
    sets = {split: read_split(data, cache, split) for split in ("train", "val")}
    teacher = session(cache)
    maps = {split: look(teacher, images, cache / f"{split}_maps.npy") for split, (images, _) in sets.items()}
    pooled = {split: torch.from_numpy(_blocks(found, lambda m: m.mean((2, 3)))) for split, found in maps.items()}
    weight, bias = fit_head(pooled["train"], sets["train"][1])
    scores = {split: (found @ weight.T + bias).argmax(-1) for split, found in pooled.items()}
    top1 = {split: round(float((found == sets[split][1]).float().mean()), 4) for split, found in scores.items()}

    def logits(block: np.ndarray) -> np.ndarray:
        places = block.reshape(len(block), -1, PLACES).transpose(0, 2, 1)
        return (places @ weight.T.numpy() + bias.numpy()).astype(np.float16)

    np.save(cache / "train_local.npy", _blocks(maps["train"], logits))
    print(json.dumps({"teacher": TEACHER, "top1": top1}))


def _blocks(maps: np.ndarray, function) -> np.ndarray:
    return np.concatenate([function(maps[i : i + 2000].astype(np.float32)) for i in range(0, len(maps), 2000)])


class Student(nn.Module):
    """A mini with a second head that reads the patches; only the patches in `kept` are looked at."""

    def __init__(self, model: VisionTransformer):
        super().__init__()
        self.model = model
        self.local = nn.Linear(model.embed_dim, CLASSES)
        self.local.load_state_dict(model.head.state_dict())

    def forward(self, x: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of the class token `(B, classes)` and of the patches `(B, P, classes)`."""
        model = self.model
        tokens = model.patch_embed(x) + model.pos_embed[:, 1:]
        if kept is not None:
            tokens = tokens[:, kept]
        first = (model.cls_token + model.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = model.norm(model.blocks(torch.cat([first, tokens], dim=1)))
        return model.head(tokens[:, 0]), self.local(tokens[:, 1:])


def places_of(kept: Tensor, flipped: bool) -> Tensor:
    """For patches of the 8 x 8 grid: the place of the teacher's 4 x 4 map above each, mirrored where asked."""
    row, column = kept // 16, kept % 8 // 2
    return row * 4 + (3 - column if flipped else column)


def loss_of(outputs: tuple[Tensor, Tensor], labels: Tensor, local: Tensor, places: Tensor, recipe) -> Tensor:
    """Cross entropy of the class token with the teacher's mean and the labels, and of the patches with their places."""
    t = recipe.temperature
    soft = (local.mean(1) / t).softmax(-1)
    target = soft + recipe.hard * (F.one_hot(labels, CLASSES) - soft)
    whole = -(target * F.log_softmax(outputs[0].float(), -1)).sum(-1).mean()
    wanted = (local / t).softmax(-1)[:, places]
    patches = -(wanted * F.log_softmax(outputs[1].float(), -1)).sum(-1).mean()
    return whole + recipe.local * patches


def train(run: Run, images: Tensor, labels: Tensor, local: np.ndarray, checkpoint: Path) -> None:
    """Run the schedule to its end; report on stdout, save every few minutes and at the end."""
    recipe, every = run.recipe, torch.arange(64)
    forward = torch.compile(run.model, dynamic=False)
    last_report = last_save = time.monotonic()
    losses: list[float] = []
    for index in batches(len(images), recipe.batch, run.images, recipe.seed):
        began = time.monotonic()
        dropping = run.progress() < recipe.full_from and recipe.patch_drop > 0
        count = math.ceil(64 * (1 - recipe.patch_drop)) if dropping else 64
        kept = torch.randperm(64, generator=run.rng)[:count].sort().values if dropping else every
        flipped = bool(torch.rand((), generator=run.rng) < 0.5)
        x = to_input(images[index])
        x = (x.flip(-1) if flipped else x).bfloat16()
        target = torch.from_numpy(local[index.numpy()]).float()
        outputs = forward(x, kept if dropping else None)
        loss = loss_of(outputs, labels[index], target, places_of(kept, flipped), recipe)
        loss.backward()
        run.images += len(index)
        run.update()
        losses.append(loss.item())
        now = time.monotonic()
        run.seconds += now - began
        if now - last_report > 20:
            rate = len(losses) * recipe.batch / (now - last_report)
            mean = sum(losses) / len(losses)
            print(f"{run.images:9d} {run.progress():6.1%} loss {mean:.3f} {rate:.0f}/s", flush=True)
            last_report, losses = now, []
        if run.progress() >= 1 or now - last_save > 180:
            run.save(checkpoint)
            last_save = now
            if run.progress() >= 1:
                return


def parse() -> argparse.Namespace:
    """The options; those that share a name with a field of the recipe override its default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("teach", "train"))
    parser.add_argument("--size", choices=WIDTHS, default="ti")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tiny-imagenet"))
    parser.add_argument("--cache", type=Path, default=Path("scratch/minis"), help="images, logits, checkpoints, result")
    parser.add_argument("--init", type=Path, help="weights to start from (default: the bundled); resized where needed")
    for field in fields(Distillation)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    return parser.parse_args()


def main() -> None:
    """Ask the teacher, or train and store one mini."""
    args = parse()
    torch.set_num_threads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.step == "teach":
        return teach(args.data, args.cache)
    recipe = Distillation(**{field.name: getattr(args, field.name) for field in fields(Distillation)})
    args.init = args.init or MINIS / f"tailor_mini_{args.size}.safetensors"
    args.teacher = Path(TEACHER)
    model = mini(args.size)
    model.load_state_dict(resize(load_file(args.init), args.size))
    run = Run(recipe, Student(model))
    out = args.cache / f"tailor_mini_{args.size}.safetensors"
    checkpoint = args.cache / f"{out.stem}.distil.safetensors"
    if checkpoint.exists():
        run.resume(checkpoint)
    images, labels = read_split(args.data, args.cache, "train")
    train(run, images, labels, np.load(args.cache / "train_local.npy", mmap_mode="r"), checkpoint)
    return finish(run, out, args, read_split(args.data, args.cache, "val"))


if __name__ == "__main__":
    main()
