"""How much of timm can be tuned: every kind of wrapper on every family, and every method on twelve.

    python -m benchmarks.methods_on_families [--families davit,xcit] [--limit 300] [--results FILE]

The models are those of `benchmarks.prunability`: of every family the smallest, shaken, float64. Each kind of wrapper
stands at every site that is ranked (or wherever its method has places), single entries in every tensor that competes.
It counts as fine when the wrapped model equals the plain one bit for bit, every trained tensor gets a gradient once all
have moved, and the merged model equals the trained one to 1e-9, with the plain model's keys. SPT's scores are compared
with one backward a sample. Finished families are kept in the results file; each runs in a process with a time limit.
"""

import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.prunability import create, example_for, in_process, smallest_models
from tailor.anatomy import Anatomy
from tailor.backbones import describe
from tailor.criteria.squared_gradient import squared_gradients
from tailor.errors import PlanError, TailorError
from tailor.surgery import forget_, get_module, trainable, write_through_
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_, merges
from tailor.tuning.method import Place, site_places
from tailor.tuning.methods import MODULES, SELECTIONS
from tailor.tuning.noah import search as noah
from tailor.tuning.noah.settings import Noah
from tailor.tuning.plan import Entries, Tune, TunePlan
from tailor.tuning.spt.allocate import allocate
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.scores import Scores, sensitivity
from tailor.tuning.spt.settings import SPT

ON_SITES = ("lora", "site-adapter", "repadapter")
"""Methods that can stand at any site; the others stand where they have places."""
TWELVE = (
    "convnext",
    "davit",
    "deit",
    "edgenext",
    "efficientnet",
    "eva",
    "maxxvit",
    "resnet",
    "swin_transformer",
    "swin_transformer_v2",
    "vision_transformer",
    "xcit",
)
PASS = "sensitivity"
SIZES = (64, 96, 128, 160, 192, 224, 256)


def squares(output: Tensor, _: Any) -> Tensor:
    """A loss (B,) of outputs of any shape: some of these models have no classes."""
    return output.flatten(1).square().mean(1)


def quiet(method: Any, **changes: Any) -> Any:
    """The method without dropout."""
    off = {f.name: 0.0 for f in dataclasses.fields(method) if f.name in ("dropout", "drop_path")}
    return dataclasses.replace(method, **off, **changes)


def everywhere(kind: str, model: nn.Module, anatomy: Anatomy) -> TunePlan:
    """One module of the kind at every place that takes it."""
    method = quiet(MODULES[kind]())
    places: Iterable[Place] = method.places(anatomy) if kind not in ON_SITES else site_places(anatomy, fused=False)
    tunes = []
    for place in places:
        try:
            method.wrap(
                copy.deepcopy(get_module(model, place.path)), (place.rows,) if place.rows else (), place.geometry
            )
        except TailorError:
            if kind not in ON_SITES:
                raise
            continue
        tunes.append(
            Tune(f"{place.path}[{place.part}]" if place.part else place.path, method, place.rows, place.geometry)
        )
    if not tunes:
        raise PlanError(f"no site takes `{kind}`")
    return TunePlan(method=kind, tunes=tuple(tunes))


def entries(model: nn.Module, anatomy: Anatomy) -> TunePlan:
    """The first and the last scalar of everything that competes in SPT's ranking."""
    indices: dict[str, set[int]] = {}
    for one in candidates(anatomy):
        indices.setdefault(one.tensor, set()).update((one.start, one.start + one.size - 1))
    return TunePlan(method="entries", entries=tuple(Entries(n, tuple(sorted(i))) for n, i in indices.items()))


