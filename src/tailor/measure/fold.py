"""Folds norms into the layers beside them, an exact rewrite: what a deployed model may do before it is timed.

A batch norm in eval mode goes into the convolution or linear layer that alone feeds it; the affine part of a layer norm
goes into the linear layers that alone read it (the statistics stay). Which layers these are is read off the exported
graph, so nothing depends on names; weights that are tied, shared or computed are left alone.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from tailor.errors import ModelError
from tailor.inputs import Example
from tailor.tracing.graph.analyse import operator_name
from tailor.tracing.graph.export import export_graph
from tailor.tracing.graph.rules.call import named

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference, in units of the output's scale, that rounding explains in a deep model."""

_LAST_DIM_STAYS = {"view", "reshape", "flatten", "_unsafe_view", "contiguous", "clone", "alias", "dropout", "slice"}
_SHAPE_ONLY = {"reshape_as", "view_as", "expand_as"}
_MOVES = {"permute", "transpose", "roll", "select", "mean"}


@dataclass(frozen=True)
class Folded:
    """A copy of a model with its norms folded, how many of how many, and the largest difference of its output."""

    model: nn.Module
    batch_norms: tuple[int, int]
    layer_norms: tuple[int, int]
    error: float

    @property
    def line(self) -> str:
        """`53 of 53 batch norms, 0 of 0 layer norms`."""
        (a, b), (c, d) = self.batch_norms, self.layer_norms
        return f"{a} of {b} batch norms, {c} of {d} layer norms"


def fold(model: nn.Module, example: Example) -> Folded:
    """A folded copy in eval mode, compared with the model on `example` (2 samples or more) before it is returned.

    ModelError where the model cannot be exported to a graph, or where the copy computes something else.
    """
    copied = copy.deepcopy(model).eval()
    try:
        graph = _Graph(copied, export_graph(copied, example))
    except ModelError as error:
        raise ModelError(f"folding needs a graph: {error.message}", hint="measure without `--fold`") from None
    with torch.no_grad():
        expected = _tensors(copied(*example))
        batch = [graph.fold_batch_norm_(node) for node in graph.of("batch_norm")]
        layer = [graph.fold_layer_norm_(node) for node in graph.of("layer_norm")]
        off = _difference(_tensors(copied(*example)), expected)
    if not off <= max(TOLERANCE.get(one.dtype, 5e-2) for one in expected):
        raise ModelError(f"folding changes the output by {off:.1e} of its scale", hint="measure without `--fold`")
    return Folded(copied, (sum(batch), len(batch)), (sum(layer), len(layer)), off)


