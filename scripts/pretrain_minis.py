"""Pre-train the bundled minis (small plain ViTs) on Tiny ImageNet with a CPU, and reproduce the figures of their card.

Weights and gradients are bf16 with an fp32 master copy; most patches are dropped until the last part of the schedule.
The schedule's position is a fraction of `--images` or of `--minutes` of training, so that a busy machine still ends it.

    python scripts/pretrain_minis.py --size s --minutes 30
    python scripts/pretrain_minis.py --size s --evaluate
"""

import argparse
import io
import json
import math
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

WIDTHS, CLASSES = {"ti": 64, "s": 96, "b": 160}, 200
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
MINIS = Path(__file__).resolve().parents[1] / "src/tailor/backbones/minis"


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a run, kept in the checkpoint and the header; `images`, if not 0, overrides `minutes`."""

    size: str
    images: int = 0
    minutes: float = 30.0
    optimizer: str = "muon"
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    batch: int = 256
    warmup: float = 0.04
    smoothing: float = 0.1
    mixup: float = 0.0
    patch_drop: float = 0.7
    full_from: float = 0.7
    min_crop: float = 0.35
    ema: float = 0.998
    teacher_weight: float = 0.5
    seed: int = 0


def mini(size: str, patch_drop: float = 0.0, seed: int = 0) -> VisionTransformer:
    """The plain ViT of one size, with fresh weights; sets the global seed."""
    torch.manual_seed(seed)
    width = WIDTHS[size]
    shape = {"img_size": 64, "patch_size": 8, "embed_dim": width, "depth": 12, "num_heads": width // 32}
    return VisionTransformer(**shape, num_classes=CLASSES, patch_drop_rate=patch_drop)


def load_mini(path: Path) -> VisionTransformer:
    """The mini with the stored weights, fp32, in evaluation mode."""
    weights = {name: value.float() for name, value in load_file(path).items()}
    model = mini(next(size for size, width in WIDTHS.items() if width == weights["cls_token"].shape[-1]))
    model.load_state_dict(weights)
    return model.eval()


def resize(source: dict[str, Tensor], size: str) -> dict[str, Tensor]:
    """Weights for another width: units are selected to shrink, or repeated to grow, their readers' weights shared out.

    A whole head is selected or repeated at a time. Growing keeps the function up to the statistics of the norms, which
    see the repeated features (weight selection, Xu et al. 2023; repetition after Net2Net, Chen et al. 2015).
    """
    noise = torch.Generator().manual_seed(0)
    out = {}
    for name, like in mini(size).state_dict().items():
        value = source[name].float()
        for axis in range(value.ndim):
            old, new = value.shape[axis], like.shape[axis]
            if old == new:
                continue
            parts = 3 if ".qkv." in name and axis == 0 else 1
            picked = torch.cat([torch.arange(new // parts) % (old // parts) + i * old // parts for i in range(parts)])
            value = value.index_select(axis, picked)
            if axis == 1 and name.endswith("weight"):  # unequal shares, or the copies would stay copies
                value = value / torch.bincount(picked)[picked]
                value *= 1 + 0.1 * torch.randn(value.shape, generator=noise) * (new > old)
        out[name] = value
    return out


def read_split(data: Path, cache: Path, split: str) -> tuple[Tensor, Tensor]:
    """One split as `(N, 64, 64, 3)` uint8 and `(N,)` labels; the JPEGs are decoded on the first call only."""
    images, labels = cache / f"{split}_x.npy", cache / f"{split}_y.npy"
    if not labels.exists():
        table = [pq.read_table(part) for part in sorted(data.glob(f"{split}-*.parquet"))]
        rows = [row for part in table for row in part.column("image").to_pylist()]
        cache.mkdir(parents=True, exist_ok=True)
        np.save(images, np.stack([np.asarray(Image.open(io.BytesIO(r["bytes"])).convert("RGB")) for r in rows]))
        np.save(labels, np.concatenate([part.column("label").to_numpy() for part in table]))
    return torch.from_numpy(np.load(images)), torch.from_numpy(np.load(labels)).long()


def to_input(batch: Tensor) -> Tensor:
    """`(B, H, W, 3)` uint8 to normalised `(B, 3, H, W)` fp32."""
    return (batch.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def augment(batch: Tensor, min_crop: float, rng: torch.Generator) -> Tensor:
    """Random resized crop, flip and a light shift of brightness, contrast and colour; uint8 in, normalised fp32 out."""
    n = len(batch)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape or (n,), generator=rng)

    scale = uniform(min_crop, 1.0).sqrt()
    ratio = uniform(-math.log(4 / 3) / 2, math.log(4 / 3) / 2).exp()
    sx, sy = (scale * ratio).clamp(max=1.0), (scale / ratio).clamp(max=1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = sx * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = sy
    theta[:, 0, 2] = uniform(-1, 1) * (1.06 - sx)
    theta[:, 1, 2] = uniform(-1, 1) * (1.06 - sy)
    grid = F.affine_grid(theta, [n, 3, 64, 64], align_corners=False)
    images = F.grid_sample(to_input(batch), grid, padding_mode="reflection", align_corners=False)
    centre = images.mean((2, 3), keepdim=True)
    gain = uniform(0.75, 1.25, n, 1, 1, 1)
    shift = uniform(-0.25, 0.25, n, 1, 1, 1) + uniform(-0.1, 0.1, n, 3, 1, 1)
    return (images - centre) * gain + centre + shift


class Run:
    """The state of one training run: bf16 working weights, fp32 master and average, optimizers, place in the data."""

    def __init__(self, recipe: Recipe, model: nn.Module):
        self.recipe, self.model = recipe, model
        names, params = zip(*self.model.named_parameters())
        self.names: tuple[str, ...] = names
        self.master = [p.detach().clone().requires_grad_() for p in params]
        self.ema = [p.detach().clone() for p in params]
        self.model.bfloat16().train()
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # the fused CPU kernel's bf16 backward is ten times slower on short sequences
        self.params = list(self.model.parameters())
        self.optimizers = optimizers(recipe, names, self.master)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.images, self.step, self.seconds = 0, 0, 0.0

    def progress(self) -> float:
        """The part of the schedule that is done, in [0, 1]."""
        images, minutes = self.recipe.images, self.recipe.minutes
        return min(1.0, self.images / images if images else self.seconds / (60 * minutes))

    @torch.no_grad()
    def update(self) -> None:
        """One optimizer step on the master weights from the bf16 gradients, then the average and the working copy."""
        p = self.progress()
        factor = min(p / self.recipe.warmup, 0.5 * (1 + math.cos(math.pi * p)))
        for master, param in zip(self.master, self.params):
            master.grad = param.grad.float()
            param.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 2.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = max(factor, 1e-3) * self.recipe.lr
            optimizer.step()
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [m.detach() for m in self.master], 1 - decay)
        torch._foreach_copy_(self.params, self.master)
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the checkpoint: tensors, with the counters as JSON in the header; the old one is replaced whole."""
        tensors = {"rng": self.rng.get_state(), "rng_global": torch.get_rng_state()}
        for i, (master, ema) in enumerate(zip(self.master, self.ema)):
            tensors |= {f"master.{i}": master.detach(), f"ema.{i}": ema}
            kept = [optimizer.state.get(master, {}) for optimizer in self.optimizers]
            tensors |= {f"optimizer.{i}.{key}": value for state in kept for key, value in state.items()}
        counters = {"images": self.images, "step": self.step, "seconds": self.seconds, "recipe": asdict(self.recipe)}
        save_file(tensors, part := path.with_suffix(".part"), metadata={"counters": json.dumps(counters)})
        os.replace(part, path)

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Continue where `path` was written."""
        with safe_open(path, "pt") as file:
            counters = json.loads(file.metadata()["counters"])
        if counters["recipe"] != asdict(self.recipe):
            raise SystemExit(
                f"`{path}` is of another recipe: {counters['recipe']}\nhint: remove it, or pass its values"
            )
        self.images, self.step, self.seconds = counters["images"], counters["step"], counters["seconds"]
        tensors = load_file(path)
        self.rng.set_state(tensors["rng"])
        torch.set_rng_state(tensors["rng_global"])
        for i, (master, ema) in enumerate(zip(self.master, self.ema)):
            master.copy_(tensors[f"master.{i}"])
            ema.copy_(tensors[f"ema.{i}"])
            owner = next(o for o in self.optimizers if any(master is p for g in o.param_groups for p in g["params"]))
            start = f"optimizer.{i}."
            owner.state[master] = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        torch._foreach_copy_(self.params, self.master)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights of the mini under timm's keys, as fp16."""
        kept = {name.removeprefix("model."): value for name, value in zip(self.names, self.ema)}
        return {name: kept[name].half().contiguous() for name in mini(self.recipe.size).state_dict()}


