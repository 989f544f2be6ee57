"""The verbs: one public function each, which understands what was asked and calls the workflow.

Importing them loads no torch: a wrong word is told at once.
"""

from collections.abc import Callable
from typing import Any

from tailor.verbs.adapt import adapt
from tailor.verbs.bench import bench
from tailor.verbs.evaluate import evaluate
from tailor.verbs.export import export
from tailor.verbs.fit import fit
from tailor.verbs.inspect import inspect
from tailor.verbs.list import list as list_
from tailor.verbs.merge import merge
from tailor.verbs.pick import pick
from tailor.verbs.predict import predict
from tailor.verbs.prune import prune
from tailor.verbs.report import report
from tailor.verbs.stitch import stitch

VERBS: dict[str, Callable[..., Any]] = {
    "adapt": adapt,
    "fit": fit,
    "prune": prune,
    "stitch": stitch,
    "pick": pick,
    "evaluate": evaluate,
    "predict": predict,
    "inspect": inspect,
    "report": report,
    "bench": bench,
    "merge": merge,
    "export": export,
    "list": list_,
}
"""Every verb by the name that the command line and `tailor.NAME` know."""

__all__ = ["VERBS", *VERBS]
