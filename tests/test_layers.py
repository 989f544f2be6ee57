"""Imports run down only: the picture in docs/architecture.md, held against the code."""

import ast
from pathlib import Path

import pytest

import tailor

ROOT = Path(tailor.__file__).parent
LAYERS = (
    ("errors", "events", "visible"),
    ("settings", "strangers", "run_folder", "recipe", "hub"),
    ("inputs", "anatomy", "surgery", "preprocessing"),
    ("criteria", "backbones", "tracing", "budget", "recipes", "ridge", "layer_rows"),
    ("tuning", "pruning", "dense"),
    ("stitching",),  # tunes its anchors as anything else is tuned
    ("tasks",),
    ("plans",),
    ("spec",),
    ("build",),
    ("palette",),
    ("bundle",),
    ("measure", "training", "data"),
    ("evidence", "deploy"),
    ("workflow",),
    ("verbs",),
    ("cli",),
)
"""Lowest first. Packages of one layer do not import each other, but for the small core's own files."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
CORE = {"inputs", "anatomy", "surgery", "preprocessing"}
TIMM_MODELS = {"backbones"}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p.name != "__main__.py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(path):
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down(path):
    own = unit(path)
    if own == "__init__":
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "tailor" or len(parts) < 2 or parts[1] not in RANK or parts[1] == own:
            continue
        down = RANK[parts[1]] < RANK[own] or (parts[1] in CORE and own in CORE)
        assert down, f"{own} imports {name}, which is not below it"


def named(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def edges():
    """Which files each file imports, inside functions too; `from package import file` is that file."""
    known = {named(path) for path in modules()}
    found = {}
    for path in modules():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in known else node.module for name in inner.values()}
        found[named(path)] = (names & known) - {named(path)}
    return found


def circle(edges):
    """A circle of the graph, or nothing: leaves are taken off until only circles and what leads to them is left."""
    left = dict(edges)
    while leaves := {name for name, to in left.items() if not to & left.keys()}:
        left = {name: to for name, to in left.items() if name not in leaves}
    way = [min(left)] if left else []
    while way and way[-1] not in way[:-1]:
        way.append(min(left[way[-1]] & left.keys()))
    return way[way.index(way[-1]) :] if way else []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_files_import_in_no_circle():
    assert not (way := circle(edges())), " -> ".join(way)


@pytest.mark.parametrize("folder", ["planners", "race"])
def test_what_a_folder_of_the_workflow_stands_on_does_not_ask_for_it(folder):
    found, root = edges(), f"tailor.workflow.{folder}"
    todo = [name for name in found if name.startswith(root)]
    below = set(todo)
    while todo:
        new = found[todo.pop()] - below
        below |= new
        todo += new
    asks = {name: to for name in below if not name.startswith(root) for to in found[name] if to.startswith(root)}
    assert not asks, f"`{folder}` stands on these, which import it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_backbones_know_timms_models(path):
    names = {n for n in imported(path) if n.startswith("timm.models")}
    assert not names or unit(path) in TIMM_MODELS, f"{path} imports {names}"


def test_every_package_has_a_place():
    units = {unit(p) for p in modules()} - {"__init__"}
    assert units <= RANK.keys()


def test_importing_tailor_imports_nothing_heavy():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    names = {
        n.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for n in [a.name for a in node.names]
    }
    assert names <= {"importlib"}


@pytest.mark.parametrize("path", sorted((ROOT / "verbs").glob("*.py")), ids=lambda p: p.name)
def test_a_verb_only_understands_calls_and_returns(path):
    assert len(path.read_text().splitlines()) < 150, "what it does lives in workflow/"


def test_a_name_of_a_class_or_a_type_has_one_meaning():
    where = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in [node.name] if isinstance(node, ast.ClassDef) else names:
                if name[0].isupper() and not name.isupper():
                    where.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert not {name: sorted(paths) for name, paths in where.items() if len(paths) > 1}
