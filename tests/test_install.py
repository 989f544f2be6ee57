"""A wheel is a whole product: it holds the bundled backbones and recipes, and works where no checkout is."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from fnmatch import fnmatchcase
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import tailor

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def files_of_the_package() -> set[str]:
    files = (path for path in (ROOT / "src/tailor").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT / "src")) for path in files}


def name_of(needs: str) -> str:
    """`mkdocstrings[python]>=1.0` -> `mkdocstrings`."""
    return re.split(r"[\[>=<]", needs)[0].lower().replace("_", "-")


def run(*command: str | Path, folder: Path) -> str:
    """What the command prints; nothing of the checkout is on its path."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, made from a copy of what a source release holds, so that no build leaves anything in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src/tailor", source / "src/tailor", ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source, folder=out)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel; the dependencies are those of the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, wheel, folder=folder)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_every_file_of_the_package_is_code_or_declared_data():
    patterns = [f"tailor/{pattern}" for pattern in PROJECT["tool"]["setuptools"]["package-data"]["tailor"]]
    data = {name for name in files_of_the_package() if not name.endswith(".py")}
    assert {name for name in data if not any(fnmatchcase(name, pattern) for pattern in patterns)} == set()


def test_extras_that_name_the_distribution_name_this_one():
    name, extras = PROJECT["project"]["name"], PROJECT["project"]["optional-dependencies"]
    own = [needs for extra in extras.values() for needs in extra if needs.startswith("tailor")]
    assert own and all(needs.partition("[")[0] == name and needs[len(name) + 1 : -1] in extras for needs in own)


def test_every_direct_dependency_is_pinned():
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    wanted = {name_of(needs) for needs in PROJECT["project"]["dependencies"]}
    wanted |= {name_of(needs) for extra in PROJECT["project"]["optional-dependencies"].values() for needs in extra}
    assert wanted - pins - {PROJECT["project"]["name"]} == set()


def imported(path: Path) -> set[str]:
    """Top-level names of all that the file imports, inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"tailor"}


def test_every_import_is_a_declared_dependency():
    """Of the package, or of an extra that is there to be used: not only of those for tests, benchmarks and pages."""
    extras = PROJECT["project"]["optional-dependencies"]
    declared = {name_of(needs) for needs in PROJECT["project"]["dependencies"]}
    declared |= {name_of(needs) for extra in extras.keys() - {"dev", "bench", "docs"} for needs in extras[extra]}
    declared.add("protobuf")  # onnx brings it
    owners = {name: {d.lower().replace("_", "-") for d in found} for name, found in packages_distributions().items()}
    for path in (ROOT / "src/tailor").rglob("*.py"):
        undeclared = {name for name in imported(path) if not owners.get(name, {name}) & declared}
        assert not undeclared, f"{path.relative_to(ROOT)}: {sorted(undeclared)}"


@pytest.mark.slow
def test_the_wheel_holds_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.startswith("tailor/")} == files_of_the_package()


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(environment, tmp_path):
    command, python = environment / "bin/tailor", environment / "bin/python"
    where = run(python, "-c", "import tailor; print(tailor.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    assert run(command, "--version", folder=tmp_path).split()[-1] == tailor.__version__
    version = "from importlib.metadata import version; print(version('tailor-models'))"
    assert run(python, "-c", version, folder=tmp_path).strip() == tailor.__version__
    listed = run(python, "-c", "from tailor import recipes; print(*recipes.names())", folder=tmp_path).split()
    assert "isomorphic/deit-4.2g" in listed
    adapt = ("adapt", "builtin/digits", "--model", "tailor_mini_ti", "--epochs", "1", "--json", "-o", "runs/digits")
    made = json.loads(run(command, *adapt, folder=tmp_path).splitlines()[-1])
    said = json.loads(
        run(command, "evaluate", "runs/digits", "builtin/digits", "--json", folder=tmp_path).splitlines()[-1]
    )
    assert said["accuracy"] == pytest.approx(made["accuracy"])
