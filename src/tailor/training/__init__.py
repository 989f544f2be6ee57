"""How trainable tensors are trained: recipe, engine, checkpoints, metrics. Knows nothing of data, plans or bundles."""

from tailor.recipe import Distil, Recipe, read_recipe, retraining
from tailor.training.engine import Result, TrainingProgress, fit
from tailor.training.features import Features, collect, head_only
from tailor.training.metrics import evaluate, evaluate_each
from tailor.training.objective import BatchLike, Share, Step, supervised
from tailor.training.optimizer import decayed, slowed
from tailor.training.processes import Interrupted, by_main, processes_here
from tailor.training.teacher import Teacher, remembered

__all__ = [
    "BatchLike",
    "Distil",
    "Features",
    "Interrupted",
    "Recipe",
    "Result",
    "Share",
    "Step",
    "Teacher",
    "TrainingProgress",
    "by_main",
    "collect",
    "decayed",
    "evaluate",
    "evaluate_each",
    "fit",
    "head_only",
    "processes_here",
    "read_recipe",
    "remembered",
    "retraining",
    "slowed",
    "supervised",
]
