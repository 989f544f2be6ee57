"""The verbs: one public function each, the only place that joins data, plans, training and bundles."""

from collections.abc import Callable
from typing import Any

from tailor.verbs.adapt import adapt
from tailor.verbs.bench import bench
from tailor.verbs.evaluate import evaluate
from tailor.verbs.export import export
from tailor.verbs.fit import fit
from tailor.verbs.inspect import inspect
from tailor.verbs.merge import merge
from tailor.verbs.predict import predict
from tailor.verbs.prune import prune

VERBS: dict[str, Callable[..., Any]] = {
    "adapt": adapt,
    "fit": fit,
    "prune": prune,
    "evaluate": evaluate,
    "predict": predict,
    "inspect": inspect,
    "bench": bench,
    "merge": merge,
    "export": export,
}
"""Every verb by the name that the command line and `tailor.NAME` know."""

__all__ = ["VERBS", *VERBS]
