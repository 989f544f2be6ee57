"""What a backbone consists of, as plain data: blocks, sites, vectors, operations, features.

Only a file under `backbones/` knows a backbone; it writes this description and everything else addresses layers by the
exact paths found here. Groups of axes that must be pruned together are not described but traced (`tailor.tracing`).
"""

from dataclasses import dataclass, replace
from typing import Literal

from tailor.inputs import Inputs

Layout = Literal["tokens", "windows", "nhwc", "nchw"]
"""How a module's activations are laid out: (B, N, C), (B * windows, N, C), (B, H, W, C) or (B, C, H, W)."""


@dataclass(frozen=True)
class Site:
    """A weight that can be tuned, seen as a matrix `(outputs, inputs)`: a linear layer, a convolution, or rows of one.

    `path` is the module; `part` and `rows` name a range of its outputs (`q` of a fused `qkv`); `block` is -1 outside
    the blocks; `op` is the label under which sites of different blocks are compared.
    """

    path: str
    op: str
    outputs: int
    inputs: int
    block: int = -1
    part: str = ""
    rows: tuple[int, int] | None = None
    kind: Literal["linear", "conv", "depthwise"] = "linear"

    @property
    def name(self) -> str:
        """`blocks.3.attn.qkv[q]`: how plans and people write it."""
        return f"{self.path}[{self.part}]" if self.part else self.path

    @property
    def tensor(self) -> str:
        """Name of the parameter that holds the matrix."""
        return f"{self.path}.weight"

    @property
    def size(self) -> int:
        """Scalars in the matrix."""
        return self.outputs * self.inputs


@dataclass(frozen=True)
class Vector:
    """A one-dimensional parameter (norm, bias, layer scale), or a range of one: `rows` of a fused bias."""

    tensor: str
    op: str
    size: int
    block: int = -1
    rows: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """`blocks.3.attn.qkv.bias[1536:2304]`, or the plain parameter name."""
        return f"{self.tensor}[{self.rows[0]}:{self.rows[1]}]" if self.rows else self.tensor


@dataclass(frozen=True)
class Block:
    """One residual block: where its attention and MLP are, how wide it is, and how its activations are laid out.

    `convolution` is the module in the attention's place where it was swapped for one, which then is None. `merging` is
    the patch merging that follows its stage, where there is one.
    """

    path: str
    stage: int
    width: int
    attention: str | None = None
    mlp: str | None = None
    attention_layout: Layout = "tokens"
    mlp_layout: Layout = "tokens"
    merging: str | None = None
    convolution: str | None = None


@dataclass(frozen=True)
class Feature:
    """A level that a dense decoder can use: the module whose output it is, its channels and its stride in pixels."""

    path: str
    width: int
    reduction: int


@dataclass(frozen=True)
class Anatomy:
    """Everything tailor knows about one backbone. `prefix` counts the class, distillation and register tokens.

    `operations` are the paths of the modules SSF scales (patch projection, norms, linear and convolution layers) in
    forward order; `heads` the classifier layers; `tokens` the learned prefix parameters; `notes` say what is missing.
    """

    family: str
    blocks: tuple[Block, ...]
    sites: tuple[Site, ...]
    vectors: tuple[Vector, ...]
    operations: tuple[str, ...]
    features: tuple[Feature, ...]
    heads: tuple[str, ...]
    width: int
    inputs: Inputs
    final_norm: str | None = None
    prefix: int = 0
    grid: tuple[int, int] | None = None
    tokens: tuple[str, ...] = ()
    rotary: bool = False
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Site, ...]:
        """The sites with fused parts joined again: one per module."""
        whole: dict[str, Site] = {}
        for site in self.sites:
            if site.path in whole:
                first = whole[site.path]
                whole[site.path] = replace(first, outputs=first.outputs + site.outputs)
            else:
                label = site.path.rsplit(".", 1)[-1] if site.part else site.op
                whole[site.path] = replace(site, op=label, part="", rows=None)
        return tuple(whole.values())

    def site(self, name: str) -> Site:
        """The site of that name (`blocks.3.attn.qkv[q]` or a whole layer); KeyError where there is none."""
        for site in (*self.sites, *self.layers):
            if site.name == name:
                return site
        raise KeyError(name)
