"""One batch in which every sample takes a route of its own: each block runs at most once, on all samples that cross it.

The anchors are swept one after the other: samples leave at their joint, pass their stitching layer, and enter the next
anchor where they have to. It computes what route by route would; a batch of few routes is no faster so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tailor import backbones
from tailor.backbones import Parts
from tailor.errors import PlanError
from tailor.stitching.plan import Leg
from tailor.stitching.routed import Routed, sites_of_blocks

Piece = tuple[Tensor, Tensor]
"""Samples on their way: their places in the batch (M,), and their state."""


@dataclass
class _Sweep:
    """The batch on its way: for every anchor and block the samples that enter there."""

    model: Routed
    images: Tensor
    routes: Tensor
    waiting: dict[tuple[int, int], list[Piece]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plan = self.model.plan.routes
        self.device = self.images.device
        self.biases = {route: self.model.biases_of(route) for route in self.routes.unique().tolist()}
        self.sites = sites_of_blocks(self.model)
        self.legs: list[dict[int, Leg]] = [{leg.anchor: leg for leg in plan[r].legs} for r in self.routes.tolist()]

    def through(self, anchor: int, parts: Parts) -> Piece | None:
        """Sweep one anchor; what its tail gives for the samples that end in it."""
        starts = [at for at, r in enumerate(self.routes.tolist()) if self.model.plan.routes[r].front == anchor]
        moving: list[Piece] = []
        if starts:
            chosen = torch.tensor(starts, device=self.device)
            moving = [(chosen, parts.stem(self.images[chosen]))]
        numbers = {block.path: n for n, block in enumerate(self.model.anatomies[anchor].blocks)}
        for part in parts.blocks:
            block = numbers.get(part.path)
            moving += self.waiting.pop((anchor, block), []) if block is not None else []
            if not moving:
                continue
            places, state = _joined(moving)
            if block is not None:
                self.tell(anchor, block, places)
            moving = [(places, part(state))]
            if block is not None:
                moving = self.leave(anchor, block, *moving[0])
        self.model.current.biases = {}
        if not moving:
            return None
        places, state = _joined(moving)
        return places, parts.tail(state)

    def tell(self, anchor: int, block: int, places: Tensor) -> None:
        """Give the block's layers the bias of every sample in it."""
        taken, which = self.routes[places].unique(return_inverse=True)
        found: dict[str, Tensor] = {}
        for site, size in self.sites.get((anchor, block), {}).items():
            zero = self.images.new_zeros(size)
            table = torch.stack([self.biases[route].get(site, zero) for route in taken.tolist()])
            found[site] = table[which]
        self.model.current.biases = found

    def leave(self, anchor: int, block: int, places: Tensor, state: Tensor) -> list[Piece]:
        """Send the samples whose leg ends here through their stitching layers; those that stay come back."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        stay: list[int] = []
        for row, place in enumerate(places.tolist()):
            route = self.model.plan.routes[int(self.routes[place])]
            at = [leg.anchor for leg in route.legs].index(anchor)
            if route.legs[at].stop - 1 != block or at == len(route.legs) - 1:
                stay.append(row)
                continue
            following = route.legs[at + 1]
            groups.setdefault((route.layers[at], following.anchor, following.start), []).append(row)
        for (layer, following_anchor, start), rows in groups.items():
            chosen = torch.tensor(rows, device=self.device)
            entry = self.waiting.setdefault((following_anchor, start), [])
            entry.append((places[chosen], self.model.layers[layer](state[chosen])))
        if not groups:
            return [(places, state)]
        chosen = torch.tensor(stay, device=self.device, dtype=torch.long)
        return [(places[chosen], state[chosen])] if stay else []


def forward_mixed(model: Routed, images: Tensor, routes: Sequence[int]) -> Tensor:
    """(B, C, H, W) and a route for each image -> (B, K). For eval mode; PlanError where a route goes back to an anchor.

    Equal to one by one, up to the order of sums.
    """
    if len(routes) != len(images):
        raise PlanError(f"{len(routes)} routes were given for {len(images)} images", hint="give one for each")
    for route in set(routes):
        anchors = [leg.anchor for leg in model.plan.routes[route].legs]
        if anchors != sorted(set(anchors)):
            raise PlanError(f"`{model.plan.routes[route].name}` goes back to an anchor, and cannot be swept")
    sweep = _Sweep(model, images, torch.tensor(list(routes), device=images.device))
    size = (images.shape[-2], images.shape[-1])
    found = [sweep.through(n, backbones.parts(anchor, size)) for n, anchor in enumerate(model.anchors)]
    ended = [piece for piece in found if piece is not None]
    places, outputs = torch.cat([p for p, _ in ended]), torch.cat([o for _, o in ended])
    return outputs[places.argsort()]


def _joined(pieces: Sequence[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat([places for places, _ in pieces]), torch.cat([state for _, state in pieces])
