"""One causal language model out of two: decoder layers of the first, a stitching layer, decoder layers of the second.

Layers are numbered anew along the route, because a cache has a slot for each number: with the old ones two layers of a
route would share a slot, which is silently wrong where their keys have the same shape. Rotary positions are each
anchor's own. Layers are light copies that share every tensor with the anchors, which stay as they are.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tailor.errors import PlanError


class Entered(nn.Module):
    """A decoder layer behind a stitching layer, or under rotary positions that are not the first anchor's.

    `inner` is the layer; `stitch` and `rotary` are there where they are needed.
    """

    def __init__(self, inner: nn.Module, stitch: nn.Module | None, rotary: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.stitch, self.rotary = inner, stitch, rotary

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, d of the anchor before) -> (B, N, d)."""
        if self.stitch is not None:
            hidden_states = self.stitch(hidden_states)
        if self.rotary is not None:
            kwargs["position_embeddings"] = self.rotary(hidden_states, kwargs["position_ids"])
        return self.inner(hidden_states, *args, **kwargs)  # type: ignore[no-any-return]


def along(anchors: Sequence[Any], blocks: Sequence[Sequence[Any]], stitches: Sequence[nn.Module]) -> LlamaForCausalLM:
    """The route through `anchors` (LlamaForCausalLM), of each the decoder layers in its leg, joined by `stitches`.

    It is of the first one's class, with the embedding of the first, norm and head of the last, and generates as any.
    """
    first, last = anchors[0], anchors[-1]
    view = _shell(first)
    view.config = _config(first.config, sum(len(leg) for leg in blocks))
    body = _shell(first.model)
    body.config = view.config
    layers: list[nn.Module] = []
    for position, (anchor, leg) in enumerate(zip(anchors, blocks, strict=True)):
        own = None if _same_positions(anchor.config, first.config) else anchor.model.rotary_emb
        for number, block in enumerate(leg):
            stitch = stitches[position - 1] if position and not number else None
            layer = _numbered(block, len(layers))
            layers.append(layer if stitch is None and own is None else Entered(layer, stitch, own))
    body._modules |= {"layers": nn.ModuleList(layers), "norm": last.model.norm}
    view._modules |= {"model": body, "lm_head": last.lm_head}
    view.generation_config = copy.deepcopy(first.generation_config)
    return view  # type: ignore[no-any-return]


def check(configs: Sequence[Any]) -> None:
    """PlanError unless the anchors read the same tokens."""
    for config in configs[1:]:
        for name in ("vocab_size", "bos_token_id", "eos_token_id"):
            mine, other = getattr(configs[0], name, None), getattr(config, name, None)
            if mine != other:
                raise PlanError(
                    f"the anchors read other tokens: `{name}` is {mine} in one and {other} in the next",
                    hint="take sizes of one family, with one tokeniser",
                )


def _numbered(layer: nn.Module, number: int) -> nn.Module:
    """The decoder layer with another slot of the cache, sharing all modules and tensors."""
    shell = _shell(layer)
    if isinstance(layer, Entered):
        shell._modules["inner"] = _numbered(layer.inner, number)
        return shell  # type: ignore[no-any-return]
    attention: Any = copy.copy(layer.self_attn)
    attention.layer_idx = number
    shell._modules["self_attn"] = attention
    return shell


def _config(config: Any, layers: int) -> Any:
    """The configuration of a model of so many layers: caches and masks are made by it."""
    made = copy.deepcopy(config)
    made.num_hidden_layers = layers
    if getattr(made, "layer_types", None):
        made.layer_types = ["full_attention"] * layers
    return made


def _same_positions(mine: Any, other: Any) -> bool:
    """Whether two anchors have the same rotary embedding."""
    return all(getattr(mine, name, None) == getattr(other, name, None) for name in ("rope_parameters", "head_dim"))


def _shell(module: Any) -> Any:
    """A module with the same tensors, settings and submodules, of which others may be put in without changing it."""
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    return shell
