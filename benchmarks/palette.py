"""A palette against what it replaces, on the minis: ESTA, uniform draws, SN-Net in three stages, every anchor tuned
alone with LoRA, the smallest distilled from the largest, and one backbone cut at every size. Resumable.

Every route is scored on test and timed here, one after the other: milliseconds of a run compare with each other only.
`seconds` is the whole training, of all stages; `peak_mb` the largest resident size of its process.

    python -m benchmarks.palette --store docs/benchmarks/palette.jsonl --epochs 40 [--tasks flowers] [--kinds esta]

`--kinds lite` is ESTA with EfficientNet-Lite 0, 1 and 2 (extra `lite`); its MACs do not compare with the minis'.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.rows import Row, Rows
from tailor.evidence.canvas import COLOURS, FAINT, INK, head, save, sheet
from tailor.evidence.palette import front
from tailor.measure.machine import machine

SHARED = Path("../shared/data")
TASKS = {
    "flowers": str(SHARED / "flowers"),
    "cifar10": str(SHARED / "cifar10"),
    "location": "builtin/shapes-location",
}
MINIS = ("tailor_mini_ti", "tailor_mini_s", "tailor_mini_b")
LITES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
LITE_SIZE = 128
"""Pixels a side, of all three: at their own sizes, 224 to 260, a run is of days on a core."""
REPEATED = ("esta", "nested")
BATCH = 32
MARKERS = "os^Dv*P"


def _routes(made: Any) -> list[Row]:
    names = ("route", "macs", "latency_ms", "accuracy", "score", "visits", "deployed", "interval")
    return [{name: getattr(record, name) for name in names} for record in made.routes]


def _palette(models: str, settings: Row, out: Path, **more: Any) -> Row:
    made = tailor.stitch(
        models=models, out=out, evaluate_routes=True, batch_size=BATCH, progress=None, **settings, **more
    )
    return {
        "routes": _routes(made),
        "trainable": made.trainable_params,
        "percent": made.trainable_percent,
        "bytes": made.bundle_bytes,
        "base_bytes": made.base_bytes,
        "explained": made.explained,
        "seconds": made.seconds,
    }


def _adapted(method: str, settings: Row, out: Path, model: str, **more: Any) -> Any:
    return tailor.adapt(
        model=model,
        method=method,
        out=out,
        batch_size=BATCH,
        progress=None,
        recipe={"drop_path": 0.0, "evaluate_every": 5},
        **settings,
        **more,
    )


def esta(settings: Row, out: Path) -> Row:
    """One stage, low-rank, sampled by importance."""
    return _palette(",".join(MINIS), settings, out / "p")


def uniform(settings: Row, out: Path) -> Row:
    """The same without the sampler."""
    return _palette(",".join(MINIS), settings, out / "p", mode="uniform")


def nested(settings: Row, out: Path) -> Row:
    """The largest anchor alone, cut at fifteen sizes."""
    return _palette(MINIS[-1], settings, out / "p", kind="nested")


def sn_net(settings: Row, out: Path) -> Row:
    """Anchors tuned whole one by one, then everything together, one route a step."""
    stages = [_adapted("full", settings, out / name, name, lr=5e-4) for name in MINIS]
    row = _palette(",".join(stage.bundle for stage in stages), settings, out / "p", mode="sn-net", lr=1e-4)
    return {**row, "seconds": row["seconds"] + sum(stage.seconds for stage in stages)}


def stages(settings: Row, out: Path) -> Row:
    """Anchors tuned with LoRA one by one, then stitched as ESTA: three times the epochs and once again."""
    made = [_adapted("lora", settings, out / name, name) for name in MINIS]
    row = _palette(",".join(one.bundle for one in made), settings, out / "p")
    return {**row, "seconds": row["seconds"] + sum(one.seconds for one in made)}


def lora(settings: Row, out: Path) -> Row:
    """Every anchor alone, of the palette's ranks."""
    routes, seconds, trainable = [], 0.0, 0
    for number, (name, rank) in enumerate(zip(MINIS, (32, 16, 8), strict=True)):
        made = _adapted(f"lora-{rank}", settings, out / name, name)
        routes.append(_single(made.bundle, str(number), made.accuracy))
        seconds, trainable = seconds + made.seconds, trainable + made.trainable_params
    return {"routes": routes, "trainable": trainable, "seconds": seconds}


def lite(settings: Row, out: Path) -> Row:
    """A real family of convolutions, with ImageNet weights, as ESTA's palette."""
    return _palette(",".join(LITES), settings, out / "p", image_size=LITE_SIZE)


def distilled(settings: Row, out: Path) -> Row:
    """The smallest, taught by the largest that was tuned alone."""
    teacher = _adapted("lora-8", settings, out / "teacher", MINIS[-1])
    made = _adapted("lora-32", settings, out / "student", MINIS[0], teacher=teacher.bundle)
    routes = [_single(made.bundle, "0", made.accuracy)]
    return {"routes": routes, "trainable": made.trainable_params, "seconds": teacher.seconds + made.seconds}


