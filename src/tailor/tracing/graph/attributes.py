"""Which attributes of modules must follow their weights, as layouts.

In this order: by the operator that a module runs (`linear` sets `in_features` on every class), by the splits in its
code, by the attribute's conventional name in attention modules (`num_heads`), and, for other integers, by value: an
attribute that equals the length of exactly one shrinking axis in its module's own code follows that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.fx import Node

from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import Atom, Dim, expand, leaves, product, size
from tailor.tracing.graph.groups import Attribute, spell
from tailor.tracing.graph.parts import part_attributes
from tailor.tracing.graph.rules.call import Value, named

Named = Mapping[Atom, str]
AttributeRow = tuple[str, Callable[["OperatorCall"], list[Dim]], str]  # attribute, its dimensions, form


class OperatorCall:
    """The operands of one operator, as the rows below address them."""

    def __init__(self, analysis: Analysis, node: Node) -> None:
        self.constants = named(node)
        self.values = {
            k: v
            for k, a in self.constants.items()
            if isinstance(a, Node) and isinstance(v := analysis.values.get(a), Value)
        }
        self.x = next(iter(self.values.values()))
        result = analysis.values[node]
        self.out: Value = result[0] if isinstance(result, list) else result


def _channel(call: OperatorCall) -> int:
    return len(call.x.dims) - len(call.values["weight"].dims) + 1


_CONV: list[AttributeRow] = [
    ("in_channels", lambda c: [c.x.dims[_channel(c)]], "size"),
    ("out_channels", lambda c: [c.out.dims[_channel(c)]], "size"),
    ("groups", lambda c: [c.x.dims[_channel(c)], c.values["weight"].dims[1]], "ratio"),
]
_TRANSPOSED: list[AttributeRow] = [
    *_CONV[:2],
    ("groups", lambda c: [c.out.dims[_channel(c)], c.values["weight"].dims[1]], "ratio"),
]
_LAST: list[AttributeRow] = [
    ("normalized_shape", lambda c: list(c.x.dims[-len(c.constants["normalized_shape"]) :]), "sizes"),
]

# What a module that runs this operator calls its sizes. Missing attributes are skipped.
OPERATOR_ROWS: dict[str, list[AttributeRow]] = {
    "linear": [
        ("in_features", lambda c: [c.x.dims[-1]], "size"),
        ("out_features", lambda c: [c.out.dims[-1]], "size"),
    ],
    "conv1d": _CONV,
    "conv2d": _CONV,
    "conv3d": _CONV,
    "conv_transpose1d": _TRANSPOSED,
    "conv_transpose2d": _TRANSPOSED,
    "conv_transpose3d": _TRANSPOSED,
    "batch_norm": [("num_features", lambda c: [c.x.dims[1]], "size")],
    "instance_norm": [("num_features", lambda c: [c.x.dims[1]], "size")],
    "group_norm": [("num_channels", lambda c: [c.x.dims[1]], "size")],
    "layer_norm": _LAST,
    "rms_norm": _LAST,
    "prelu": [("num_parameters", lambda c: [c.values["weight"].dims[0]], "size")],
    "embedding": [("embedding_dim", lambda c: [c.values["weight"].dims[1]], "size")],
}

# What attention modules call their heads and head dims: h heads, d head dim of q and k, v head dim of v.
ATTENTION_ROWS: dict[str, str] = {
    "num_heads": "h",
    "num_attention_heads": "h",
    "n_head": "h",
    "n_heads": "h",
    "heads": "h",
    "nhead": "h",
    "head_dim": "d",
    "dim_head": "d",
    "head_dims": "d",
    "dim_per_head": "d",
    "key_dim": "d",
    "dim_head_qk": "d",
    "val_dim": "v",
    "value_dim": "v",
    "dim_head_v": "v",
    "attn_dim": "hv",
    "key_attn_dim": "hd",
    "val_attn_dim": "hv",
    "all_head_dim": "hd",
    "attention_dim": "hd",
}

# Attributes that count positions, layers or classes: never widths, even where a number coincides.
NEVER = frozenset(
    [
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "window_size",
        "patch_size",
        "img_size",
        "grid_size",
        "feat_size",
        "num_classes",
        "depth",
        "num_prefix_tokens",
        "num_prompts",
        "training",
        "shift_size",
        "num_patches",
        "window_area",
        "seq_len",
        "input_resolution",
        "resolution",
        "num_layers",
        "num_stages",
        "block_size",
        "halo_size",
        "win_size",
        "sr_ratio",
        "reduction",
        "scale_factor",
        "out_indices",
        "layer_idx",
        "feature_size",
        "img_size_org",
        "output_size",
    ]
)


def find_attributes(model: nn.Module, analysis: Analysis, names: Named) -> tuple[Attribute, ...]:
    """Every attribute to refresh when the named groups shrink."""
    own: dict[str, list[Node]] = {}
    for node in analysis.program.graph.nodes:
        if node.op == "call_function":
            own.setdefault(module_path(node), []).append(node)
    result: dict[tuple[str, str], Attribute] = {}
    for path, module in model.named_modules():
        nodes = own.get(path, [])
        rows = list(_by_operator(path, module, nodes, analysis, names))
        rows += part_attributes(path, module, nodes, analysis, names)
        rows += _by_attention(path, module, nodes, analysis, names)
        rows += [] if path else [*_by_head(module, analysis, names), *_by_level(module, analysis, names)]
        taken = {attribute.name for attribute in rows}
        rows += [a for a in _by_value(path, module, nodes, analysis, names) if a.name not in taken]
        for attribute in rows:
            if any(not layout.isdigit() for layout in attribute.layouts):
                result.setdefault((attribute.module, attribute.name), attribute)
    return tuple(result.values())


def _by_operator(
    path: str, module: nn.Module, nodes: list[Node], analysis: Analysis, names: Named
) -> Iterator[Attribute]:
    for node in nodes:
        for name, dims, form in OPERATOR_ROWS.get(operator_name(node), ()):
            if name not in vars(module):
                continue
            if name == "groups" and (module.groups == 1 or not isinstance(module.groups, int)):
                continue
            call = OperatorCall(analysis, node)
            found = dims(call)
            old = getattr(module, name)
            if form == "size" and old != size(found[0]):
                continue
            yield Attribute(path, name, tuple(spell(dim, names) for dim in found), form)  # type: ignore[arg-type]


def _by_attention(
    path: str, module: nn.Module, nodes: list[Node], analysis: Analysis, names: Named
) -> Iterator[Attribute]:
    present = [name for name in ATTENTION_ROWS if isinstance(vars(module).get(name), int)]
    scale = vars(module).get("scale")
    if not present and not isinstance(scale, float):
        return
    parts = {
        letter: _tagged(nodes, analysis, wanted)
        for letter, wanted in (("h", "heads"), ("d", "head dim"), ("v", "value dim"))
    }
    for name in present:
        factors = [parts[letter] for letter in ATTENTION_ROWS[name]]
        if any(factor is None for factor in factors):
            continue
        dim = product([factor for factor in factors if factor is not None])
        if size(dim) == getattr(module, name):
            yield Attribute(path, name, (spell(dim, names),))
    d = parts["d"]
    fused = any(operator_name(n) == "scaled_dot_product_attention" and n.kwargs.get("scale") is None for n in nodes)
    if d is not None and fused and isinstance(scale, float) and abs(scale - size(d) ** -0.5) < 1e-9:
        yield Attribute(path, "scale", (spell(d, names),), "rsqrt")


def _by_head(model: nn.Module, analysis: Analysis, names: Named) -> Iterator[Attribute]:
    """A whole model's `num_features` and `head_hidden_size`: the width that its last linear layer reads."""
    linears = [n for n in analysis.program.graph.nodes if n.op == "call_function" and operator_name(n) == "linear"]
    if not linears:
        return
    dim = analysis.values[linears[-1].args[0]].dims[-1]  # type: ignore[index]
    for name in ("num_features", "head_hidden_size"):
        if vars(model).get(name) == size(dim):
            yield Attribute("", name, (spell(dim, names),))


