"""tailor fits a large pre-trained model to your data and your hardware.

Every command is a function here: `tailor.adapt(...)`, `tailor.evaluate(...)`, `tailor.load(path)`. They are imported
when first used, so that importing tailor does nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_READY = ("load", "Predictor")
_VERBS = (
    "adapt",
    "bench",
    "evaluate",
    "export",
    "fit",
    "inspect",
    "list",
    "merge",
    "pick",
    "predict",
    "prune",
    "report",
    "stitch",
)


def __getattr__(name: str) -> Any:
    if name in _READY:
        return getattr(importlib.import_module("tailor.deploy.predictor"), name)
    if name in _VERBS:
        return importlib.import_module("tailor.verbs").VERBS[name]
    raise AttributeError(f"module `tailor` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*_VERBS, *_READY, "__version__"])
