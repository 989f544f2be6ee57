"""SPViT against what it is compared with, before and after equal fine-tuning, on a bundled ViT. Resumable.

`tailor_mini_s` is tuned in full on flowers; every method takes it to 75 and 50 % of its MACs, then AdamW 1e-4 trains
everything for the same epochs, with and without the dense model's hard labels. Three seeds at 50 %, one elsewhere.
Single and multi path, parts alone, teachers and random search of a part are further rows; a method that cannot reach a
target has the sentence that says so as its row.

    python -m benchmarks.spvit [--store FILE] [--updates 1000] [--epochs 10] [--seeds 3] [--only methods,paths]
"""

import argparse
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
HARD = {"kind": "hard", "weight": 0.5}
SHARES = (75, 50)
IMAGES = Path("docs/images")


def methods(updates: int) -> dict[str, dict[str, Any]]:
    """What `tailor.prune` is told besides the target; head baselines keep the MLPs whole."""
    heads = {"widths": {"parts": ["heads"], "keep_at_least": 1}}
    both = {"widths": {"parts": ["heads", "hidden"], "keep_at_least": 1}}
    return {
        "spvit": {"method": "spvit", "spvit": {"updates": updates}},
        "multi path": {"method": "spvit", "spvit": {"updates": updates, "paths": "multi"}},
        "attention only": {"method": "spvit", "spvit": {"updates": updates, "parts": ["attention"]}},
        "hidden only": {"method": "spvit", "spvit": {"updates": updates, "parts": ["hidden"]}},
        "step": {"method": "step", "step": {"updates": updates}},
        "nas heads": {"method": "nas-heads", "spvit": {"updates": updates, "tolerance": 0.1}},
        "random heads": {"method": "random", **heads},
        "ssp": {"method": "uniform", "criterion": "salience", **both},
        "random blocks": {"method": "random-blocks"},
    }


COMPARED = ("spvit", "step", "ssp", "random blocks", "nas heads", "random heads")


def dense(args: argparse.Namespace) -> Path:
    """The net tuned in full, once."""
    out = args.work / "dense"
    if not (out / "bundle.json").is_file():
        tailor.adapt(
            DATA, model=NET, method="full", epochs=args.dense_epochs, lr=5e-4, out=out, overwrite=True, progress=None,
            recipe={"evaluate_every": 5},
        )  # fmt: skip
    return out


def pruned(name: str, share: int, seed: int, distil: str, args: argparse.Namespace, teacher: str = "") -> Row:
    """One method at one share: the architecture it came to, accuracy as cut and as fine-tuned.

    Teachers do not change what is decided: the cut model is kept and fine-tuned again.
    """
    cut = args.work / f"{name}-{share}-{seed}".replace(" ", "-")
    settings = methods(args.updates)[name]
    if not (cut / "bundle.json").is_file():
        made = tailor.prune(
            dense(args), data=DATA, macs=f"{share}%", seed=seed, out=cut, overwrite=True, progress=None, **settings
        )
        (args.work / f"{cut.name}.json").write_text(
            json.dumps({"seconds": made.seconds, "macs": made.macs_after / made.macs_before, "cut": made.score_after})
        )
    row: Row = json.loads((args.work / f"{cut.name}.json").read_text())
    swaps = [plan for plan in bundle.read(cut).spec.plans if plan.kind == "swap"]
    if swaps:
        row |= {name: swaps[-1].facts[name] for name in ("operations", "hidden", "dense_hidden")}
    out = args.work / "tuned"
    tuned = tailor.adapt(
        DATA, model=cut, method="full", epochs=args.epochs, lr=RATE, seed=seed, out=out, overwrite=True, progress=None,
        teacher=teacher or (dense(args) if distil else None), recipe={**RECIPE, **({"distil": HARD} if distil else {})},
    )  # fmt: skip
    shutil.rmtree(out)
    return {**row, "after": tuned.accuracy, "updates": args.updates, "epochs": args.epochs}


