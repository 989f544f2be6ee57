"""Rows of resumable benchmarks: JSON lines in a store, each with a key that says which run it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tailor.errors import TailorError
from tailor.training import Interrupted

Row = dict[str, Any]


class Rows:
    """What is in a store; `get` runs and appends what is not there yet, with a line of progress."""

    def __init__(self, store: Path) -> None:
        self.store = store
        store.parent.mkdir(parents=True, exist_ok=True)
        lines = store.read_text().splitlines() if store.is_file() else []
        self.known: dict[str, Row] = {row["key"]: row for row in map(json.loads, lines)}

    def get(self, key: str, make: Callable[[], Row]) -> Row:
        """The row of that key. An error that a user could meet is a row too: it holds the sentence."""
        if key not in self.known:
            try:
                row = {"key": key, **make()}
            except Interrupted:  # no result: the row is made when the benchmark is run again
                raise
            except TailorError as error:
                row = {"key": key, "error": error.message}
            self.known[key] = row
            with self.store.open("a") as file:
                file.write(json.dumps(row) + "\n")
            shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "key"}
            print(f"{key}: {shown}", flush=True)
        return self.known[key]
