"""`tailor stitch DATA --models A,B,C`: train a palette, dozens of models of every size between the anchors, at once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tailor.errors import UsageError
from tailor.events import Tell
from tailor.recipe import recipe_of
from tailor.workflow.destination import Destination, weights_file
from tailor.workflow.names import parted
from tailor.workflow.palettes import INTERVALS, PaletteRequest, requested, usual
from tailor.workflow.records import Stitched
from tailor.workflow.telling import SHOWN, told


def stitch(
    data: str | Path,
    *,
    models: str | None = None,
    kind: Literal["routes", "nested"] = "routes",
    mode: Literal["esta", "uniform", "sn-net"] = "esta",
    intervals: int = INTERVALS,
    window: int = 2,
    ranks: str | None = None,
    ssb: str = "qkv,proj",
    samples: int = 100,
    longest: int = 256,
    packing: bool = False,
    base: str | Path | None = None,
    evaluate_routes: bool = False,
    out: str | Path = "runs/palette",
    weights: str = "pretrained",
    image_size: int | None = None,
    task: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    corrupt: Literal["skip", "fail"] = "skip",
    workers: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    progress: Tell | None = SHOWN,
) -> Stitched:
    """Adapt a family of backbones to data as one palette of routes, and say which route to deploy at which cost.

    A route runs one anchor's first blocks, a stitching layer, and the next anchor's last blocks. `pick` makes an
    ordinary model of one.

    Args:
        data: a folder, a CSV, `builtin/digits`, ...: see docs/data.md; for language models a `.json` of instructions.
        models: the anchors with commas, by name or as bundles: two or more sizes of one family.
        kind: `routes` through several anchors, or `nested` sizes of exactly one, whose units are ranked once.
        mode: of routes: `esta` trains low-rank updates, samples by importance and learns from the largest anchor;
            `uniform` draws every route alike; `sn-net` trains everything, one route a step.
        intervals: of cost, each of which deploys one route; of a nested palette the number of sizes.
        window: how far apart two blocks may be that are joined, in equally deep anchors.
        ranks: of the anchors' low-rank updates, with commas, the smallest anchor first (default: 8 for the largest,
            doubled for each smaller one).
        ssb: the layers where every route has a bias of its own: `qkv,proj`, the cheap `q,proj`, or `none`.
        samples: images that the stitching layers' start is solved on.
        longest: of instructions, the tokens of an example that are kept.
        packing: of instructions, short examples share a row.
        base: a folder for the stitching layers' start, made if it is not there, that several tasks may share.
        evaluate_routes: measure accuracy and milliseconds of every route at the end.
        out: the folder to write.
        weights: `pretrained`, or `random`.
        image_size: pixels a side, other than the backbones' own.
        task: what the head is for, where the data do not say it.
        epochs: passes over the training images.
        lr: peak learning rate.
        batch_size: images a step, over all processes.
        corrupt: what to do with images that cannot be read.
        workers: processes that decode images.
        device: `cpu`, `cuda`, `mps`; by default what Accelerate finds.
        resume: go on with an interrupted run.
        overwrite: replace what an earlier run left in `out`.
        seed: of everything random.
        recipe: further settings of the training, see docs/recipe.md.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.

    Raises:
        TailorError: one line and a hint, before anything is written where the request means nothing.
    """
    flags = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    asked = PaletteRequest(
        data=str(data),
        models=parted(models),
        kind=kind,
        mode=mode,
        intervals=intervals,
        window=window,
        ranks=_ranks(ranks),
        ssb=() if ssb == "none" else parted(ssb),
        samples=samples,
        longest=longest,
        packing=packing,
        base=None if base is None else Path(base),
        evaluate_routes=evaluate_routes,
        folder=Path(out),
        weights=weights,
        image_size=image_size,
        task=task,
        recipe=recipe_of({**usual(str(data)), **(recipe or {})}, seed, **flags),
        corrupt=corrupt,
        workers=workers,
        resume=resume,
    )
    wanted = Destination(out, overwrite, resume, (data, base, *asked.models, weights_file(weights)))
    wanted.check()
    with told(progress) as tell:
        from tailor.workflow.output import output
        from tailor.workflow.place import placed

        carry_out, request = requested(asked, tell)
        with placed(device), output(wanted, tell) as found:
            return found.settled(carry_out(replace(request, folder=found.folder)))  # type: ignore[no-any-return]


def _ranks(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"`--ranks {text}` are no whole numbers", hint="write for instance `--ranks 32,16,8`"
        ) from None