def moved_(model: nn.Module) -> nn.Module:
    """As if trained."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return write_through_(model)


def tried(model: nn.Module, anatomy: Anatomy, x: Tensor, make: Callable[[], TunePlan], whole: bool = True) -> str:
    """`ok` with the number of places, or the first thing that is wrong, or the sentence that refuses."""
    try:
        plan = make()
        tuned = apply_(copy.deepcopy(model), plan, anatomy.heads).eval()
    except TailorError as error:
        return f"refused: {error.message}"
    identity = all(tune.method.identity for tune in plan.tunes)
    reference = copy.deepcopy(model)
    for name, parameter in reference.named_parameters():  # torch chooses its kernels by what needs a gradient
        parameter.requires_grad_(name in trainable(tuned))
    with torch.no_grad():
        before = reference(x)
        if identity and not torch.equal(tuned(x), before):
            return f"changes the output by {float((tuned(x) - before).abs().max()):.1e}"
    for one in (reference, tuned):  # some keep their position biases in evaluation, with the graph of that pass or none
        forget_(one)
    if not trainable(tuned):
        return "refused: it has no classifier, and nothing else would train"
    moved_(tuned)
    squares(tuned(x), None).sum().backward()
    forget_(tuned)
    heads = tuple(f"{head}." for head in anatomy.heads)
    own = {name: p for name, p in trainable(tuned).items() if not name.startswith(heads)}
    silent = [name for name, p in own.items() if p.grad is None or not p.grad.isfinite().all()]
    if silent:
        return f"{len(silent)} of {len(own)} trained tensors get no gradient: {silent[0]}"
    still = [name for name, p in own.items() if not p.grad.any()]
    found = f"ok ({len(own)} tensors" + (f", {len(still)} of them with zero gradients: {still[0]})" if still else ")")
    if not merges(plan) or not whole:
        return found
    with torch.no_grad():
        expected = tuned(x)
        merged = merge_(tuned, plan)
        error = float((merged(x) - expected).abs().max() / expected.abs().max())
    if error > 1e-9 or merged.state_dict().keys() != model.state_dict().keys():
        return f"the merged model differs by {error:.1e}"
    return found


def scored(model: nn.Module, anatomy: Anatomy, x: Tensor) -> tuple[str, Scores | None]:
    """SPT's pass against one backward a sample.

    Each sample stands there twice and counts once: on a batch of one, torch 2.15 takes a gradient that comes to a batch
    norm in evaluation from transposed tokens for another layout.
    """
    names = list(dict.fromkeys(c.tensor for c in candidates(anatomy)))
    try:
        found = sensitivity(model, anatomy, [(x, x)], loss=squares)
        exact = squared_gradients(model, [(x, x)], parameters=names, loss=squares)
    except TailorError as error:
        return f"refused: {error.message}", None
    parameters = [model.get_parameter(name) for name in names]
    total = {name: torch.zeros_like(p) for name, p in zip(names, parameters, strict=True)}
    for i in range(len(x)):
        grads = torch.autograd.grad(squares(model(x[[i, i]]), None)[0], parameters, allow_unused=True)
        for name, grad in zip(names, grads, strict=True):
            total[name] += 0 if grad is None else grad.square()
    largest = max(float(t.max()) for t in total.values())
    forget_(model)
    errors = {n: float((exact[n] - t).norm() / (t.norm() + 1e-9 * largest)) for n, t in total.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > 1e-8:
        return f"the scores of {worst} differ by {errors[worst]:.1e}", found
    return f"ok ({len(names)} tensors)", found


def measure(name: str, every_method: bool) -> dict[str, Any]:
    """One family's row."""
    model = create(name)
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):  # as `backbones.create` does
            module.qkv_bias_separate = True
    x = example_for(name, model, SIZES)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, *x.shape[-2:])}
    anatomy = describe(model)
    row: dict[str, Any] = {"size": x.shape[-1], "anatomy": anatomy.family, "sites": len(anatomy.sites)}
    found, scores = scored(model, anatomy, x)
    wrappers = {PASS: found, "entries": tried(model, anatomy, x, lambda: entries(model, anatomy))}
    for kind in MODULES:
        wrappers[kind] = tried(model, anatomy, x, lambda kind=kind: everywhere(kind, model, anatomy))
    row["wrappers"] = wrappers
    if not every_method:
        return row
    methods = {}
    for kind, method in {**SELECTIONS, **MODULES}.items():
        methods[kind] = tried(model, anatomy, x, lambda m=method: planner.plan(model, anatomy, quiet(m())))
    budget = sum(p.numel() for p in model.parameters()) // 100
    for kind, settings in SPT.items():
        methods[kind] = (
            tried(model, anatomy, x, lambda s=settings: allocate(scores, anatomy, model, quiet(s), budget))
            if scores
            else found
        )
    depth = len(anatomy.blocks)
    search = Noah(depths=(max(1, depth // 2), max(1, depth)))
    methods["noah"] = tried(
        model, anatomy, x, lambda: noah.plan(model, anatomy, noah.full(anatomy, search)), whole=False
    )
    return row | {"methods": methods}


def works(sentence: str) -> bool:
    """Whether the wrapper or method does what it promises here."""
    return sentence.startswith("ok")


def cell(sentence: str) -> str:
    """`yes`, `-` where it is refused with a sentence, or what is wrong."""
    return "yes" if works(sentence) else "-" if sentence.startswith("refused: ") else f"**no**: {sentence}"


def table(rows: dict[str, dict[str, Any]], part: str) -> str:
    """One line a family, one column a wrapper or method."""
    with_part = {family: row for family, row in sorted(rows.items()) if part in row}
    if not with_part:
        return ""
    kinds = list(next(iter(with_part.values()))[part])
    lines = ["| family | model | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 2) + "|"]
    for family, row in with_part.items():
        cells = [cell(row[part][kind]) for kind in kinds]
        lines.append(f"| {family} | {row['model']} | " + " | ".join(c.replace("|", "/") for c in cells) + " |")
    return "\n".join(lines)


def sentences(rows: dict[str, dict[str, Any]], part: str) -> str:
    """Every refusal, with how many families hear it."""
    heard: dict[str, list[str]] = {}
    for family, row in sorted(rows.items()):
        for sentence in row.get(part, {}).values():
            if not works(sentence):
                heard.setdefault(sentence.removeprefix("refused: "), []).append(family)
    order = sorted(heard, key=lambda s: -len(heard[s]))
    return "\n".join(f"- {len(heard[s])}x ({', '.join(sorted(set(heard[s]))[:4])}): {s}" for s in order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default="")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks/methods_on_families.jsonl"))
    parser.add_argument("--names", type=Path, default=Path("docs/benchmarks/prunability.jsonl"), help="which models")
    parser.add_argument("--limit", type=float, default=300, help="seconds for a family")
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
        name = models[family]
        measured = in_process(lambda name, all_=family in TWELVE: measure(name, all_), name, args.limit)
        rows[family] = {"family": family, "model": name, **measured}
        with args.results.open("a") as stream:
            stream.write(json.dumps(rows[family]) + "\n")
        print(json.dumps(rows[family]), file=sys.stderr, flush=True)
    done = {family: row for family, row in rows.items() if family in wanted}
    for part in ("wrappers", "methods"):
        print(table(done, part), sentences(done, part), sep="\n\n", end="\n\n")
    found = [s for row in done.values() for part in ("wrappers", "methods") for s in row.get(part, {}).values()]
    refused = sum(s.startswith("refused: ") for s in found)
    facts = {"families": len(done), "ok": sum(map(works, found)), "refused": refused}
    print(
        json.dumps(
            {**facts, "wrong": len(found) - facts["ok"] - refused, "failed": sum("cause" in r for r in done.values())}
        )
    )


if __name__ == "__main__":
    main()
