"""SPViT against what it is compared with, before and after equal fine-tuning, on a bundled ViT. Resumable.

`tailor_mini_s` is tuned in full on flowers; every method takes it to 75 and 50 % of its MACs, then AdamW 1e-4 trains
everything for the same epochs, with and without the dense model's hard labels. Three seeds at 50 %, one elsewhere.
Single and multi path, parts alone, teachers (the dense model, soft and hard; a small and a large CNN) and random search
of a part (the best of five) are further rows; a method that cannot reach a target has the sentence that says so as its
row. Only rows of the same number of updates are to be compared, which is therefore part of a row's key.

    python -m benchmarks.spvit [--store FILE] [--updates 400] [--gate-lr 0.025] [--epochs 10] [--only methods,teachers]
"""

import argparse
import itertools
import json
import shutil
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import tailor
from benchmarks.rows import Row, Rows
from tailor import backbones, bundle
from tailor.data.images import open_data
from tailor.evidence.operations import Hybrid, distances, looked_at, operations
from tailor.measure.machine import machine
from tailor.pruning.convolve.places import find_places
from tailor.pruning.convolve.plan import OPERATIONS
from tailor.pruning.convolve.seen import distance, probabilities
from tailor.pruning.convolve.settings import LETTERS
from tailor.pruning.convolve.table import counted
from tailor.workflow.data import in_order

NET, DATA = "tailor_mini_s", "../shared/data/flowers"
RATE = 1e-4
RECIPE = {"weight_decay": 0.05, "warmup_epochs": 0.0, "min_lr": 1e-5, "evaluate_every": 5}
LABELS = {name: {"kind": name, "weight": 0.5} for name in ("hard", "soft")}
CNNS = {"small CNN": "tf_efficientnet_lite0", "large CNN": "tf_efficientnet_lite2"}
CNN_SIDE = 128
SHARES = (75, 50)
IMAGES = Path("docs/images")


def methods(updates: int, rate: float) -> dict[str, dict[str, Any]]:
    """What `tailor.prune` is told besides the target; head baselines keep the MLPs whole."""
    length = {"updates": updates, "gate_lr": rate}
    heads = {"widths": {"parts": ["heads"], "keep_at_least": 1}}
    both = {"widths": {"parts": ["heads", "hidden"], "keep_at_least": 1}}
    return {
        "spvit": {"method": "spvit", "spvit": length},
        "multi path": {"method": "spvit", "spvit": {**length, "paths": "multi"}},
        "attention only": {"method": "spvit", "spvit": {**length, "parts": ["attention"]}},
        "hidden only": {"method": "spvit", "spvit": {**length, "parts": ["hidden"]}},
        "step": {"method": "step", "step": length},
        "nas heads": {"method": "nas-heads", "spvit": {**length, "tolerance": 0.1}},
        "random heads": {"method": "random", **heads},
        "ssp": {"method": "uniform", "criterion": "salience", **both},
        "random blocks": {"method": "random-blocks"},
        "random attention": {"method": "random-blocks", "drawn": {"parts": ["attention"]}},
        "random hidden": {"method": "random-blocks", "drawn": {"parts": ["hidden"]}},
    }


DEFAULT = 1000
SEARCHED = ("spvit", "multi path", "attention only", "hidden only", "step", "nas heads")
TAUGHT = {
    "plain": "labels alone",
    "soft": "the dense net's soft labels",
    "hard": "the dense net's hard labels",
    "small CNN": "hard labels of EfficientNet-Lite0",
    "large CNN": "hard labels of EfficientNet-Lite2",
}
COMPARED = ("spvit", "step", "ssp", "random blocks", "nas heads", "random heads")


def dense(args: argparse.Namespace) -> Path:
    """The net tuned in full, once."""
    out = args.work / "dense"
    if not (out / "bundle.json").is_file():
        tailor.adapt(
            args.data, model=NET, method="full", epochs=args.dense_epochs, lr=5e-4, out=out, overwrite=True,
            recipe={"evaluate_every": 5}, progress=None,
        )  # fmt: skip
    return out


