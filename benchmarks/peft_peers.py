"""peft's data-driven LoRAs, trained by tailor's engine with the recipe of the other rows: EVA and AdaLoRA.

EVA (Paischer et al. 2024): starts from the activations' singular vectors and moves ranks to where they explain most
(rho 2). AdaLoRA (Zhang et al. 2023): starts with more ranks than allowed and drops the least important by and by; an
epoch counts only once the budget is reached. Both on every qkv, at the rank that the budget allows LoRA.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality import TASKS
from benchmarks.rows import Row
from tailor import backbones
from tailor.build import Opened
from tailor.events import silent
from tailor.recipe import recipe_of
from tailor.surgery import trainable
from tailor.tasks import task_for, task_of
from tailor.training import Recipe
from tailor.tuning import planner
from tailor.workflow.batches import Course, on_images, train_
from tailor.workflow.budgets import allowed, backbone_parameters
from tailor.workflow.context import Run
from tailor.workflow.data import divided, in_order, open_checked, score
from tailor.workflow.opened import with_head

MODEL, SITES = "tailor_mini_ti", ["qkv"]
START, WARM, EVERY, ORTHOGONAL = 1.5, 0.1, 10, 0.5
"""AdaLoRA: ranks at the start over those at the end, updates before it drops any (as a share), updates between two
drops, weight of the penalty that keeps its factors orthogonal."""


class AdaLora:
    """Goes along with a run: after every update it may drop ranks; until `reached`, the run is above the budget."""

    def __init__(self, wrapped: Any, reached: int) -> None:
        self.wrapped, self.reached, self.done = wrapped, reached, 0

    def before(self, update: int) -> None:
        """Nothing."""

    def after(self, update: int) -> None:
        """Drop what the schedule says; the gradients of the update are still there."""
        self.wrapped.base_model.update_and_allocate(update)
        self.done = update

    def state(self) -> dict[str, Tensor]:
        """Nothing: such a run is not resumed."""
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


Made = tuple[Any, AdaLora | None]


@dataclass(frozen=True)
class Peer:
    """A method of peft: what the table calls it, and how to put it on a model, given its rank and the run."""

    label: str
    wrap: Callable[[Opened, int, Run], Made]


def eva(opened: Opened, rank: int, run: Run) -> Made:
    """LoRA begun from the training images' activations."""
    from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights

    config = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.1, target_modules=SITES, init_lora_weights="eva",
        eva_config=EvaConfig(rho=2.0, adjust_scaling_factors=True),
    )  # fmt: skip
    wrapped = get_peft_model(opened.model, config, low_cpu_mem_usage=True)
    images = [b.images for b in in_order(run.images.splits["train"], opened.spec.preprocessing, opened.spec.head)]
    initialize_lora_eva_weights(
        wrapped, images, forward_fn=lambda model, x: model(x), prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None, show_progress_bar=False,
    )  # fmt: skip
    return wrapped, None


