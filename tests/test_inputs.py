"""Example arguments: what is drawn, and that a model of any arguments is counted, traced, timed and exported."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tailor import backbones
from tailor.deploy.export import export, read_metadata
from tailor.errors import ModelError, UsageError
from tailor.inputs import Images, Inputs, TokenIds
from tailor.measure.count import macs
from tailor.measure.fold import fold
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import latency, throughput
from tailor.preprocessing import Preprocessing
from tailor.tracing import awakened, cut, half, plan_widths, settle, trace, verify

ROWS = [Images(1, 5, 7), Images(3, 32, 32), TokenIds(9, 11)]
BOTH = Inputs((Images(2, 4, 6), TokenIds(5, 13)))


class Captioner(nn.Module):
    """Scores of words by an image and the words before: two arguments, one of them numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(2, 8, 3, padding=1)
        self.words = nn.Embedding(13, 8)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 13)

    def forward(self, images: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        seen = self.look(images).mean((2, 3))[:, None]
        return self.head(torch.relu(self.hidden(seen + self.words(words))))


def captioner() -> nn.Module:
    torch.manual_seed(0)
    return Captioner().eval()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_seed_draws_the_same_in_every_type_and_leaves_torchs_own_generator_alone(row):
    inputs, before = Inputs((row,)), torch.get_rng_state()
    (one,), (again,), (other,) = inputs.example(3), inputs.example(3), inputs.example(3, seed=1)
    (narrow,) = inputs.example(3, dtype=torch.bfloat16)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (3, *row.shape) and inputs.shapes == (row.shape,)
    assert_close(narrow.to(one.dtype), one, rtol=0.01, atol=0)
    assert inputs.example(device="meta")[0].is_meta


def test_token_ids_are_whole_and_of_the_vocabulary_whatever_the_type():
    (ids,) = Inputs.tokens(200, 7).example(4, dtype=torch.float16)
    assert ids.dtype == torch.long and ids.unique().tolist() == list(range(7))


def test_a_batch_of_none_and_images_of_a_model_that_takes_none_are_refused():
    with pytest.raises(UsageError, match="at least one sample, not 0"):
        BOTH.example(0)
    with pytest.raises(ModelError, match="defined for images, and the model takes 9 tokens"):
        Inputs.tokens(9, 11).image  # noqa: B018
    assert BOTH.image == (2, 4, 6) and str(BOTH) == "images of 2x4x6 and 5 tokens"


def test_preprocessing_says_what_the_model_is_called_with():
    assert Preprocessing((32, 48)).inputs == Inputs.images(3, 32, 48)


def test_a_model_of_two_arguments_is_counted_timed_and_folded():
    model = captioner()
    pixels, width = 4 * 6, 8
    assert macs(model, BOTH) == pixels * 9 * 2 * width + 5 * (width * 12 + 12 * 13)
    assert latency(model, BOTH, seconds=0.05).median > 0
    assert throughput({"a": model, "b": model}, BOTH, batch=3, seconds=0.05).timings["b"].batch == 3
    given = sum(one.nbytes for one in BOTH.example(2))
    assert peak_memory_bytes(model, BOTH, batch=2) > given + sum(p.nbytes for p in model.parameters())
    assert fold(nn.Sequential(model.look, nn.BatchNorm2d(8)), Inputs.images(2, 4, 6).example()).batch_norms == (1, 1)
    with pytest.raises(ModelError, match="does not run on images of 9x4x6 and 5 tokens"):
        macs(model, Inputs((Images(9, 4, 6), TokenIds(5, 13))))


def test_a_model_of_two_arguments_is_traced_and_cut_exactly():
    model = captioner().double()
    example = BOTH.example(dtype=torch.float64)
    traced = settle(model, trace(model, example), example)
    assert {group.size for group in traced.groups.groups} == {8, 12}
    plan = plan_widths(traced.groups, half(traced.groups))
    verdict = verify(model, cut(model, plan), traced, plan, example)
    assert verdict.exact and verdict.error < 1e-12
    wrong = cut(model, plan)
    with torch.no_grad():
        wrong.words.weight[:, 0] += 1
    assert verify(model, wrong, traced, plan, example).module == "words"


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_file_takes_every_argument_and_leaves_its_named_axes_open(suffix, tmp_path):
    model, path = captioner(), tmp_path / f"model.{suffix}"
    assert export(model, BOTH, path).difference < 1e-5
    assert read_metadata(path).items() >= {"image_size": [2, 4, 6], "length": 5, "vocabulary": 13}.items()
    example = (torch.randn(4, 2, 4, 6), torch.randint(13, (4, 9)))  # another batch, and a longer text
    if suffix == "pt2":
        found = torch.export.load(path).module()(*example)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        shapes = {one.name: one.shape for one in session.get_inputs()}
        assert shapes == {"images": ["batch", 2, 4, 6], "input_ids": ["batch", "length"]}
        found = torch.from_numpy(session.run(None, dict(zip(BOTH.names, (x.numpy() for x in example))))[0])
    assert_close(found, model(*example), rtol=1e-4, atol=1e-5)


def test_a_language_model_is_counted_and_its_stream_and_hidden_units_are_cut(tmp_path):
    transformers = pytest.importorskip("transformers")
    width, heads, kept, size, hidden, words, length = 32, 4, 2, 8, 48, 40, 12
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kept,
        head_dim=size,
        max_position_embeddings=length,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = backbones.create(f"causal:{tmp_path}")
    inputs = backbones.describe(model).inputs
    assert inputs == Inputs.tokens(length, words)
    projections = width * size * (2 * heads + 2 * kept) + 3 * width * hidden
    attention = 2 * length**2 * heads * size
    assert macs(model, inputs) == 2 * (length * projections + attention) + length * width * words
    example = inputs.example()
    traced = settle(model, trace(model, example), example)
    assert {"embedding", "hidden"} <= {group.label for group in traced.groups.groups}
    plan, awake = plan_widths(traced.groups, half(traced.groups)), awakened(model)
    assert verify(awake, cut(awake, plan), traced, plan, example).exact
    said = copy.deepcopy(model).generate(example[0], max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert said.shape == (2, length + 2)
