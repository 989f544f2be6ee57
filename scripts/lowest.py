"""The oldest versions that pyproject.toml allows, as a constraints file on stdout: `name>=1.2` becomes `name==1.2`.

`make lowest` installs them and runs a part of the tests, so that a lower bound is one that was tried.
"""

import re
import tomllib
from pathlib import Path


def lowest(project: dict) -> list[str]:
    """One line a dependency of the package and its extras, sorted; the highest bound where several name one package."""
    extras = [needs for extra in project.get("optional-dependencies", {}).values() for needs in extra]
    bounds: dict[str, str] = {}
    for needs in [*project["dependencies"], *extras]:
        found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", needs)
        if found:
            name, version = found.groups()
            bounds[name] = max(version, bounds.get(name, version), key=lambda v: [int(part) for part in v.split(".")])
    return [f"{name}=={version}" for name, version in sorted(bounds.items())]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"])))