def optimizers(recipe: Recipe, names: tuple[str, ...], master: list[Tensor]) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (same update size as AdamW's) for the blocks' matrices and AdamW for the rest."""
    groups: dict[str, list[Tensor]] = {"muon": [], "decayed": [], "free": []}
    for name, value in zip(names, master):
        if recipe.optimizer == "muon" and ".blocks." in f".{name}" and value.ndim == 2:
            groups["muon"].append(value)
        else:
            decayed = name.endswith("weight") and value.ndim > 1
            groups["decayed" if decayed else "free"].append(value)
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    rest = [{"params": groups["decayed"]}, {"params": groups["free"], "weight_decay": 0.0}]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, 0.98), fused=True, **common)]
    if groups["muon"]:
        found.append(torch.optim.Muon(groups["muon"], adjust_lr_fn="match_rms_adamw", ns_steps=4, **common))
    return found


def batches(count: int, size: int, skip: int, seed: int):
    """Endless index batches; epoch `e` is shuffled with `seed + e`, so that a resumed run sees the same order."""
    per_epoch = count // size
    start = skip // size
    while True:
        epoch, first = divmod(start, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch))
        for i in range(first, per_epoch):
            yield order[i * size : (i + 1) * size]
            start += 1


def loss_of(logits: Tensor, target: Tensor, soft: Tensor | None, recipe: Recipe) -> Tensor:
    """Cross entropy with the smoothed (and mixed) labels, blended with the teacher's distribution if there is one."""
    target = target * (1 - recipe.smoothing) + recipe.smoothing / CLASSES
    if soft is not None:
        target = target + recipe.teacher_weight * (soft - target)
    return -(target * F.log_softmax(logits.float(), -1)).sum(-1).mean()


def example(recipe: Recipe, images: Tensor, labels: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """An augmented bf16 batch and its `(B, classes)` targets, mixed where the recipe says so."""
    x, target = augment(images, recipe.min_crop, run.rng), F.one_hot(labels, CLASSES).float()
    if recipe.mixup:
        share = float(np.random.default_rng(run.step).beta(recipe.mixup, recipe.mixup))
        x, target = torch.lerp(x.flip(0), x, share), torch.lerp(target.flip(0), target, share)
    return x.bfloat16(), target


def train(run: Run, teacher: nn.Module | None, data: tuple[Tensor, Tensor], checkpoint: Path) -> None:
    """Run the schedule to its end; report on stdout, and save a checkpoint every few minutes and at the end."""
    recipe, (images, labels) = run.recipe, data
    forward = torch.compile(run.model, dynamic=False)
    last_report = last_save = time.monotonic()
    losses: list[float] = []
    for index in batches(len(images), recipe.batch, run.images, recipe.seed):
        began = time.monotonic()
        if run.progress() >= recipe.full_from and not isinstance(run.model.patch_drop, nn.Identity):
            run.model.patch_drop = nn.Identity()
            forward = torch.compile(run.model, dynamic=False)
        x, target = example(recipe, images[index], labels[index], run)
        with torch.no_grad():
            soft = teacher(x).float().softmax(-1) if teacher is not None else None
        loss = loss_of(forward(x), target, soft, recipe)
        loss.backward()
        run.images += len(index)
        run.update()
        losses.append(loss.item())
        now = time.monotonic()
        run.seconds += now - began
        if now - last_report > 20:
            rate, left = len(losses) * recipe.batch / (now - last_report), run.seconds / run.progress() - run.seconds
            loss_text = f"loss {sum(losses) / len(losses):.3f}"
            print(f"{run.images:9d} {run.progress():6.1%} {loss_text} {rate:.0f}/s {left / 60:.1f} min", flush=True)
            last_report, losses = now, []
        if run.progress() >= 1 or now - last_save > 240:
            run.save(checkpoint)
            last_save = now
            if run.progress() >= 1:
                return


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose highest logit is their label; all tokens, fp32."""
    predicted = torch.cat([model(to_input(x)).argmax(-1) for x in images.split(250)])
    return float((predicted == labels).float().mean())


def read_folder(folder: Path) -> tuple[Tensor, np.ndarray]:
    """Images of a folder of classes, 64 x 64 uint8, and their labels in the alphabetical order of the classes."""
    files = [(file, i) for i, c in enumerate(sorted(folder.iterdir())) for file in sorted(c.iterdir())]
    opened = (Image.open(file).convert("RGB") for file, _ in files)
    pixels = [np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)) for image in opened]
    return torch.from_numpy(np.stack(pixels)), np.array([label for _, label in files])


@torch.no_grad()
def features(model: VisionTransformer, images: Tensor) -> np.ndarray:
    """CLS token after the final norm, `(N, C)`."""
    return torch.cat([model.forward_features(to_input(x))[:, 0] for x in images.split(250)]).numpy()


def probe(model: VisionTransformer, folder: Path) -> float:
    """Test accuracy of a logistic regression on standardised features; C is chosen on the validation images."""
    splits = {name: read_folder(folder / name) for name in ("train", "val", "test")}
    x = {name: features(model, images) for name, (images, _) in splits.items()}
    scaler = StandardScaler().fit(x["train"])
    x = {name: scaler.transform(found) for name, found in x.items()}
    fits = [LogisticRegression(C=10.0**c, max_iter=2000).fit(x["train"], splits["train"][1]) for c in range(-4, 2)]
    best = max(fits, key=lambda fit: fit.score(x["val"], splits["val"][1]))
    return float(best.score(x["test"], splits["test"][1]))


def evaluate(size: str, path: Path, data: Path, val: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Top-1 and, for two data sets, the probe of the stored weights and the mean over three random networks."""
    model = load_mini(path)
    found = {"top1": top1(model, *val)}
    randoms = [mini(size, seed=seed).eval() for seed in range(3)]
    for name in ("flowers", "cifar10"):
        found[name] = probe(model, data.parent / name)
        found[f"{name}_random"] = sum(probe(r, data.parent / name) for r in randoms) / len(randoms)
    return {k: round(v, 4) for k, v in found.items()}


def parse() -> argparse.Namespace:
    """The options; those that share a name with a field of the recipe override its default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=WIDTHS, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tiny-imagenet"))
    parser.add_argument("--cache", type=Path, default=Path("scratch/minis"), help="decoded images and checkpoints")
    parser.add_argument("--out", type=Path, help="default: among the bundled minis")
    parser.add_argument("--init", type=Path, help="weights to start from; another width is resized")
    parser.add_argument("--teacher", type=Path, help="a mini whose predictions are blended into the labels")
    parser.add_argument("--evaluate", action="store_true", help="only print the figures of the card")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Recipe)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    return parser.parse_args()


def main() -> None:
    """Train and store one mini, or print the figures of a stored one."""
    args = parse()
    torch.set_num_threads(args.threads)
    out = args.out or MINIS / f"tailor_mini_{args.size}.safetensors"
    val = read_split(args.data, args.cache, "val")
    if args.evaluate:
        print(json.dumps(evaluate(args.size, out, args.data, val)))
        return
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    teacher = load_mini(args.teacher).bfloat16() if args.teacher else None
    model = mini(recipe.size, recipe.patch_drop, recipe.seed)
    if args.init:
        model.load_state_dict(resize(load_file(args.init), args.size))
    run = Run(recipe, model)
    checkpoint = args.cache / f"{out.stem}.checkpoint.safetensors"
    if checkpoint.exists():
        run.resume(checkpoint)
    train(run, teacher, read_split(args.data, args.cache, "train"), checkpoint)
    finish(run, out, args, val)


def finish(run: Run, out: Path, args: argparse.Namespace, val: tuple[Tensor, Tensor]) -> None:
    """Store the averaged weights as fp16, with what was done in the header, and print the header."""
    before = safe_open(args.init, "pt").metadata()["images_seen"] if args.init else 0
    metadata = {
        "name": f"tailor_mini_{args.size}",
        "dim": str(WIDTHS[args.size]),
        "data": "Tiny ImageNet, 100,000 training images, 64 px",
        "images_seen": str(run.images + int(before)),
        "images_seen_in_this_run": str(run.images),
        "init": args.init.name if args.init else "random",
        "teacher": args.teacher.name if args.teacher else "none",
        "train_minutes": f"{run.seconds / 60:.1f}",
        "recipe": json.dumps(asdict(run.recipe)),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(run.averaged(), out, metadata=metadata)
    metadata["val_top1"] = f"{top1(load_mini(out), *val):.4f}"
    save_file(run.averaged(), out, metadata=metadata)
    print(json.dumps(metadata))


if __name__ == "__main__":
    main()
