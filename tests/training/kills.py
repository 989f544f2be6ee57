"""Run by `test_resume.py`: trains in forked children that are killed (SIGKILL) at every point where a file is touched,
and at random moments, resumes, and prints for each whether it ended bit for bit as an undisturbed run.

Forked, so that torch is imported once; and in a process of its own, so that pytest's threads do not get in the way.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import toys
from safetensors.torch import save_file

from tailor.training import Recipe, checkpoint, fit

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    lr=0.02,
    ema=0.9,
    mixup=0.3,
    cutmix=1.0,
    clip_norm=1.0,
    label_smoothing=0.1,
    checkpoint_steps=3,
)
LONG = replace(RECIPE, epochs=12)


def train(run: Path, recipe: Recipe = RECIPE, resume: bool = True) -> None:
    data, model = toys.Data(), toys.model()
    torch.manual_seed(os.getpid())  # whatever the caller's generator holds must not matter
    fit(
        model,
        recipe,
        toys.TASK,
        batches=data,
        steps_per_epoch=data.steps,
        run=run,
        validate=toys.validator(data),
        resume=resume,
    )
    save_file(toys.everything(model), run / "final.safetensors")


def child(work) -> int:
    """The exit code of `work` in a fork; negative, the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killing(point: int, counter: Path | None = None):
    """Replace what touches files so that the `point`th touch kills the process; before it, in its middle, or after."""
    touched = 0

    def deadly(real, partly=None):
        def act(*args, **kwargs):
            nonlocal touched
            if counter:
                counter.write_text(str(touched + 3))
            for moment in ("before", "middle", "after"):
                touched += 1
                if touched > point:
                    if moment == "middle" and partly:
                        partly(*args)
                    if moment == "after":
                        real(*args, **kwargs)
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return act

    def half_file(tensors, path):
        real_save(tensors, path)
        os.truncate(path, os.path.getsize(path) // 2)

    real_save = checkpoint.save_file
    checkpoint.save_file = deadly(checkpoint.save_file, half_file)
    for name in ("replace", "fsync"):
        setattr(os, name, deadly(getattr(os, name)))


def outcome(run: Path, reference: Path, code: int, recipe: Recipe = RECIPE) -> str:
    """`same` where a killed run, resumed, equals the undisturbed one."""
    if code != -signal.SIGKILL:
        return f"was not killed: {code}"
    if (run / "final.safetensors").exists():
        return "was done before it was killed"
    if (code := child(lambda: train(run, recipe))) != 0:
        return f"did not resume: {code}"
    same = [
        (run / name).read_bytes() == (reference / name).read_bytes() for name in ("final.safetensors", "metrics.jsonl")
    ]
    left = [path.name for path in run.rglob("*.tmp")]
    return "same" if all(same) and not left else f"differs: {same} {left}"


def at_a_touch(root: Path, point: int) -> str:
    run = root / f"touch-{point}"

    def work():
        killing(point)
        train(run)

    return outcome(run, root / "reference", child(work))


def at_moments(root: Path, number: int) -> str:
    """Killed twice, somewhere in an epoch, validation or checkpoint after the first."""
    run, chance = root / f"moment-{number}", random.Random(number)
    for lines in (1 + number, 4 + number):
        pid = os.fork()
        if pid == 0:
            train(run, LONG)
            os._exit(0)
        log = run / "metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < lines:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return outcome(run, root / "long", code, LONG)


def main(root: Path, stride: int) -> None:
    assert child(lambda: train(root / "reference", resume=False)) == 0
    assert child(lambda: train(root / "long", LONG)) == 0
    counter = root / "touches"
    assert child(lambda: (killing(10**9, counter), train(root / "counted"))) == 0
    touches = int(counter.read_text())
    found = {f"touch {point} of {touches}": at_a_touch(root, point) for point in range(0, touches, stride)}
    found |= {f"moments {number}": at_moments(root, number) for number in range(3)}
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
