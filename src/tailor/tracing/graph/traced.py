"""The public entry: trace a model, and get its groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import nn

from tailor.inputs import Example
from tailor.tracing.graph.analyse import Analysis, analyse
from tailor.tracing.graph.attributes import find_attributes
from tailor.tracing.graph.axes import Atom
from tailor.tracing.graph.export import export_graph, time_limit
from tailor.tracing.graph.groups import Groups, build_groups, free_atoms, name_atoms, pinned_dims, spell
from tailor.tracing.graph.labels import tag_attention
from tailor.tracing.graph.materialise import Recording, template
from tailor.tracing.graph.parts import tie_parts
from tailor.tracing.graph.scale import find_carriers, spell_carriers


@dataclass(frozen=True, eq=False)
class Traced:
    """A model's groups, and the graph they were read from (for the masked reference)."""

    groups: Groups
    analysis: Analysis
    names: Mapping[Atom, str]
    recordings: Mapping[str, Recording] = field(default_factory=dict)


def trace(model: nn.Module, example: Example, *, ignore: Collection[str] = (), limit: float = 180.0) -> Traced:
    """The groups of axes that must shrink together, from the graph of `model` on `example` (2 samples or more).

    The model is left as it is. `ignore` names modules or tensors of which nothing is to go. A `ModelError` says why a
    model cannot be traced, or that it took longer than `limit` seconds.
    """
    program = export_graph(model, example, limit)
    with time_limit(limit, "the analysis of the graph"):
        analysis = analyse(program, ignore)
        tag_attention(analysis)
        return read_groups(model, analysis)


def read_groups(model: nn.Module, analysis: Analysis, recordings: Mapping[str, Recording] | None = None) -> Traced:
    """The groups that an analysis leaves free. With `recordings` (maybe none), what the code's splits ask is added.

    What lies on constants of the code alone, as the bands of a rotary position embedding, is pinned: nothing says which
    of them matters, and what the code computes from them at another image size was not seen.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    for atom, places in free_atoms(analysis).items():
        if not any(tensor in weights for tensor, _ in places):
            atom.pin(f"no weight lies on it, only `{places[0][0]}`, a constant of the code")
    carriers = find_carriers(analysis)  # may pin head dims, as ties may pin parts, so both come first
    ties = tie_parts(model, analysis, recordings)[0] if recordings is not None else []
    atoms = free_atoms(analysis)
    names = name_atoms(atoms)
    layouts = {source: tuple(spell(dim, names) for dim in value.dims) for source, value in analysis.sources.items()}
    groups = Groups(
        build_groups(analysis, atoms, names),
        {source: spelled for source, spelled in layouts.items() if not all(text.isdigit() for text in spelled)},
        find_attributes(model, analysis, names),
        spell_carriers(analysis, carriers, names),
        pinned_dims(analysis, names),
        tuple(sorted(analysis.unknown)),
        tuple(tie for tie in (tuple(names[a] for a in atoms_ if a in names) for atoms_ in ties) if len(tie) > 1),
        tuple(template(recording, analysis, names, path) for path, recording in (recordings or {}).items()),
    )
    return Traced(groups, analysis, names, recordings or {})
