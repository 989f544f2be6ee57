"""What a block is worth by itself, against its definition."""

import pytest
import torch
from torch import nn

from tailor.anatomy import Block
from tailor.pruning.importance import depth, influence, lots, of_weights

BLOCKS = tuple(Block(f"{index}", 0, 4) for index in range(3))


class Turn(nn.Module):
    """A block that turns every position's first two features by an angle."""

    def __init__(self, angle):
        super().__init__()
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        turn = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
        self.matrix = nn.Parameter(torch.block_diag(turn, torch.eye(2)))

    def forward(self, x):
        return x @ self.matrix.T


def test_influence_is_how_far_a_block_turns_its_input():
    model = nn.Sequential(Turn(0.0), Turn(0.5), Turn(1.0))
    x = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    x[..., 2:] = 0
    found = influence(model, BLOCKS, [x[:2], x[2:]])
    expected = [1 - float(torch.tensor(angle).cos()) for angle in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(torch.tensor(list(found.values())), torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_block_that_changes_the_shape_counts_as_needed():
    maps = tuple(Block(f"{index}", 0, 4, attention_layout="nchw") for index in range(2))
    model = nn.Sequential(nn.PReLU(init=1.0), nn.MaxPool2d(2))  # the first changes nothing
    found = influence(model, maps, [torch.randn(2, 4, 8, 8)])
    assert found == {"0": pytest.approx(0, abs=1e-6), "1": float("inf")}


def test_weights_count_by_their_mean_whatever_the_width_and_others_are_left_out():
    elements = {"0.a": torch.ones(3, 4), "0.b": torch.full((4,), 5.0), "1.a": torch.full((9, 9), 2.0)}
    elements["10.a"] = torch.full((2,), 9.0)
    assert of_weights(elements, BLOCKS) == {"0": 2.0, "1": 2.0, "2": 0.0}


def test_depth_keeps_the_first_and_lots_follow_the_seed():
    assert sorted(depth(BLOCKS), key=depth(BLOCKS).get) == ["2", "1", "0"]
    assert lots(BLOCKS, 1) == lots(BLOCKS, 1) != lots(BLOCKS, 2)