def _by_level(model: nn.Module, analysis: Analysis, names: Named) -> Iterator[Attribute]:
    """A whole model's `feature_info`, timm's list of feature levels, and `embed_dim`: channels that a module gives."""
    last = {str(path).split("@")[0]: node for node in analysis.program.graph.nodes for path in _around(node)}
    levels = getattr(model, "feature_info", None)
    said = [("embed_dim", "patch_embed", vars(model).get("embed_dim"))]
    if isinstance(levels, list):
        said += [(f"feature_info[{i}].num_chs", one.get("module"), one.get("num_chs")) for i, one in enumerate(levels)]
    for attribute, path, width in said:
        value = analysis.values.get(last[path]) if path in last else None
        dims = value.dims[1:] if isinstance(value, Value) else ()
        found = {spell(dim, names) for dim in dims if size(dim) == width}
        if len(found) == 1:
            yield Attribute("", attribute, (found.pop(),))


def _around(node: Node) -> list[Any]:
    """The paths of the modules whose code was running when the node was made."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _tagged(nodes: list[Node], analysis: Analysis, wanted: str) -> Dim | None:
    """The first dimension in the module's own code that consists of atoms with this tag."""
    for node in nodes:
        value = analysis.values.get(node)
        for item in value if isinstance(value, list) else [value]:
            for dim in item.dims if isinstance(item, Value) else ():
                found = list(leaves(dim))
                if found and all(wanted in leaf.tags for leaf in found):
                    return dim
    return None


