"""Small networks, each a case that other dependency analyses are known to get wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Images(nn.Module):
    """A stem, a body that maps 16 channels to `width`, and a classifier on the mean."""

    def __init__(self, body: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), body, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.sigmoid(self.stem(x))).mean((2, 3)))


class Tokens(nn.Module):
    """Patches as tokens, a body on `(B, N, 24)`, and a classifier on the mean token."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 24, 4, 4), body, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class ChunkSwap(nn.Module):
    """`chunk`, the halves change places, `cat`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.b(torch.cat([second, torch.tanh(first)], 1))


class SplitCat(nn.Module):
    """`split` whose parts go straight into `cat`, in a different order and with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 6, 1), nn.Conv2d(18, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        first, second = y.split(y.shape[1] // 2, 1)
        return self.c(torch.cat([second, self.b(x), first], 1))


class CatTwice(nn.Module):
    """`cat([x, x])`: the consumer has two columns for each unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 10, 1), nn.Conv2d(20, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.cat([y, y], 1))


class CatOfFunction(nn.Module):
    """`cat([x, f(x)])` twice over, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(24, 8, 1), nn.Conv2d(32, 16, 1)
        self.norm = nn.BatchNorm2d(24)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(F.relu(self.norm(x)))], 1)
        return self.c(x)


class PixelShuffle(nn.Module):
    """Channels become positions: every output channel needs its 4 input channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle, self.b = nn.Conv2d(16, 32, 1), nn.PixelShuffle(2), nn.Conv2d(8, 16, 1)
        self.fold, self.c = nn.PixelUnshuffle(2), nn.Conv2d(64, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.fold(self.b(self.shuffle(self.a(x)))))


class ChannelShuffle(nn.Module):
    """View, transpose, view, between two grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 24, 1, groups=4), nn.Conv2d(24, 16, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        b, _, h, w = y.shape
        y = y.view(b, self.a.groups, -1, h, w).transpose(1, 2).reshape(b, -1, h, w)
        return self.b(y)


class Depthwise(nn.Module):
    """A depthwise convolution with a channel multiplier, and its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(16, 32, 3, padding=1, groups=16), nn.BatchNorm2d(32), nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.hardswish(self.norm(self.a(x))))


class GroupNorm(nn.Module):
    """Statistics over groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(16, 24, 1), nn.GroupNorm(4, 24), nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.sigmoid(self.norm(self.a(x))))


class Reuse(nn.Module):
    """One module twice, and one weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)
        self.c.weight = self.b.weight
        self.d = nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(torch.relu(self.a(x)))
        return self.d(self.b(x) * torch.sigmoid(self.c(x)))


class Transposed(nn.Module):
    """Transposed convolutions, grouped and not: rows and columns change roles."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 24, 2, 2, groups=3)
        self.c = nn.Conv2d(24, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sigmoid(self.b(torch.sigmoid(self.a(x)))))


class SqueezeExcite(nn.Module):
    """A gate of shape `(B, C, 1, 1)`, with a hard sigmoid that is not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.b(F.silu(self.a(x.mean((2, 3), keepdim=True)))))


class ChannelSoftmax(nn.Module):
    """A softmax over channels: a removed channel would still take its share, so these channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(self.a(x).softmax(1))))


class Glu(nn.Module):
    """Both halves of a gated unit go together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(20, 24)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.a(self.norm(x)).chunk(2, -1)
        return x + self.b(F.silu(gate) * value)


class GroupedQuery(nn.Module):
    """Four query heads share two key and value heads; the head dim of v is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.num_heads = 6, 2
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 12), nn.Linear(24, 8)
        self.proj = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, k.shape[1], -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class RepeatedKeys(nn.Module):
    """Grouped queries written with `expand`, scaled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.num_heads = 6, 2
        self.q, self.kv, self.proj = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.head_dim).transpose(1, 2) * 0.4
        k, v = self.kv(x).view(b, n, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        copies = q.shape[1] // k.shape[1]
        k, v = (t[:, :, None].expand(-1, -1, copies, -1, -1).flatten(1, 2) for t in (k, v))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


class UnequalValues(nn.Module):
    """q and k 6 wide, v 4 wide: pruning q must not touch v."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(24, n) for n in (6, 6, 4, 24))
        self.proj = nn.Linear(4, 24)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-2, -1)
        return x + self.proj(scores.softmax(-1) @ self.v(x))


class Rotary(nn.Module):
    """Rotary positions in halves: the two halves of the head dim go together."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 4, nn.Linear(24, 96), nn.Linear(32, 24)
        self.register_buffer("sin", torch.randn(64, 8))
        self.register_buffer("cos", torch.randn(64, 8))

    def turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class BiasBeside(nn.Module):
    """The bias of a fused qkv is three tensors, added after the layer: the scale goes into the rows of q alone."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 4, nn.Linear(24, 96, bias=False), nn.Linear(32, 24)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(32))
        self.register_buffer("k_bias", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        both = self.qkv(x) + torch.cat([self.q_bias, self.k_bias, self.v_bias])
        q, k, v = both.view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class QueryNorm(nn.Module):
    """A norm of q: the scale must go into its affine weights."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 4, nn.Linear(24, 96), nn.Linear(32, 24)
        self.q_norm, self.k_norm = nn.LayerNorm(8), nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class CosineScores(nn.Module):
    """q of unit length has no scale to keep: where neither q nor k can carry it, the head dim stays."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = 4, nn.Linear(24, 96), nn.Linear(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(y.transpose(1, 2).flatten(2))


class FixedWidth(nn.Module):
    """Code that fixes a size: the split is at 8 whatever survives."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(24, 20), nn.Linear(8, 24), nn.Linear(12, 24)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split([8, 12], -1)
        return x + self.b(torch.sin(first)) + self.c(torch.cos(second))


class Mixer(nn.Module):
    """Mixing of tokens: the tokens stay, the hidden width may go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 12), nn.Linear(12, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.gelu(self.a(x.transpose(1, 2)))).transpose(1, 2)


IMAGES = {
    "chunk, cat": ChunkSwap,
    "split, cat": SplitCat,
    "cat([x, x])": CatTwice,
    "cat([x, f(x)])": CatOfFunction,
    "pixel shuffle": PixelShuffle,
    "channel shuffle": ChannelShuffle,
    "depthwise": Depthwise,
    "group norm": GroupNorm,
    "reuse and tied weights": Reuse,
    "transposed": Transposed,
    "squeeze excite": SqueezeExcite,
    "channel softmax": ChannelSoftmax,
}
TOKENS = {
    "glu": Glu,
    "grouped queries": GroupedQuery,
    "repeated keys": RepeatedKeys,
    "unequal values": UnequalValues,
    "rotary": Rotary,
    "bias beside": BiasBeside,
    "query norm": QueryNorm,
    "cosine scores": CosineScores,
    "fixed width": FixedWidth,
    "mixer": Mixer,
}


def build(name: str) -> nn.Module:
    """The network of this name, whole."""
    return Images(IMAGES[name]()) if name in IMAGES else Tokens(TOKENS[name]())


NETS = [*IMAGES, *TOKENS]