def cold(share: int, seed: int, args: argparse.Namespace) -> Row:
    """The architecture of `spvit` made from the dense weights, as in the published code: what a warm start gains."""
    plans = bundle.read(args.work / f"spvit-{share}-{seed}").spec.plans
    facts = next(plan for plan in plans if plan.kind == "swap").facts
    letters = {name: letter for letter, name in LETTERS.items()}
    written = {"operations": "".join(letters[o] for o in facts["operations"]), "hidden": tuple(facts["hidden"])}
    cut, out = args.work / "cold", args.work / "tuned"
    made = tailor.prune(
        dense(args), data=DATA, method="swap", swap=written, seed=seed, out=cut, overwrite=True, progress=None
    )
    tuned = tailor.adapt(
        DATA, model=cut, method="full", epochs=args.epochs, lr=RATE, seed=seed, out=out, overwrite=True, progress=None,
        recipe=RECIPE,
    )  # fmt: skip
    ratio = made.macs_after / made.macs_before
    return {"cut": made.score_after, "after": tuned.accuracy, "macs": ratio, "seconds": made.seconds}


def looks(args: argparse.Namespace) -> Row:
    """Figures of what the dense model's heads look at: mean of 100 test images; the distances by block."""
    model, spec = tailor.load(dense(args)), bundle.read(dense(args)).spec
    places = find_places(model, backbones.describe(model))
    split = open_data(DATA, seed=0).splits["test"]
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
    lines = ["| method | MACs | cut | tuned | tuned, distilled | seconds to decide |", "|---" * 6 + "|"]
    for share in SHARES:
        for name in (*methods(1), "cold start"):
            found = {d: _rows(rows, name, share, d) for d in ("plain", "hard")}
            if not found["plain"]:
                continue
            one = found["plain"][0]
            if "error" in one:
                lines.append(f"| {name} | {share} % | {one['error']} | | | |")
                continue
            cells = [_spread([100 * r[key] for r in found[d]]) for key, d in (("cut", "plain"), ("after", "plain"))]
            cells.append(_spread([100 * r["after"] for r in found["hard"]]))
            lines.append(f"| {name} | {100 * one['macs']:.1f} % | {' | '.join(cells)} | {one['seconds']:.0f} |")
    return "\n".join(lines)


def _rows(rows: Rows, name: str, share: int, distil: str) -> list[Row]:
    return [row for key, row in rows.known.items() if key.startswith(f"{name} {share} {distil} ")]


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
        for r in _rows(rows, "spvit", share, "plain")[:1]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/spvit.jsonl"))
    parser.add_argument("--work", type=Path, default=Path("runs/spvit"))
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--dense-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="methods,paths,parts,targets,cold,looks")
    parser.add_argument("--names", default="", help="these methods alone")
    parser.add_argument("--shares", default="75,50,35")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows, only = Rows(args.store), args.only.split(",")
    rows.get("machine", machine)
    rows.get("dense", lambda: json.loads((dense(args) / "bundle.json").read_text())["metrics"])
    wanted = []
    if "methods" in only:
        wanted += [(name, 50, "plain", 0) for name in COMPARED] + [(name, 75, "plain", 0) for name in COMPARED]
        wanted += [(name, share, "hard", 0) for share in (50, 75) for name in COMPARED]
        wanted += [(n, 50, d, s) for s in range(1, args.seeds) for d in ("plain", "hard") for n in COMPARED]
    if "paths" in only:
        wanted += [("multi path", 50, "plain", 0)]
    if "parts" in only:
        wanted += [(n, 75, d, 0) for n in ("attention only", "hidden only") for d in ("plain", "hard")]
    if "targets" in only:
        wanted += [("spvit", 35, "plain", 0)]
    names, shares = args.names.split(","), [int(share) for share in args.shares.split(",")]
    for name, share, distil, seed in wanted:
        if (args.names and name not in names) or share not in shares:
            continue
        rows.get(
            f"{name} {share} {distil} {seed}",
            lambda n=name, sh=share, d=distil, s=seed: pruned(n, sh, s, "" if d == "plain" else d, args),
        )
    if "cold" in only and "after" in rows.known.get("spvit 50 plain 0", {}):
        rows.get("cold start 50 plain 0", lambda: cold(50, 0, args))
    if "looks" in only:
        rows.get("looks", lambda: looks(args))
    plot(rows, IMAGES / "spvit.png")
    print(table(rows))


if __name__ == "__main__":
    main()