def _by_value(path: str, module: nn.Module, nodes: list[Node], analysis: Analysis, names: Named) -> Iterator[Attribute]:
    integers = {k: v for k, v in vars(module).items() if _is_width(k, v)}
    tuples = {k: v for k, v in vars(module).items() if _is_widths(k, v)}
    if not integers and not tuples:
        return
    lengths = _lengths(_own_dims(path, module, nodes, analysis), names)
    for name, n in integers.items():
        layouts = lengths.get(n, set())
        if len(layouts) == 1:
            yield Attribute(path, name, (next(iter(layouts)),))
    for name, widths in tuples.items():
        found = [lengths.get(n, {str(n)}) for n in widths]
        if all(len(layouts) == 1 for layouts in found):
            yield Attribute(path, name, tuple(next(iter(layouts)) for layouts in found), "sizes")


def _is_width(name: str, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1 and name.lstrip("_") not in NEVER


def _is_widths(name: str, value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) > 0
        and all(type(n) is int for n in value)
        and name.lstrip("_") not in NEVER
    )


def _own_dims(path: str, module: nn.Module, nodes: list[Node], analysis: Analysis) -> Iterator[Dim]:
    prefix = f"{path}." if path else ""
    for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if prefix + name in analysis.sources:
            yield from analysis.sources[prefix + name].dims
    for node in nodes:
        for source in (node, *node.all_input_nodes):
            value = analysis.values.get(source)
            for item in value if isinstance(value, list) else [value]:
                yield from item.dims if isinstance(item, Value) else ()


def _lengths(dims: Iterator[Dim], names: Named) -> dict[int, set[str]]:
    """Shrinking layouts by their present length: whole dimensions, their parts, and runs of factors."""
    found: dict[int, set[str]] = {}
    seen: set[Dim] = set()
    for dim in dims:
        expanded = expand(dim)
        if expanded in seen:
            continue
        seen.add(expanded)
        pieces: list[Dim] = [expanded]
        for segment in expanded:
            pieces += [(segment[a:b],) for a in range(len(segment)) for b in range(a + 1, len(segment) + 1)]
        for piece in pieces:
            text = spell(piece, names)
            if not text.isdigit():
                found.setdefault(size(piece), set()).add(text)
    return found
