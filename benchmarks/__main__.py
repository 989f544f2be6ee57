"""`make bench`: every benchmark in turn. Name some to run only those: `python -m benchmarks storage step`."""

import importlib
import sys

ALL = ("sensitivity", "step", "storage", "quality", "thesis")


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