def _single(bundle: str, name: str, accuracy: float) -> Row:
    found = tailor.bench(bundle, quick=True, progress=None)
    return {
        "route": name, "macs": found.macs, "latency_ms": found.latency_ms, "accuracy": accuracy, "deployed": True
    }  # fmt: skip


KINDS: dict[str, Callable[[Row, Path], Row]] = {
    "esta": esta,
    "nested": nested,
    "lora": lora,
    "uniform": uniform,
    "sn-net": sn_net,
    "adapt-then-stitch": stages,
    "distilled": distilled,
    "lite": lite,
}


def _run(kind: str, settings: Row) -> Row:
    """In a process of its own, for its peak memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = KINDS[kind](settings, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"kind": kind, **settings, **row, "peak_mb": round(peak), "machine": machine()}


def run(kind: str, settings: Row) -> Row:
    """The row of one run."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (kind, settings))


def spearman(left: list[float], right: list[float]) -> float:
    """Rank correlation; ties share no rank."""
    ranks = [[sorted(range(len(v)), key=v.__getitem__).index(i) for i in range(len(v))] for v in (left, right)]
    return statistics.correlation(*[[float(r) for r in one] for one in ranks])


def chosen(row: Row) -> Row:
    """How good the routes chosen by score are: rank correlation within intervals, regret against the best there.

    Nothing is chosen where every interval has one route.
    """
    groups: dict[int, list[Row]] = {}
    for route in row["routes"]:
        groups.setdefault(route["interval"], []).append(route)
    regrets, correlations = [], []
    for members in groups.values():
        best = max(m["accuracy"] for m in members)
        regrets += [best - m["accuracy"] for m in members if m["deployed"]]
        if len(members) > 2:
            correlations.append(spearman([m["score"] for m in members], [m["accuracy"] for m in members]))
    if not correlations:
        return {}
    return {"regret": statistics.mean(regrets), "correlation": statistics.mean(correlations)}


def table(rows: list[Row]) -> str:
    """Each run's front at four budgets of MACs, and what it cost."""
    lines = [
        "| task | kind | seed | 25 % | 50 % | 75 % | 100 % | regret | trainable | seconds | peak MB |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        if "error" in row:
            continue
        points = [(route["macs"], route["accuracy"]) for route in row["routes"]]
        most = 257_806_880
        best = [max((a for m, a in points if m <= share * most), default=None) for share in (0.25, 0.5, 0.75, 1.0)]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in best]
        found = chosen(row) if "interval" in row["routes"][0] else {}
        regret = f"{100 * found['regret']:.1f}" if found else "-"
        what = [f"{row['trainable']:,}", f"{row['seconds']:.0f}", f"{row['peak_mb']:,}"]
        lines.append("| " + " | ".join([row["task"], row["kind"], str(row["seed"]), *cells, regret, *what]) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], out: Path) -> None:
    """What each way makes of the same data at every cost: all routes, and the line that no other of its kind beats."""
    shown = [row for row in rows if "error" not in row]
    figure, axes = sheet(7.6, 4.4)
    for row, colour, marker in zip(shown, COLOURS, MARKERS, strict=False):
        points = [(route["macs"] / 1e6, 100 * route["accuracy"]) for route in row["routes"]]
        line = front(points)
        axes[0].scatter(*zip(*points, strict=True), s=16, c=colour, marker=marker, alpha=0.35, linewidths=0)
        best = [points[i] for i in line]
        axes[0].plot(*zip(*best, strict=True), color=colour, marker=marker, markersize=4, label=row["kind"])
    axes[0].set_xlabel("million MACs an image", color=INK, fontsize=9)
    axes[0].set_ylabel("test accuracy, %", color=INK, fontsize=9)
    axes[0].grid(color=FAINT, linewidth=0.8)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    head(axes[0], f"One palette or several models: {shown[0]['task']}", "lines: the best at each cost")
    save(figure, out)


def main() -> None:
    """Run what is not in the store yet, then print the table of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/palette.jsonl"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--kinds", default=",".join(kind for kind in KINDS if kind != "lite"))
    parser.add_argument("--seeds", type=int, default=3, help=f"of {' and '.join(REPEATED)}; else one")
    args = parser.parse_args()
    store = Rows(args.store)
    rows = []
    for task in args.tasks.split(","):
        for kind in args.kinds.split(","):
            for seed in range(args.seeds if kind in REPEATED else 1):
                settings = {"data": TASKS[task], "epochs": args.epochs, "seed": seed}
                key = f"{task}/{kind}/{seed}/{args.epochs}"
                rows.append(store.get(key, lambda k=kind, s=settings, t=task: {"task": t, **run(k, s)}))
    print(table(rows))
    for task in args.tasks.split(","):
        plot(
            [row for row in rows if row["task"] == task and row["seed"] == 0], Path(f"docs/images/palettes_{task}.png")
        )
    for row in rows:
        if "error" not in row and "interval" in row["routes"][0]:
            best = front([(r["macs"], r["accuracy"]) for r in row["routes"]])
            print(row["key"], {**chosen(row), "front": [row["routes"][i]["route"] for i in best]})


if __name__ == "__main__":
    main()
