"""How many files of tailor a command enters: those of which at least one function runs after the imports.

`python -m benchmarks.files_entered` prints a line a command. Tracing is by `sys.setprofile`, threads included. Every
command runs once before it is traced: tables load late, and a class body that an import runs is nothing that one reads.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tailor

ROOT = Path(tailor.__file__).parent


def entered(call: Callable[[], Any]) -> list[str]:
    """The files, relative to the package, that the call enters."""
    found: set[str] = set()

    def see(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            found.add(frame.f_code.co_filename)

    sys.setprofile(see)
    threading.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return sorted(str(Path(f).relative_to(ROOT)) for f in found if f.startswith(str(ROOT)))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        short: dict[str, Any] = {"model": "tailor_mini_ti", "method": "lora", "epochs": 1, "batch_size": 64}
        cut: dict[str, Any] = {"method": "isomorphic", "macs": "50%", "criterion": "l1"}
        here = Path(folder)
        commands: dict[str, Callable[[str], Any]] = {
            "adapt --method lora": lambda out: tailor.adapt("builtin/digits", out=here / f"a{out}", **short),
            "prune --method isomorphic": lambda out: tailor.prune(here / "a", out=here / f"b{out}", **cut),
        }
        for name, call in commands.items():
            call("")
            files = entered(partial(call, "-again"))
            print(json.dumps({"benchmark": "files entered", "command": name, "files": len(files), "names": files}))


if __name__ == "__main__":
    main()