def teacher(name: str, args: argparse.Namespace) -> Path:
    """A bundle to learn from: the dense net, or a CNN of ImageNet whose head was tuned on the same data, once."""
    if name not in CNNS:
        return dense(args)
    out = args.work / name.replace(" ", "-")
    if not (out / "bundle.json").is_file():
        tailor.adapt(
            args.data, model=CNNS[name], method="linear", image_size=CNN_SIDE, epochs=args.dense_epochs, out=out,
            overwrite=True, progress=None, recipe={"evaluate_every": 5},
        )  # fmt: skip
    return out


def place(name: str, share: int, seed: int, args: argparse.Namespace) -> Path:
    """Where a cut model stays."""
    length = "" if args.updates == DEFAULT else f"-{args.updates}"
    return Path(args.work / f"{name}-{share}-{seed}{length}".replace(" ", "-"))


def pruned(name: str, share: int, seed: int, taught: str, args: argparse.Namespace) -> Row:
    """One method at one share: the architecture it came to, accuracy as cut and as fine-tuned.

    What it is `taught` by (`plain`: labels alone; `hard`, `soft`: the dense net; a CNN: hard labels) does not change
    what is decided: the cut model is kept and fine-tuned again.
    """
    cut = place(name, share, seed, args)
    settings = methods(args.updates, args.gate_lr)[name]
    if not (cut / "bundle.json").is_file():
        made = tailor.prune(
            dense(args), data=args.data, macs=f"{share}%", seed=seed, out=cut, overwrite=True, progress=None, **settings
        )
        (args.work / f"{cut.name}.json").write_text(
            json.dumps({"seconds": made.seconds, "macs": made.macs_after / made.macs_before, "cut": made.score_after})
        )
    row: Row = json.loads((args.work / f"{cut.name}.json").read_text())
    swaps = [plan for plan in bundle.read(cut).spec.plans if plan.kind == "swap"]
    if swaps:
        row |= {name: swaps[-1].facts[name] for name in ("operations", "hidden", "dense_hidden")}
    out = args.work / "tuned"
    distil = {} if taught == "plain" else {"distil": LABELS.get(taught, LABELS["hard"])}
    tuned = tailor.adapt(
        args.data, model=cut, method="full", epochs=args.epochs, lr=RATE, seed=seed, out=out, overwrite=True,
        teacher=teacher(taught, args) if distil else None, recipe={**RECIPE, **distil}, progress=None,
    )  # fmt: skip
    shutil.rmtree(out)
    return {**row, "after": tuned.accuracy, "updates": args.updates, "gate_lr": args.gate_lr, "epochs": args.epochs}


def cold(share: int, seed: int, args: argparse.Namespace) -> Row:
    """The architecture of `spvit` made from the dense weights, as in the published code: what a warm start gains."""
    plans = bundle.read(place("spvit", share, seed, args)).spec.plans
    facts = next(plan for plan in plans if plan.kind == "swap").facts
    letters = {name: letter for letter, name in LETTERS.items()}
    written = {"operations": "".join(letters[o] for o in facts["operations"]), "hidden": tuple(facts["hidden"])}
    cut, out = args.work / "cold", args.work / "tuned"
    made = tailor.prune(
        dense(args), data=args.data, method="swap", swap=written, seed=seed, out=cut, overwrite=True, progress=None
    )
    tuned = tailor.adapt(
        args.data, model=cut, method="full", epochs=args.epochs, lr=RATE, seed=seed, out=out, overwrite=True,
        recipe=RECIPE, progress=None,
    )  # fmt: skip
    ratio = made.macs_after / made.macs_before
    return {"cut": made.score_after, "after": tuned.accuracy, "macs": ratio, "seconds": made.seconds}