def adalora(opened: Opened, rank: int, run: Run) -> Made:
    """Half as many ranks again, of which those that matter least are dropped during the first half of the run."""
    from peft import AdaLoraConfig, get_peft_model

    steps = run.recipe.epochs * -(-len(run.images.splits["train"]) // run.recipe.batch_size)
    start, final = int(START * rank), steps // 2
    config = AdaLoraConfig(
        init_r=start, target_r=rank, lora_alpha=start, lora_dropout=0.1, tinit=int(WARM * steps), tfinal=final,
        deltaT=EVERY, total_step=steps, orth_reg_weight=ORTHOGONAL, target_modules=SITES,
    )  # fmt: skip
    wrapped = get_peft_model(opened.model, config)
    return wrapped, AdaLora(wrapped, steps - final)


PEERS = {"lora-eva": Peer("LoRA by EVA (peft)", eva), "adalora": Peer("AdaLoRA (peft)", adalora)}


def by_peft(task: str, method: str, seed: int, args: argparse.Namespace) -> Row:
    """One run with a method of peft: the head trains too, as everywhere."""
    began = time.monotonic()
    torch.manual_seed(seed)  # peft draws from the default generator
    every = max(1, args.epochs // 4)
    recipe = recipe_of({"evaluate_every": every, "checkpoint_every": args.epochs}, seed, epochs=args.epochs)
    images = divided(open_checked(TASKS[task], seed=seed, corrupt="skip", tell=silent), seed, silent)
    opened = with_head(MODEL, "pretrained", None, images, task_for(images.kind, None), recipe)
    whole, rank = backbone_parameters(opened), rank_of(opened, args.budget)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(images, TASKS[task], recipe, Path(folder), silent)
        wrapped, companion = PEERS[method].wrap(opened, rank, run)
        ready_(opened, recipe)
        course = watched(on_images(opened.model, opened.spec, run), companion)
        found = train_(
            course, run, task_of(opened.spec.head), validate=course.validate, step=stepping(opened, companion),
            companion=companion,
        )  # fmt: skip
    figures = score(opened.model, opened.spec.head, images.splits["test"], opened.spec.preprocessing)
    trained = kept(wrapped, opened)
    return {
        "val": found.metrics["accuracy"],
        "test": figures["accuracy"],
        "trained": trained,
        "percent": 100 * trained / whole,
        "seconds": round(time.monotonic() - began, 1),
        "digest": opened.spec.backbone.digest,
    }


def rank_of(opened: Opened, budget: str) -> int:
    """The rank at which LoRA on every qkv keeps the budget."""
    plan = planner.plan(opened.model, opened.anatomy, planner.parse("lora"), allowed(opened, budget))
    return plan.tunes[0].method.rank  # type: ignore[attr-defined, no-any-return]


def ready_(opened: Opened, recipe: Recipe) -> None:
    """What peft put in trains, and the head."""
    heads = tuple(f"{head}." for head in opened.anatomy.heads)
    for name, parameter in opened.model.named_parameters():
        parameter.requires_grad_(name.startswith(heads) or (".lora_" in name and parameter.is_floating_point()))
    for name, parameter in opened.model.named_parameters():
        if "ranknum" in name:
            parameter.requires_grad_(False)
    backbones.set_drop_path_(opened.model, recipe.drop_path)


def watched(course: Course, companion: AdaLora | None) -> Course:
    """The course; an epoch before the budget is reached counts as worse than any, so that it is not chosen."""
    if companion is None:
        return course

    def validate(model: nn.Module) -> Mapping[str, float]:
        found = course.validate(model)
        return found if companion.done > companion.reached else dict.fromkeys(found, -1.0)

    return Course(course.module, course.batches, validate)


def stepping(opened: Opened, companion: AdaLora | None) -> Any:
    """The task's mean loss, for AdaLoRA with its penalty."""
    return partial(penalised, task_of(opened.spec.head).loss) if companion else None


def penalised(loss: Any, model: nn.Module, share: Any) -> Tensor:
    """|| P P^T - 1 || of every factor, as AdaLoRA's forward adds it where a model returns a loss."""
    terms = []
    for name, p in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            terms.append((gram - torch.eye(len(gram))).norm(p="fro"))
    return loss(model(share.images), share.targets).mean() + ORTHOGONAL * torch.stack(terms).mean()  # type: ignore[no-any-return]


def kept(wrapped: Any, opened: Opened) -> int:
    """Trained weights without the head; of AdaLoRA those of the ranks that are left."""
    heads = tuple(f"{head}." for head in opened.anatomy.heads)
    everything = {n: p for n, p in trainable(opened.model).items() if not n.startswith(heads)}
    total = 0
    for name, p in everything.items():
        if "lora_E" in name:
            left = int((p != 0).sum())
            pair = [everything[name.replace("lora_E", other)] for other in ("lora_A", "lora_B")]
            total += left * (1 + pair[0].shape[1] + pair[1].shape[0])
    return total or sum(p.numel() for p in everything.values())
