"""Widths for the verb `prune`: trace the merged model, score its units, choose what stays, check that it is exact."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tailor import budget as budgets
from tailor.data.images import ImageData
from tailor.errors import ModelError, UsageError
from tailor.events import Event, Report
from tailor.pruning.blocks import check_blocks
from tailor.pruning.settings import Part, Shares, Widths
from tailor.pruning.target import NothingToGo
from tailor.pruning.width import kept
from tailor.spec import Spec
from tailor.tracing import Groups, Traced, WidthPlan, as_published, awakened, cut, plan_widths, settle, trace, verify
from tailor.tuning.apply import merges
from tailor.verbs.beside import Adapters, as_merged, folded, narrowed, trace_beside
from tailor.verbs.configured import configured
from tailor.verbs.dense import Dense, with_layers
from tailor.verbs.reaching import Scored, counts_for
from tailor.verbs.scoring import Scoring, choose_blocks, score_units


@dataclass(frozen=True)
class Goal:
    """What was asked for: shares that go (`50%`), of all parts alike or by part, or an amount that may remain."""

    ratio: str | None = None
    emb: str | None = None
    heads: str | None = None
    dim: str | None = None
    mlp: str | None = None
    macs: str | None = None
    params: str | None = None
    latency: str | None = None

    def given(self) -> dict[str, float]:
        """The shares that were given, by the name of the part."""
        flags = {"embedding": "emb", "heads": "heads", "head_dim": "dim", "hidden": "mlp"}
        found = {}
        for part, flag in flags.items():
            text = getattr(self, flag)
            if text is not None:
                found[part] = _share(flag, text)
        return found

    def shares(self, parts: Iterable[str]) -> dict[str, float]:
        """The share of every part that loses a given one: the `ratio` of all `parts`, but those with their own."""
        ratio = {} if self.ratio is None else dict.fromkeys(parts, _share("ratio", self.ratio))
        return ratio | self.given()

    def target(self) -> tuple[str, budgets.Amount] | None:
        """The one amount that may remain, None where none is named; UsageError for two, or for a wrong unit."""
        shares = self.shares(get_args(Part))
        Shares(**shares)  # refuses what is out of range
        named = [(flag, text) for flag in ("macs", "params", "latency") if (text := getattr(self, flag)) is not None]
        if len(named) > 1:
            raise UsageError(f"`--{named[0][0]}` and `--{named[1][0]}` are two targets", hint="leave one of them out")
        if not named:
            if not any(shares.values()):
                raise UsageError("nothing says how much is to go", hint="add `--macs 50%`, or `--ratio 50%`")
            return None
        if self.ratio is not None:
            raise UsageError(f"`--ratio` and `--{named[0][0]}` both say how much goes", hint="leave one of them out")
        flag, text = named[0]
        amount = budgets.parse(text, f"--{flag}")
        if (amount.unit == "ms") != (flag == "latency") and amount.unit != "share":
            raise UsageError(
                f"`--{flag} {text}` has the wrong unit", hint="write `--macs 2G`, `--latency 5ms` or `50%`"
            )
        return flag, amount


def _share(flag: str, text: str) -> float:
    """The number of a share, as a flag gives it: `0%` leaves a part alone."""
    amount = budgets.parse(text, f"--{flag}", zero=True)
    if amount.unit != "share":
        raise UsageError(f"`--{flag} {text}` is not a share", hint=f"write `--{flag} 50%`")
    return amount.value


def narrower(
    dense: Dense,
    images: ImageData | None,
    method: str,
    criterion: str | None,
    goal: Goal,
    given_widths: Mapping[str, Any] | None,
    samples: int,
    seed: int,
    report: Report,
    adapters: Adapters,
    whole: Mapping[str, int],
) -> tuple[Spec, WidthPlan, str]:
    """The spec of the model with its width plan, the cut in the model's own names, and a line that says what it is.

    `whole` as in `Scored`. NothingToGo where no unit would be removed.
    With `merge` the model has been merged; with `keep` and `prune` its tunes stand beside its layers.
    """
    criterion = "random" if method == "random" else criterion or ("l1" if images is None else "taylor")
    settings = settings_of(method, given_widths, adapters)
    target, given = goal.target(), goal.shares(settings.parts)
    check_blocks(settings.blocks, [block.path for block in dense.anatomy.blocks])
    beside = adapters != "merge"
    if beside:
        dense = dataclasses.replace(dense, model=folded(dense.model))
    size = (3, *dense.spec.preprocessing.size)
    example = torch.randn(2, *size, generator=torch.Generator().manual_seed(seed))
    report(Event("tracing", text="which widths shrink together"))
    traced = _traced(dense, example, settings, adapters)
    scoring = Scoring(criterion, images, samples, seed, report)
    scores = score_units(dense, traced.groups, scoring, settings, adapters)
    scored = Scored(dense.model, traced, scores.units, settings, size, whole=whole)
    if beside and all(merges(tuning) for tuning in dense.spec.tuning):
        scored = dataclasses.replace(scored, **as_merged(dense.spec))
    counts = counts_for(scored, given, target, report)
    plan = plan_widths(traced.groups, kept(traced.groups, scores.units, counts))
    if not plan.cuts:
        raise NothingToGo("nothing is left to go: every width is pinned or already at its least", hint="ask for more")
    _check(dense.model, traced, plan, example)
    spec = narrowed(dense.spec, plan) if beside else dataclasses.replace(dense.spec, plans=(*dense.spec.plans, plan))
    why = f"{method} by {criterion}: {_line(traced.groups, plan)}"
    if not settings.blocks:
        return spec, plan, why
    layers = choose_blocks(dense, plan, scores.elements, settings.blocks, example, seed)
    return with_layers(dataclasses.replace(dense, spec=spec), layers), plan, f"{why}; {layers.facts['reason']}"


def _traced(dense: Dense, example: Tensor, settings: Widths, adapters: Adapters) -> Traced:
    """What can be cut exactly, in the classes that the settings ask for."""
    if adapters == "merge":
        traced = settle(dense.model, trace(dense.model, example), example)
    else:
        traced = trace_beside(dense.model, dense.spec, dense.anatomy.heads, example, adapters)
    return dataclasses.replace(traced, groups=as_published(traced)) if settings.strict == "paper" else traced


def settings_of(method: str, given: Mapping[str, Any] | None, adapters: Adapters = "merge") -> Widths:
    """How the method chooses units, with what the `widths:` section of a file says.

    A target leaves the embedding alone where the tunes are kept: they read and write it.
    """
    default = Widths("isomorphic" if method == "random" else method)
    if adapters == "keep":
        default = dataclasses.replace(default, parts=tuple(part for part in default.parts if part != "embedding"))
    settings = configured(default, given or {}, "`widths:`", "docs/methods/width.md", closed=("ranking",))
    if settings.blocks and adapters != "merge":
        raise UsageError(f"`blocks` and `--adapters {adapters}` do not go together", hint="use `--adapters merge`")
    return settings


def _check(model: nn.Module, traced: Traced, plan: WidthPlan, example: Tensor) -> None:
    """The cut model computes what the dense one does without the removed units; ModelError where it does not."""
    awake = awakened(model)
    verdict = verify(awake, cut(awake, plan), traced, plan, example)
    if not verdict.exact:
        raise ModelError(
            f"the cut is not exact at `{verdict.module}`: {verdict.cause} (error {verdict.error:.1e})",
            hint="use `--method sls`, and report the model's name",
        )


def _line(groups: Groups, plan: WidthPlan) -> str:
    """`embedding 96 -> 48, hidden 384 -> 200 (mean of 12)`."""
    labels: dict[str, list[tuple[int, int]]] = {}
    for group in plan.cuts:
        labels.setdefault(groups[group.group].label, []).append((group.size, len(group.keep)))
    parts = []
    for label, sizes in labels.items():
        whole, kept = (sum(column) / len(sizes) for column in zip(*sizes))
        parts.append(f"{label} {whole:.4g} -> {kept:.4g}" + (f" (mean of {len(sizes)})" if len(sizes) > 1 else ""))
    return ", ".join(parts)
