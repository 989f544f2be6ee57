"""Run by `test_third.py` in a process of its own: a task of one class and one row, through every verb.

The row stands in the table before anything reads heads from JSON, as it would if the file lay in `tailor.tasks`.
"""

import importlib
import json
import sys
from pathlib import Path

from tailor.tasks import TASKS

TASKS.rows["side"] = "numbered.Side"


def main(root: Path) -> None:
    from numbered import listed

    import tailor

    importlib.import_module("tailor.workflow.prune").SECONDS = 0.1
    data = listed(root / "data")
    told = tailor.adapt(
        data.csv, task="side", model="tailor_mini_ti", method="lora-2", epochs=1, batch_size=8, lr=0.01, out=root / "a"
    )
    made = tailor.prune(
        root / "a", data=data.csv, method="isomorphic", criterion="l1", macs="80%", retrain="ft", epochs=1,
        batch_size=8, out=root / "b",
    )  # fmt: skip
    found = tailor.evaluate(root / "b", data.csv)
    one = tailor.predict(root / "b", data.image)[0]
    print(
        json.dumps(
            {
                "listed": tailor.list("tasks"),
                "told": told.values(),
                "pruned": made.values(),
                "evaluated": found.values(),
                "predicted": one.values(),
                "card": (root / "b" / "README.md").read_text(),
                "summary": tailor.load(root / "b").head.out_features,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
