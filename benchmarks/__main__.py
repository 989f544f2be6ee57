"""`make bench`: every benchmark, quick ones first; long ones are resumable. `python -m benchmarks step` runs one."""

import importlib
import sys

QUICK = ("sensitivity", "step", "storage", "tuning_cost", "published", "cut_time", "sls")
LONG = (
    "dense",
    "dense_ladder",
    "quality",
    "controls",
    "thesis",
    "small_nets",
    "widths",
    "recovery",
    "layers",
    "palette",
    "language",
    "spvit_cost",
    "spvit",
    "north_star",
)
ALL = (*QUICK, *LONG)


def main() -> None:
    """Run the named benchmarks, or all."""
    names = sys.argv[1:] or list(ALL)
    unknown = [n for n in names if n not in ALL]
    if unknown:
        sys.exit(f"unknown benchmark `{unknown[0]}`; known: {', '.join(ALL)}")
    for name in names:
        print(f"\n== {name}", flush=True)
        sys.argv = [name]
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
