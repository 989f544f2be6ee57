"""Half of the MACs of every family of timm, ranked: `prune --macs 50%` with l2 and with Taylor, function by function.

    python -m benchmarks.ranking [--families eva,beit] [--limit 400] [--results FILE]

The models are those of `benchmarks.prunability`: of every family the smallest, shaken, float64. Units are scored
(Taylor on random images with random classes), ranked as `isomorphic` does, and the share is searched that leaves at
most half of the MACs, counted on the cut model; where they are more than 2 % under the target, the step that would
exceed it is named. The cut is rebuilt bit for bit from plan JSON and state dict. Dense and cut model are timed in
turns, in seconds of this process on one thread. Finished families are kept in the results file; each runs in a process
with a time limit.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.prunability import create, example_for, in_process, rebuilds, smallest_models
from tailor.budget import Amount
from tailor.errors import TailorError
from tailor.inputs import Inputs
from tailor.measure.count import macs
from tailor.pruning.elements import element_scores
from tailor.pruning.settings import Widths
from tailor.pruning.target import coarsest
from tailor.pruning.width import kept, unit_scores
from tailor.tracing import Traced, cut_, mac_cost, plan_widths, settle, trace, verify
from tailor.workflow.counts import ScoredUnits, counts_for

CRITERIA = ("l2", "taylor")
SHARE, NEAR = 0.5, 0.02
SIZES = (64, 96, 128, 160, 192, 224, 256)
BATCH, ROUNDS, LEAST = 4, 5, 0.2


def loss(output: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy where there are classes; some of these models have none."""
    if output.ndim == 2 and output.shape[1] > 1:
        return F.cross_entropy(output, targets % output.shape[1], reduction="none")
    return output.flatten(1).square().mean(1)


def measure(name: str) -> dict[str, Any]:
    """One family's row."""
    model = create(name)
    x = example_for(name, model, SIZES)
    traced = settle(model, trace(model, (x,)), (x,))
    row: dict[str, Any] = {"size": x.shape[-1], "groups": len(traced.groups.groups)}
    for criterion in CRITERIA:
        start = time.perf_counter()
        try:
            row[criterion] = ranked(name, model, traced, x, criterion)
        except TailorError as error:
            row[criterion] = {"error": error.message}
        row[criterion]["seconds"] = round(time.perf_counter() - start, 1)
    return row


def ranked(name: str, model: nn.Module, traced: Traced, x: Tensor, criterion: str) -> dict[str, Any]:
    """Scores, counts, cut, and what came of it."""
    settings, inputs = Widths(), Inputs.images(*x.shape[1:])
    names = dict.fromkeys(member.tensor for group in traced.groups.groups for member in group.members)
    targets = torch.randint(1000, (len(x),), generator=torch.Generator().manual_seed(2))
    elements = element_scores(model, names, criterion, [(x, targets)], loss)
    scores = unit_scores(traced.groups, elements, settings.normaliser)
    scored = ScoredUnits(model, traced, scores, settings, inputs)
    counts = counts_for(scored, {}, ("macs", Amount(SHARE, "share")), lambda event: None)
    plan = plan_widths(traced.groups, kept(traced.groups, scores, counts))
    pruned = cut_(copy.deepcopy(model), plan)
    before, after = macs(model, inputs), macs(pruned, inputs)
    found = {"macs_before": before, "macs_after": after, "left": round(after / before, 4)}
    if after < (SHARE - NEAR * SHARE) * before:
        found["coarsest"] = coarsest(
            traced.groups, counts, settings, settings.parts, mac_cost(traced).at, SHARE * before
        )
    verdict = verify(model, pruned, traced, plan, (x,))
    found |= {"exact": verdict.exact, "rebuilds": rebuilds(name, pruned, plan, x)}
    return found | {"faster": speed(model, pruned, x)}


def speed(model: nn.Module, pruned: nn.Module, x: Tensor) -> float:
    """How many times as fast the cut model is: float32, in turns, by the best of each."""
    images = x[:1].float().expand(BATCH, *x.shape[1:]).contiguous()
    models = [copy.deepcopy(m).float().eval() for m in (model, pruned)]
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        while len(seconds[0]) < ROUNDS or sum(seconds[0]) < LEAST:
            for m, taken in zip(models, seconds, strict=True):
                start = time.process_time()
                m(images)
                taken.append(time.process_time() - start)
    return round(min(seconds[0]) / min(seconds[1]), 2)


def good(found: dict[str, Any]) -> bool:
    """Whether the target was met, near or with the reason, and the cut is exact and rebuilt."""
    near = found.get("left", 1) <= SHARE and (found["left"] >= SHARE * (1 - NEAR) or "coarsest" in found)
    return bool(near and found.get("exact") and found.get("rebuilds"))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """One line a family."""
    lines = [
        "| family | model | l2: MACs left | faster | taylor: MACs left | faster | what is to say |",
        "|---|---|---|---|---|---|---|",
    ]
    for family, row in sorted(rows.items()):
        cells, said = [], [row["cause"]] if "cause" in row else []
        for criterion in CRITERIA:
            found = row.get(criterion, {})
            cells += [f"{100 * found['left']:.1f} %" if "left" in found else "-", str(found.get("faster", "-"))]
            said += [found[key] for key in ("error", "coarsest") if key in found]
            said += ["no faster"] if found.get("faster", 2) < 1.05 else []
        cells = [family, row["model"], *cells, "; ".join(dict.fromkeys(said))]
        lines.append("| " + " | ".join(str(c).replace("|", "/").replace("\n", " ") for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks/ranking.jsonl"))
    parser.add_argument("--names", type=Path, default=Path("docs/benchmarks/prunability.jsonl"), help="which models")
    parser.add_argument("--limit", type=float, default=400, help="seconds for a family")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.names.read_text().splitlines() if args.names.exists() else []
    models = {row["family"]: row["model"] for row in map(json.loads, stored)} or smallest_models()
    wanted = args.families.split(",") if args.families else sorted(models)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    rows = {row["family"]: row for row in map(json.loads, lines)}
    for family in wanted:
        if family in rows:
            continue
        rows[family] = {"family": family, "model": models[family], **in_process(measure, models[family], args.limit)}
        with args.results.open("a") as stream:
            stream.write(json.dumps(rows[family]) + "\n")
        print(json.dumps(rows[family]), file=sys.stderr, flush=True)
    done = {family: row for family, row in rows.items() if family in wanted}
    print(table(done))
    counts = {c: sum(good(row.get(c, {})) for row in done.values()) for c in CRITERIA}
    print(json.dumps({"families": len(done), **counts}))


if __name__ == "__main__":
    main()
