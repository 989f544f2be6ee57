import timm
from torch import nn

from tailor.surgery import eval_mode


def test_a_module_that_returns_nothing_from_train_is_entered_and_left_as_it_was():
    block = timm.create_model("levit_128s").stages[0].blocks[0].attn
    assert isinstance(block, nn.Module) and block.train() is None  # the case in question
    with eval_mode(block) as entered:
        assert entered is block and not block.training
    assert block.training
