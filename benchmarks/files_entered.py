"""How many files of tailor a command enters: those of which at least one function runs after the imports.

`python -m benchmarks.files_entered` prints a line a command. Tracing is by `sys.setprofile`, threads included.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Callable
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
        short = {"epochs": 1, "batch_size": 64}
        out = Path(folder) / "a"
        tailor.adapt("builtin/digits", model="tailor_mini_ti", method="linear", out=Path(folder) / "warm", **short)
        commands = {
            "adapt --method lora": lambda: tailor.adapt(
                "builtin/digits", model="tailor_mini_ti", method="lora", out=out, **short
            ),
            "prune --method isomorphic": lambda: tailor.prune(
                str(out), method="isomorphic", macs="50%", criterion="l1", out=Path(folder) / "b"
            ),
        }
        for name, call in commands.items():
            files = entered(call)
            print(json.dumps({"benchmark": "files entered", "command": name, "files": len(files), "names": files}))


if __name__ == "__main__":
    main()
