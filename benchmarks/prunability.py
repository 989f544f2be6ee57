"""How much of timm can be pruned exactly: every family's smallest model, shaken, half of each group removed.

    python -m benchmarks.prunability [--families swin_transformer,beit] [--results runs/prunability.jsonl] [--limit 180]

A family counts as exact when the cut model equals the masked reference (1e-10 of the output's scale, float64), trains
(forward and backward), and is rebuilt equal from plan JSON and state dict on a fresh stock model. Finished families are
kept in the results file (one JSON line each) and skipped; each runs in a process of its own with a time limit.
Torch-Pruning cuts the same model after it, in another process under the same limit; of its result is asked only that it
runs and gives as many outputs as before (`--no-peer` leaves it out).
"""

import argparse
import copy
import json
import multiprocessing
import queue
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

# Before any other package called `benchmarks` or `tracing`.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.peer_pruning import cut_by_torch_pruning_, runs
from tailor.tracing import Traced, WidthPlan, cut_, half, plan_widths, settle, trace, verify
from tracing.shake import shake_

SIZES = (128, 160, 192, 224, 256)
# Fewer layers and pixels where the stock class takes them: the same blocks, affordable in float64 on a small machine.
SMALLER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "img_size": 64},
    "cait_xxs24_224": {"depth": 2, "img_size": 64},
    "coat_tiny": {"serial_depths": (1, 1, 1, 1), "parallel_depth": 1, "img_size": 64},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2, "img_size": 64},
    "crossvit_tiny_240": {"depth": ((1, 2, 0),)},
    "davit_tiny": {"depths": (1, 1, 1, 1)},
    "deepseek_vit_412m": {"depth": 2},
    "deit_tiny_patch16_224": {"depth": 3, "img_size": 64},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "dpn48b": {"k_sec": (1, 1, 2, 1)},
    "fasternet_t0": {"depths": (1, 1, 1, 1)},
    "fastvit_t8": {"layers": (1, 1, 1, 1)},
    "gemma4_vit_167m": {"depth": 2},
    "hiera_tiny_224": {"stages": (1, 1, 2, 1)},
    "legacy_seresnet18": {"layers": (1, 1, 1, 1)},
    "levit_128s": {"depth": (1, 1, 1)},
    "naflexvit_base_patch16_parfac_gap": {"depth": 2},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "qwen3_vit_88m": {"depth": 2},
    "res2next50": {"layers": (1, 1, 1, 1)},
    "samvit_base_patch16_224": {"depth": 2, "img_size": 64, "global_attn_indexes": (1,)},
    "sequencer2d_s": {"layers": (1, 1, 1, 1)},
    "skresnet18": {"layers": (1, 1, 1, 1)},
    "swiftformer_xs": {"layers": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2, 2, 2), "img_size": 112},
    "swinv2_cr_tiny_224": {"depths": (2, 1, 1, 1)},
    "swinv2_tiny_window8_256": {"depths": (2, 2, 1, 1), "img_size": 128},
    "tiny_vit_5m_224": {"depths": (1, 1, 1, 1)},
    "tnt_s_legacy_patch16_224": {"depth": 2, "img_size": 64},
    "tresnet_m": {"layers": (1, 1, 2, 1)},
    "visformer_tiny": {"depth": (1, 1, 1), "img_size": 112},
    "vit_tiny_patch16_dinov3_qkvb": {"depth": 2, "img_size": 64},
    "vit_tiny_r_s16_p8_224": {"depth": 2},
    "xcit_nano_12_p8_224": {"depth": 2, "img_size": 64},
}


def smallest_models() -> dict[str, str]:
    """The smallest model of every family by parameters, counted on the meta device."""
    found: dict[str, str] = {}
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        found[family] = min(sizes, key=lambda name: sizes[name])
    return found


def create(name: str) -> nn.Module:
    """The stock model in float64, shaken."""
    return shake_(timm.create_model(name, **SMALLER.get(name, {})).double()).eval()