class _Graph:
    """The model's calls, by node, with the modules and parameters behind them."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
        self.model = model
        self.nodes = list(program.graph.nodes)
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        owners: dict[int, int] = {}
        for _, tensor in model.named_parameters(remove_duplicate=False):
            owners[id(tensor)] = owners.get(id(tensor), 0) + 1
        self.tied = {id(t) for t in model.parameters() if owners[id(t)] > 1}

    def of(self, operator: str) -> list[Node]:
        return [n for n in self.nodes if n.op == "call_function" and operator_name(n) == operator]

    def fold_batch_norm_(self, node: Node) -> bool:
        """Into the layer that alone feeds it; the module becomes what its class does after the norm."""
        a = named(node)
        module = self._owner(a.get("running_mean"))
        rest = None if module is None else _after(module)
        if module is None or rest is None or a.get("training") or not self._own(module):
            return False
        feeding, reader = a["input"], node
        while feeding.op == "call_function" and operator_name(feeding) in _LAST_DIM_STAYS:
            if len(node.meta["val"].shape) != 2 or _width(feeding) != _width(node) or not _alone(feeding, reader):
                return False
            feeding, reader = feeding.args[0], feeding
        layer = self._layer(feeding)
        if layer is None or not _alone(feeding, reader):
            return False
        if operator_name(feeding) == "linear" and len(node.meta["val"].shape) > 2:
            return False  # its channels are another axis
        scale, shift = _scale_and_shift(module)
        dtype = layer.weight.dtype
        layer.weight.copy_(layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        bias = shift if layer.bias is None else layer.bias.double() * scale + shift
        _set_bias_(layer, bias.to(dtype))
        self._replace_(module, rest)
        return True

    def fold_layer_norm_(self, node: Node) -> bool:
        """Its weight and bias into the linear layers that read it, where nothing else does."""
        a = named(node)
        module = self._owner(a.get("weight"))
        readers = list(_readers(node))
        layers = [self._layer(reader) for reader in readers if reader is not None]
        if (
            module is None
            or len(a["normalized_shape"]) != 1
            or not self._own(module)
            or not isinstance(module, nn.LayerNorm)
        ):
            return False
        if not layers or None in readers or not all(isinstance(layer, nn.Linear) for layer in layers):
            return False
        for layer in layers:
            assert layer is not None
            dense = layer.weight.double()
            if module.bias is not None:
                moved = dense @ module.bias.double()
                bias = moved if layer.bias is None else layer.bias.double() + moved
                _set_bias_(layer, bias.to(layer.weight.dtype))
            layer.weight.copy_(dense * module.weight.double())
        module.register_parameter("weight", None)
        module.register_parameter("bias", None)
        return True

    def _layer(self, node: Any) -> Any:
        """The plain layer that runs at a node once, with weights of its own; None where there is none."""
        if not isinstance(node, Node) or node.op != "call_function":
            return None
        if operator_name(node) not in ("linear", "conv1d", "conv2d", "conv3d"):
            return None
        a = named(node)
        module = self._owner(a.get("weight"))
        plain = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not plain or not self._own(module):  # type: ignore[arg-type]
            return None
        bias = a.get("bias")
        same = (bias is None) == (module.bias is None)  # type: ignore[union-attr]
        return module if same and (bias is None or self._owner(bias) is module) else None

    def _owner(self, node: Any) -> nn.Module | None:
        """The module that holds the parameter or buffer at a node which only one call reads."""
        if (
            not isinstance(node, Node)
            or node.op != "placeholder"
            or len(node.users) != 1
            or node.name not in self.names
        ):
            return None
        return self.model.get_submodule(str(self.names[node.name]).rpartition(".")[0])

    def _own(self, module: nn.Module) -> bool:
        """Whether none of the module's parameters has a second name."""
        return not any(id(p) in self.tied for p in module.parameters(recurse=False))

    def _replace_(self, module: nn.Module, by: nn.Module) -> None:
        for path, other in list(self.model.named_modules(remove_duplicate=False)):
            if other is module:
                holder, _, name = path.rpartition(".")
                setattr(self.model.get_submodule(holder), name, by)


def _after(module: nn.Module) -> nn.Module | None:
    """What a batch norm's class does after the norm: nothing, or timm's dropout and activation; None where unknown."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.Identity()
    children = dict(module.named_children())
    if isinstance(module, nn.BatchNorm2d) and children.keys() == {"drop", "act"}:
        return nn.Sequential(children["drop"], children["act"])
    return None


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """The norm in eval mode as `scale * x + shift`, by channel."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _set_bias_(layer: Any, bias: Tensor) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    else:
        layer.bias.copy_(bias)


def _alone(node: Node, reader: Node) -> bool:
    """Whether only the reader sees the values; others may take the shape."""
    return all(
        user is reader or (operator_name(user) in _SHAPE_ONLY and user.args[0] is not node) for user in node.users
    )


def _readers(node: Node) -> Iterator[Node | None]:
    """The linear calls that read a value through operators that leave its last dim alone; None for anything else."""
    for user in node.users:
        name = operator_name(user) if user.op == "call_function" else "output"
        if name == "linear" and user.args[0] is node and node not in user.args[1:]:
            yield user
        elif _keeps_last_dim(user, name, node):
            yield from _readers(user)
        else:
            yield None


def _keeps_last_dim(user: Node, name: str, node: Node) -> bool:
    """Whether every row of the last dim comes through as it is (or as a mean of rows)."""
    if user.args[:1] != (node,) or not isinstance(user.meta.get("val"), Tensor) or _width(user) != _width(node):
        return False
    last = len(node.meta["val"].shape) - 1
    a = named(user)
    if name == "slice":
        return a.get("dim", 0) % (last + 1) != last
    if name in _LAST_DIM_STAYS:
        return True
    if name not in _MOVES:
        return False
    if name == "permute":
        return a["dims"][-1] % (last + 1) == last  # type: ignore[no-any-return]
    dims: list[int] = []
    for key in ("dim0", "dim1", "dims", "dim"):
        found = a.get(key)
        dims += found if isinstance(found, (list, tuple)) else [found] if isinstance(found, int) else []
    return bool(dims) and all(d % (last + 1) != last for d in dims)


def _width(node: Node) -> int:
    return int(node.meta["val"].shape[-1])


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output.clone()]
    values = output.values() if isinstance(output, dict) else output or ()
    return [tensor for item in values for tensor in _tensors(item)]


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference in units of the expected output's largest value (at least one)."""
    pairs = zip(found, expected, strict=True)
    return max(
        (float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs if b.numel()), default=0.0
    )
