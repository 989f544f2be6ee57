"""What a module's own code fixes: found by a trial cut, pinned and named.

The graph says what can be removed; the Python code around it may still hold a size that no attribute gives, such as
`C // heads` where only the heads shrink. A trial removes a random share of every group from a copy. Where the copy
fails or differs from the masked reference, the groups in that module's code are pinned, and the trial starts again.
It is made on an awakened copy, since a layer that a fresh start silences would agree whatever became of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property
from random import Random

from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from tailor.errors import ModelError
from tailor.inputs import Example
from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import Atom, leaves, pin
from tailor.tracing.graph.export import LIMIT, time_limit
from tailor.tracing.graph.groups import Groups
from tailor.tracing.graph.materialise import Recording, Unrecordable, record, template
from tailor.tracing.graph.parts import tie_parts
from tailor.tracing.graph.rules.call import Value
from tailor.tracing.graph.rules.shape import SHAPE
from tailor.tracing.graph.traced import Traced, read_groups
from tailor.tracing.trial.verify import Verdict, attempt, awakened, verify
from tailor.tracing.widths.cut import cut, cut_
from tailor.tracing.widths.planning import plan_widths

_ROUNDS = 24


def settle(
    model: nn.Module, traced: Traced, example: Example, *, record_modules: bool = True, limit: float = LIMIT
) -> Traced:
    """The groups that can be cut exactly: on the model's own classes, or with recorded modules where their code fails.

    A module whose code fixes a size is recorded (see `materialise`) if that is allowed and possible; otherwise its
    groups are pinned, with the module named. Works on a copy. Raises a `ModelError` where the model cannot be cut
    exactly whatever is pinned, or where finding out took longer than `limit` seconds.
    """
    with time_limit(limit, "the trial cut"):
        return _settled(model, traced, example, record_modules)


def _settled(model: nn.Module, traced: Traced, example: Example, record_modules: bool) -> Traced:
    tools = _Tools(model, example, traced.analysis, record_modules)
    awake = awakened(model)
    split = _free_splits(tools)
    for turn in range(_ROUNDS):
        if turn or split:
            traced = read_groups(model, traced.analysis, tools.recordings)
        failure = _sketch(model, example, traced) if turn and tools.sketches else None  # most pass the first trial
        verdict = failure or trial(awake, traced, example)
        if verdict.exact:
            return traced
        paths = _siblings(model, verdict.module)
        if not sum(_record(tools, path) for path in paths) and not sum(
            _pin_module(traced.analysis, traced.names, path, verdict.cause, not record_modules) for path in paths
        ):
            break
    raise ModelError(
        f"the model cannot be cut exactly: `{verdict.module or 'the model'}`: {verdict.cause}",
        hint="prune by layers instead: `tailor prune --method sls`",
    )


class _Tools:
    """What recording needs: a run of the dense model (without values where it can), and what was recorded so far."""

    def __init__(self, model: nn.Module, example: Example, analysis: Analysis, allowed: bool) -> None:
        self.model, self.example, self.analysis, self.allowed = model, example, analysis, allowed
        self.known: dict[type, ExportedProgram] = {}
        self.recordings: dict[str, Recording] = {}

    @cached_property
    def run(self) -> tuple[nn.Module, Example]:
        """The dense model and its input, on the meta device where the model runs there."""
        empty, example = _empty(self.model), tuple(x.to("meta") for x in self.example)
        return (empty, example) if attempt(empty, example)[1] is None else (self.model, self.example)

    @property
    def sketches(self) -> bool:
        return self.run[1][0].is_meta


def _free_splits(tools: _Tools) -> bool:
    """Modules whose splits cannot be tied are recorded; where that fails, the parts are pinned. Whether any splits."""
    ties, stuck = tie_parts(tools.model, tools.analysis)
    for path, dims in stuck.items():
        if not _record(tools, path):
            for dim in dims:
                pin(dim, f"parts that the code of `{path}` cuts by number")
    return bool(ties or stuck)


def _record(tools: _Tools, path: str) -> bool:
    """Record the module, or the nearest one around it that is not recorded yet. Containers run no code of their own."""
    while tools.allowed and path:
        kind = type(tools.model.get_submodule(path))
        if path not in tools.recordings and not kind.__module__.startswith("torch."):
            try:
                recording = record(*tools.run, tools.analysis, path, tools.known)
                template(recording, tools.analysis, {}, path)
            except Unrecordable:
                return False
            inner = [done for done in tools.recordings if done.startswith(f"{path}.")]
            for done in inner:
                del tools.recordings[done]
            tools.recordings[path] = recording
            return True
        path = path.rpartition(".")[0]
    return False


def trial(model: nn.Module, traced: Traced, example: Example, seed: int = 0) -> Verdict:
    """Remove about half of every group from a copy of the model, and compare."""
    plan = plan_widths(traced.groups, uneven(traced.groups, seed))
    return verify(model, cut(model, plan), traced, plan, example)


def half(groups: Groups, seed: int = 0) -> dict[str, list[int]]:
    """A random half of every group, at least one unit."""
    random = Random(seed)
    return {g.id: sorted(random.sample(range(g.size), g.size - g.size // 2)) for g in groups.groups}


def uneven(groups: Groups, seed: int = 0) -> dict[str, list[int]]:
    """Keep a random share of each group, ties respected: no width keeps a proportion that code may rely on."""
    random = Random(seed)
    counts = {g.id: random.randint(max(1, g.size // 4), max(1, g.size - 1)) for g in groups.groups}
    for tie in groups.ties:
        counts |= dict.fromkeys(tie, min(counts[name] for name in tie))
    return {g.id: sorted(random.sample(range(g.size), counts[g.id])) for g in groups.groups}


def _empty(model: nn.Module) -> nn.Module:
    """A copy without values, on the meta device."""
    memo: dict[int, object] = {}
    for tensor in dict.fromkeys((*model.parameters(), *model.buffers())):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def _sketch(model: nn.Module, example: Example, traced: Traced) -> Verdict | None:
    """The trial without values: the verdict where the cut model fails on shapes, None where it runs."""
    sketch = cut_(_empty(model), plan_widths(traced.groups, uneven(traced.groups)))
    return attempt(sketch, tuple(x.to("meta") for x in example))[1]


def _siblings(model: nn.Module, path: str) -> list[str]:
    """The failing module and the others of its class: they run the same code. Classes of torch itself say nothing."""
    kind = type(model.get_submodule(path))
    if kind.__module__.startswith("torch."):
        return [path]
    return [other for other, module in model.named_modules() if type(module) is kind]


def _pin_module(analysis: Analysis, names: Iterable[Atom], path: str, cause: str, sizes: bool = False) -> bool:
    """Pin what a module's code fixes: first what it reshapes, then all it touches, then all inside it.

    With `sizes` its head dims go before all: code with one size for queries and values may take any number of heads.
    """
    free = {atom for atom in names if not atom.pins}
    nodes = [node for node in analysis.program.graph.nodes if node.op == "call_function"]
    own = [node for node in nodes if module_path(node).split("@")[0] == path]
    shaped = [node for node in own if operator_name(node) in SHAPE]
    inside = [node for node in nodes if module_path(node).startswith(f"{path}." if path else "")]
    dims = {
        atom for node in (*own, *inside) for atom in _atoms(analysis, node) if atom.tags & {"head dim", "value dim"}
    }
    touched = ({atom for node in tier for atom in _atoms(analysis, node)} for tier in (shaped, own, inside))
    for tier in (dims, *touched) if sizes else touched:
        found = tier & free
        for atom in found:
            atom.pin(f"the code of `{path or 'the model'}` fixes its size ({cause})")
        if found:
            return True
    return False


def _atoms(analysis: Analysis, node: Node) -> Iterator[Atom]:
    for source in (node, *node.all_input_nodes):
        value = analysis.values.get(source)
        for item in value if isinstance(value, list) else [value]:
            for dim in item.dims if isinstance(item, Value) else ():
                yield from leaves(dim)