def example_for(name: str, model: nn.Module, sizes: tuple[int, ...] = SIZES) -> Tensor:
    """Two images of the smallest size that the model accepts, or of its own."""
    cfg = model.default_cfg
    own = SMALLER.get(name, {}).get("img_size", cfg["input_size"][-1])
    for size in (own,) if cfg.get("fixed_input_size") else (*sizes, own):
        x = torch.randn(
            2, cfg["input_size"][0], size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        try:
            with torch.no_grad():
                model(x)
        except Exception:  # any model may refuse a size in its own way
            continue
        return x
    raise RuntimeError("the model accepts no size")


def measure(name: str) -> dict[str, Any]:
    """One family's row."""
    row: dict[str, Any] = {"model": name}
    model = create(name)
    x = example_for(name, model)
    row["size"], row["params"] = x.shape[-1], sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    traced = trace(model, (x,))
    row["trace_s"], row["unknown"] = round(time.perf_counter() - start, 2), list(traced.groups.unknown)
    row["groups_graph"], row["pinned_graph"] = len(traced.groups.groups), pinned_share(model, traced)
    start = time.perf_counter()
    traced = settle(model, traced, (x,))
    row["settle_s"] = round(time.perf_counter() - start, 2)
    row["groups"], row["pinned"] = len(traced.groups.groups), pinned_share(model, traced)
    row["recorded"] = sorted({type(model.get_submodule(path)).__name__ for path in traced.recordings})
    row["causes"] = sorted({p.reason[:200] for p in traced.groups.pinned if "the code of" in p.reason})[:8]
    plan = plan_widths(traced.groups, half(traced.groups, seed=3))
    start = time.perf_counter()
    pruned = cut_(copy.deepcopy(model), plan)
    row["cut_s"] = round(time.perf_counter() - start, 2)
    verdict = verify(model, pruned, traced, plan, (x,))
    row |= {"exact": verdict.exact, "error": verdict.error, "params_after": sum(p.numel() for p in pruned.parameters())}
    if not verdict.exact:
        return row | {"cause": f"{verdict.module}: {verdict.cause}"}
    return row | {"trains": trains(pruned, x), "rebuilds": rebuilds(name, pruned, plan, x)}


def pinned_share(model: nn.Module, traced: Traced) -> float:
    """Share of the parameters that lie in tensors of which nothing can be removed."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return round(1 - sum(n for name, n in sizes.items() if name in traced.groups.layouts) / sum(sizes.values()), 4)


def trains(pruned: nn.Module, x: Tensor) -> bool:
    """Forward and backward in training mode; every gradient is finite."""
    model = copy.deepcopy(pruned).train()
    outputs = model(x)
    outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    sum(output.square().mean() for output in outputs).backward()
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def rebuilds(name: str, pruned: nn.Module, plan: WidthPlan, x: Tensor) -> bool:
    """A fresh stock model, the plan from its JSON and the state dict give the same output, bit for bit."""
    adapter = TypeAdapter(WidthPlan)
    again = adapter.validate_json(adapter.dump_json(plan))
    fresh = cut_(timm.create_model(name, **SMALLER.get(name, {})).double().eval(), again)
    fresh.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        first, second = pruned.eval()(x), fresh(x)
    pairs = zip(first, second) if isinstance(first, (tuple, list)) else [(first, second)]
    return all(torch.equal(a, b) for a, b in pairs)


def measure_peer(name: str) -> dict[str, Any]:
    """Torch-Pruning on the same model and images."""
    model = create(name)
    x = example_for(name, model)
    seconds = cut_by_torch_pruning_(model, x)
    cause = runs(model, x, getattr(model, "num_classes", 0))
    return {"runs": not cause, "cause": cause} | {stage: round(s, 2) for stage, s in seconds.items()}


def _work(measured: Callable[[str], dict[str, Any]], name: str, answers: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        row = measured(name)
    except BaseException as error:  # whatever a family does is its row's cause
        row = {"cause": f"{type(error).__name__}: {str(error)[:300]}"}
    answers.put(row)


def in_process(measured: Callable[[str], dict[str, Any]], name: str, limit: float) -> dict[str, Any]:
    """What is measured in a forked process, or why there is nothing within the limit."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    start = time.perf_counter()
    process = context.Process(target=_work, args=(measured, name, answers))
    process.start()
    row: dict[str, Any] = {"cause": f"no result within {limit:g} s"}
    while time.perf_counter() - start < limit:
        alive = process.is_alive()
        try:
            row = answers.get(timeout=1.0)
            break
        except queue.Empty:
            if not alive:
                row = {"cause": f"the process died with exit code {process.exitcode}"}
                break
    process.kill()
    process.join()
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def run_family(name: str, limit: float, peer: bool) -> dict[str, Any]:
    """One family's row: ours, and Torch-Pruning's under `peer`."""
    row = {"model": name, "exact": False, **in_process(measure, name, limit)}
    return row | {"peer": {"runs": False, **in_process(measure_peer, name, limit)}} if peer else row


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| family | model | exact | by | groups | pinned | seconds | recorded, or cause | Torch-Pruning runs | its s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for family, row in sorted(rows.items()):
        good = bool(row.get("exact") and row.get("trains") and row.get("rebuilds"))
        recorded = row.get("recorded", ())
        way = ("recording" if recorded else "surgery") if good else "-"
        cause = row.get("cause") or "; ".join((*recorded, *row.get("causes", ())))
        pinned = f"{100 * row['pinned']:.1f} %" if "pinned" in row else "-"
        cells = (
            family,
            row["model"],
            "yes" if good else "no",
            way,
            row.get("groups", "-"),
            pinned,
            row["seconds"],
            cause,
            *_peer_cells(row.get("peer")),
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _peer_cells(peer: dict[str, Any] | None) -> tuple[str, str]:
    if peer is None:
        return "-", "-"
    return "yes" if peer["runs"] else f"no: {peer['cause'][:60]}", str(peer["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="")
    parser.add_argument("--results", type=Path, default=Path("runs/prunability.jsonl"))
    parser.add_argument("--limit", type=float, default=180, help="seconds for a family, and as many for Torch-Pruning")
    parser.add_argument("--no-peer", action="store_true")
    args = parser.parse_args()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    names_file = args.results.with_suffix(".names.json")
    if not names_file.exists():
        names_file.write_text(json.dumps(smallest_models()))
    models = json.loads(names_file.read_text())
    wanted = args.families.split(",") if args.families else sorted(models)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    rows = {row["family"]: row for row in map(json.loads, lines)}
    for family in wanted:
        if family not in rows:
            rows[family] = {"family": family, **run_family(models[family], args.limit, not args.no_peer)}
            with args.results.open("a") as stream:
                stream.write(json.dumps(rows[family]) + "\n")
            print(json.dumps(rows[family]), file=sys.stderr, flush=True)
    done = {family: row for family, row in rows.items() if family in wanted}
    exact = sum(bool(r.get("exact") and r.get("trains") and r.get("rebuilds")) for r in done.values())
    print(table(done))
    facts = {"families": len(done), "exact": exact, "seconds": round(sum(r["seconds"] for r in done.values()), 1)}
    peers = [row["peer"] for row in done.values() if "peer" in row]
    facts |= {"peer_families": len(peers), "peer_runs": sum(bool(peer["runs"]) for peer in peers)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
