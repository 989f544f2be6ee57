"""Stitched LLaMAs: a route is its legs one after the other, and generates with a cache what it would without one."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("transformers")
from tailor.errors import PlanError
from tailor.stitching.language.join import along, check
from tiny_language import ids, llama

FAMILIES = {
    "same heads": lambda: (llama(0), llama(1, layers=6, width=48)),
    "other heads": lambda: (llama(0), llama(1, layers=6, width=48, heads=6, kv=3, head_dim=8)),
    "other positions": lambda: (llama(0), llama(1, layers=6, width=48, head_dim=16, theta=5e5)),
    "tied": lambda: (llama(0, tied=True), llama(1, layers=6, tied=True)),
}
LEGS = {"gap": (2, 4), "overlap": (3, 1), "edge": (1, 5)}
"""Where the first anchor is left (its layers before) and the second entered."""


def route(name, legs):
    a, b = FAMILIES[name]()
    stitch = nn.Linear(a.config.hidden_size, b.config.hidden_size)
    with torch.no_grad():
        stitch.weight.normal_(generator=torch.Generator().manual_seed(3)).mul_(a.config.hidden_size**-0.5)
    leave, enter = LEGS[legs]
    return (a, b, stitch), along((a, b), (a.model.layers[:leave], b.model.layers[enter:]), (stitch,)).eval()


@torch.no_grad()
def by_hand(parts, legs, tokens):
    """The route without a cache, layer by layer, by the anchors' own modules."""
    a, b, stitch = parts
    leave, enter = LEGS[legs]
    x = a.model.embed_tokens(tokens)
    places = torch.arange(tokens.shape[1])[None]
    mask = torch.full((tokens.shape[1],) * 2, float("-inf")).triu(1)[None, None]
    for anchor, layers in ((a, range(leave)), (b, range(enter, 6))):
        if anchor is b:
            x = stitch(x)
        rotary = anchor.model.rotary_emb(x, places)
        for number in layers:
            x = anchor.model.layers[number](x, attention_mask=mask, position_embeddings=rotary)
    return b.lm_head(b.model.norm(x))


@torch.no_grad()
@pytest.mark.parametrize("legs", LEGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_route_is_its_legs_and_the_anchors_stay_as_they_are(name, legs):
    parts, model = route(name, legs)
    before = [anchor(ids()) for anchor in parts[:2]]
    assert_close(model(ids()), by_hand(parts, legs, ids()), rtol=0, atol=1e-5)
    model.generate(ids(), max_new_tokens=2, do_sample=False, pad_token_id=0)
    for anchor, logits in zip(parts[:2], before, strict=True):
        assert_close(anchor(ids()), logits, rtol=0, atol=0)
    assert model.config.num_hidden_layers == LEGS[legs][0] + 6 - LEGS[legs][1]
    assert {id(p) for p in model.parameters()} <= {id(p) for part in parts for p in part.parameters()}


def generate(model, tokens, **how):
    how = {"max_new_tokens": 6, "pad_token_id": 0, **how}
    torch.manual_seed(11)
    return model.generate(tokens, **how)


WAYS = {
    "greedy": {"do_sample": False},
    "nucleus": {"do_sample": True, "top_p": 0.75, "temperature": 1.0},
    "beam": {"do_sample": False, "num_beams": 4},
    "nucleus and beam": {"do_sample": True, "top_p": 0.75, "num_beams": 4},
}


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "legs"), [("same heads", "overlap"), ("other positions", "gap"), ("other heads", "edge")]
)
def test_generating_with_a_cache_is_generating_without(name, legs, way):
    _, model = route(name, legs)
    with torch.random.fork_rng():
        plain = generate(model, ids(), use_cache=False, **WAYS[way])
        assert torch.equal(generate(model, ids(), **WAYS[way]), plain)
        if "beam" not in way:
            assert torch.equal(generate(model, ids(), cache_implementation="static", **WAYS[way]), plain)


@torch.no_grad()
@pytest.mark.parametrize(("name", "legs"), [("same heads", "overlap"), ("other positions", "gap")])
def test_padding_on_the_left_changes_nothing(name, legs):
    _, model = route(name, legs)
    alone = generate(model, ids(1), do_sample=False)[:, 7:]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids(1)], 1)
    both = torch.cat([padded, torch.cat([ids(1), ids(1, 3, 8)], 1)])
    mask = torch.ones_like(both)
    mask[0, :3] = 0
    assert torch.equal(generate(model, both, attention_mask=mask, do_sample=False)[:1, 10:], alone)


@torch.no_grad()
@pytest.mark.parametrize("legs", LEGS)
def test_logits_of_a_cached_step_are_those_of_the_whole(legs):
    _, model = route("same heads", legs)
    whole = model(ids())
    first = model(ids()[:, :4], use_cache=True)
    second = model(ids()[:, 4:], past_key_values=first.past_key_values, use_cache=True)
    assert_close(torch.cat([first.logits, second.logits], 1), whole, rtol=0, atol=1e-5)


def test_other_tokenisers_are_refused():
    other = llama(0)
    other.config.vocab_size = 77
    with pytest.raises(PlanError, match="`vocab_size` is 61 in one and 77 in the next"):
        check([llama(0).config, other.config])
