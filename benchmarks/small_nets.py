"""Three small hierarchical nets beside the bundled ViT, registered with timm, and their training on Tiny ImageNet.

Pruning is compared on a Swin-like, a ConvNeXt-like and a ResNet-like net of about 10 MMACs at 32 pixels. Importing this
file registers their names; `python -m benchmarks.small_nets` trains those whose weights are not there yet.
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

NETS = ("small_swin", "small_convnext", "small_resnet")
DATA, WEIGHTS = Path("../shared/data/tiny-imagenet"), Path("runs/benchmarks/nets")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES, SIDE, SHIFT = 200, 32, 4


def _configured(kind: Any, name: str, first: str, head: str, settings: dict[str, Any]) -> nn.Module:
    known = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    model = kind(**{key: value for key, value in settings.items() if key not in known})
    model.pretrained_cfg = {
        "architecture": name,
        "input_size": (3, SIDE, SIDE),
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "classifier": head,
        "first_conv": first,
        "num_classes": CLASSES,
    }
    model.default_cfg = model.pretrained_cfg
    return model  # type: ignore[no-any-return]


@register_model
def small_swin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Swin with three stages of two blocks, windows of 4 x 4, and widths 24 to 96."""
    shape = {"patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    settings = {"img_size": SIDE, "num_classes": CLASSES, **shape, **kwargs}
    return _configured(SwinTransformer, "small_swin", "patch_embed.proj", "head.fc", settings)


@register_model
def small_convnext(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt with widths 32 to 256; layer scale starts at 1, as the schedule is short."""
    shape = {"patch_size": 2, "depths": (2, 2, 4, 2), "dims": (32, 64, 128, 256), "ls_init_value": 1.0}
    settings = {"num_classes": CLASSES, **shape, **kwargs}
    return _configured(ConvNeXt, "small_convnext", "stem.0", "head.fc", settings)


@register_model
def small_resnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet of eight basic blocks with widths 24 to 192."""
    settings = {"num_classes": CLASSES, "layers": (2, 2, 2, 2), "channels": (24, 48, 96, 192), **kwargs}
    return _configured(ResNet, "small_resnet", "conv1", "fc", {"block": BasicBlock, **settings})


def weights(name: str) -> Path:
    """Where a net's trained weights lie; FileNotFoundError with the command that makes them."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: run `python -m benchmarks.small_nets` first")
    return path


def read(split: str) -> tuple[Tensor, Tensor]:
    """One split as `(N, 3, 32, 32)` uint8, each pixel the mean of four, and labels; kept beside the weights."""
    cache = WEIGHTS / f"{split}.npz"
    if not cache.exists():
        rows, labels = [], []
        for part in sorted(DATA.glob(f"{split}-*.parquet")):
            table = pq.read_table(part)
            rows += [np.asarray(Image.open(io.BytesIO(r["bytes"])).convert("RGB")) for r in table["image"].to_pylist()]
            labels.append(table["label"].to_numpy())
        small = np.stack(rows).reshape(-1, SIDE, 2, SIDE, 2, 3).mean((2, 4)).round().astype(np.uint8)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, x=small.transpose(0, 3, 1, 2), y=np.concatenate(labels))
    held = np.load(cache)
    return torch.from_numpy(held["x"]), torch.from_numpy(held["y"]).long()


def train(name: str, epochs: float, batch: int, seed: int = 0) -> dict[str, Any]:
    """One-cycle AdamW with flips and shifts by up to 4 pixels; saves the weights and says what they reach."""
    started = time.monotonic()
    torch.manual_seed(seed)
    model = globals()[name]().train()
    x, y = read("train")
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    steps = int(epochs * len(x) / batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        if step * batch % len(x) < batch:
            order = torch.randperm(len(x))
        chosen = order[torch.arange(step * batch, (step + 1) * batch) % len(x)]
        images = F.pad(x[chosen].float(), (SHIFT,) * 4, mode="reflect")
        top, left = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        images = (images[:, :, top : top + SIDE, left : left + SIDE] / 255 - mean) / std
        images = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images, images.flip(3))
        loss = F.cross_entropy(model(images), y[chosen], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            left_s = (time.monotonic() - started) / (step + 1) * (steps - step)
            print(f"{name} {step}/{steps} loss {loss.item():.3f}, {left_s / 60:.1f} min left", flush=True)
    model.eval()
    vx, vy = read("val")
    with torch.no_grad():
        hits = sum(
            (model((a.float() / 255 - mean) / std).argmax(1) == b).sum().item()
            for a, b in zip(vx.split(500), vy.split(500), strict=True)
        )
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, WEIGHTS / f"{name}.safetensors")
    return {
        "net": name,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": epochs,
        "top1": hits / len(vy),
        "minutes": (time.monotonic() - started) / 60,
    }


def main() -> None:
    """Train what is missing; one JSON line a net."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nets", default=",".join(NETS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.nets.split(","):
        if not (WEIGHTS / f"{name}.safetensors").is_file():
            print(json.dumps(train(name, args.epochs, args.batch)), flush=True)


if __name__ == "__main__":
    main()