def looks(args: argparse.Namespace) -> Row:
    """Figures of what the dense model's heads look at: mean of 100 test images; the distances by block."""
    model, spec = tailor.load(dense(args)), bundle.read(dense(args)).spec
    places = find_places(model, backbones.describe(model))
    split = open_data(args.data, seed=0).splits["test"]
    batches = (batch.images for batch in islice(in_order(split, spec.preprocessing, spec.head, batch_size=20), 5))
    seen = probabilities(model, places, batches)
    grid = places[0].attention.grid
    query = (grid[0] // 2, grid[1] // 2)
    number = places[0].attention.prefix + query[0] * grid[1] + query[1]
    chosen = [0, 1, len(places) - 2, len(places) - 1]
    maps = {
        f"block {i + 1}": seen[places[i].block][:, number, -grid[0] * grid[1] :].unflatten(1, grid).numpy()
        for i in chosen
    }
    looked_at(maps, query, IMAGES / "spvit_attention.png", title="What each head looks at (+: the query)")
    return {"distances": [distance(seen[place.block], place.attention) for place in places]}


def saved(facts: Row, net: str = NET) -> tuple[float, float]:
    """Share of the attentions' and of the MLPs' MACs that an architecture saves."""
    model = backbones.create(net, "random")
    places = find_places(model, backbones.describe(model))
    costs = counted(places, 0).blocks
    attention = [c.operations[OPERATIONS.index(o)] for c, o in zip(costs, facts["operations"], strict=True)]
    whole = sum(c.operations[-1] for c in costs)
    return 1 - sum(attention) / whole, 1 - sum(facts["hidden"]) / sum(facts["dense_hidden"])


def table(rows: Rows) -> str:
    """Markdown, a line a method: percent as cut, fine-tuned, fine-tuned with hard labels (± over seeds)."""
    lines = ["| method | MACs | updates | cut | tuned | tuned, distilled | seconds to decide |", "|---" * 7 + "|"]
    for updates, share in itertools.product(_lengths(rows), SHARES):
        for name in (*methods(1, 1), "cold start"):
            found = {d: _rows(rows, name, share, d, updates) for d in ("plain", "hard")}
            if not found["plain"]:
                continue
            one = found["plain"][0]
            if "error" in one:
                lines.append(f"| {name} | {share} % | - | {one['error']} | | | |")
                continue
            cells = [_spread([100 * r[key] for r in found[d]]) for key, d in (("cut", "plain"), ("after", "plain"))]
            cells.append(_spread([100 * r["after"] for r in found["hard"]]))
            length = f"{updates:,}" if name in SEARCHED else "-"
            cost = f"{one['seconds']:.0f}"
            lines.append(f"| {name} | {100 * one['macs']:.1f} % | {length} | {' | '.join(cells)} | {cost} |")
    return "\n".join(lines)


def further_table(rows: Rows) -> str:
    """Markdown: by whom a hybrid is taught, and the best of five random architectures of a part."""
    lines = ["| what | MACs | tuned |", "|---|---|---|"]
    for updates, share in itertools.product(_lengths(rows), SHARES):
        for taught, said in TAUGHT.items():
            for row in _rows(rows, "spvit", share, taught, updates)[:1]:
                if "after" in row:
                    lines.append(f"| spvit, {updates:,} updates, {said} | {share} % | {100 * row['after']:.1f} |")
        for part in ("attention", "hidden"):
            found = [r["after"] for r in _rows(rows, f"random {part}", share, "plain", updates) if "after" in r]
            if found:
                best = f"{100 * max(found):.1f}"
                lines.append(f"| random {part}, best of {len(found)} | {share} % | {best} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _key(name: str, share: int, taught: str, seed: int, updates: int) -> str:
    """Of 1,000 updates, the search's default, the key does not speak."""
    return f"{name} {share} {taught} {seed}" + ("" if updates == DEFAULT else f" in {updates}")


def _lengths(rows: Rows) -> list[int]:
    return sorted({DEFAULT, *(int(key.split(" in ")[1]) for key in rows.known if " in " in key)}, reverse=True)


def _rows(rows: Rows, name: str, share: int, taught: str, updates: int = 1000) -> list[Row]:
    keys = [_key(name, share, taught, seed, updates) for seed in range(9)]
    return [rows.known[key] for key in keys if key in rows.known]


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    more = f" ±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


def plot(rows: Rows, out: Path) -> None:
    """What stands in each block at each target."""
    hybrids = [
        Hybrid(f"{100 * r['macs']:.0f} % of the MACs", *(tuple(r[k]) for k in ("operations", "hidden", "dense_hidden")))
        for share in (75, 50, 35)
        for updates in _lengths(rows)
        for r in _rows(rows, "spvit", share, "plain", updates)[:1]
        if "operations" in r
    ]
    if hybrids:
        operations(hybrids, out, title=f"{NET} on flowers: what stands in each block")
    for share in SHARES:
        for row in _rows(rows, "spvit", share, "plain"):
            attention, hidden = saved(row)
            print(f"spvit at {share} %: {attention:.1%} of the attentions' MACs saved, {hidden:.1%} of the MLPs'")
    if hybrids and "distances" in rows.known.get("looks", {}):
        found = _rows(rows, "spvit", 50, "plain")[0]["operations"]
        title, file = "How far heads of the dense model look", IMAGES / "spvit_distance.png"
        distances(rows.known["looks"]["distances"], found, file, title=title, note="below: the search at half the MACs")


def wanted(only: list[str], seeds: int) -> list[tuple[str, int, str, int]]:
    """Method, share, what teaches it, seed: the most telling first."""
    found: dict[str, list[tuple[str, int, str, int]]] = {
        "methods": [(name, share, d, 0) for d in ("plain", "hard") for share in (50, 75) for name in COMPARED]
        + [(n, 50, d, s) for s in range(1, seeds) for d in ("plain", "hard") for n in COMPARED],
        "paths": [("multi path", 50, "plain", 0)],
        "parts": [(n, 75, d, 0) for n in ("attention only", "hidden only") for d in ("plain", "hard")],
        "teachers": [("spvit", 50, taught, 0) for taught in TAUGHT],
        "random search": [(f"random {part}", 75, "plain", s) for part in ("attention", "hidden") for s in range(5)],
        "targets": [("spvit", 35, "plain", 0)],
    }
    return [one for part, rows in found.items() if part in only for one in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/spvit.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/spvit"))
    parser.add_argument("--data", default=DATA)
    parser.add_argument("--updates", type=int, default=DEFAULT)
    parser.add_argument("--gate-lr", type=float, default=1e-2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dense-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="methods,paths,parts,teachers,random search,targets,cold,looks")
    parser.add_argument("--names", default="", help="these methods alone")
    parser.add_argument("--shares", default="75,50,35")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows, only = Rows(args.store), args.only.split(",")
    rows.get("machine", machine)
    rows.get("dense", lambda: json.loads((dense(args) / "bundle.json").read_text())["metrics"])
    names, shares = args.names.split(","), [int(share) for share in args.shares.split(",")]
    for name, share, taught, seed in wanted(only, args.seeds):
        if (not args.names or name in names) and share in shares:
            key = _key(name, share, taught, seed, args.updates)
            rows.get(key, lambda n=name, sh=share, d=taught, s=seed: pruned(n, sh, s, d, args))
    searched = _rows(rows, "spvit", 50, "plain", args.updates)
    if "cold" in only and any("after" in row for row in searched):
        rows.get(_key("cold start", 50, "plain", 0, args.updates), lambda: cold(50, 0, args))
    if "looks" in only:
        rows.get("looks", lambda: looks(args))
    plot(rows, IMAGES / "spvit.png")
    print(table(rows))
    print(further_table(rows))


if __name__ == "__main__":
    main()
