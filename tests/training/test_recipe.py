import json
from dataclasses import asdict

import pytest
import yaml
from pydantic import TypeAdapter

from tailor.errors import UsageError
from tailor.training import Distil, Recipe, read_recipe, retraining


def refusal(**settings):
    with pytest.raises(UsageError) as caught:
        read_recipe(settings)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_recipe_survives_json():
    recipe = Recipe(epochs=7, betas=(0.9, 0.98), distil=Distil(kind="hard"), ema=0.99)
    assert TypeAdapter(Recipe).validate_json(TypeAdapter(Recipe).dump_json(recipe)) == recipe
    assert read_recipe(json.loads(json.dumps(asdict(recipe)))) == recipe
    assert read_recipe({}) == Recipe()


def test_a_rate_may_be_written_as_yaml_reads_it():
    settings = yaml.safe_load("{lr: 1e-3, weight_decay: 5E-2, min_lr: 1.0e-6}")
    assert isinstance(settings["lr"], str)  # the trap
    assert read_recipe(settings) == Recipe(lr=1e-3, weight_decay=0.05, min_lr=1e-6)
    assert "`lr`" in refusal(lr="0.1").message


def test_warm_up_is_a_tenth_unless_said():
    assert Recipe(epochs=30).warmup == 3
    assert Recipe(epochs=30, warmup_epochs=0.0).warmup == 0


def test_an_unknown_setting_gets_a_suggestion():
    assert "`label_smoothing`" in refusal(label_smooting=0.1).hint


def test_an_unknown_name_gets_a_suggestion():
    assert "`adamw`" in refusal(optimizer="adamww").hint
    assert "`cosine`" in refusal(schedule="cosin").hint


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"epochs": "10"},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"warmup_epochs": 200.0},
        {"accumulate": 0},
        {"precision": "fp8"},
        {"distil": {"kind": "soft", "wieght": 0.5}},
        {"distil": {"temperature": 0.0}},
        {"label_smoothing": 1.5},
        {"lr": 1e-6},  # below min_lr
        {"seed": -1},
    ],
    ids=str,
)
def test_a_value_that_means_nothing_is_named(settings):
    key = next(iter(settings))
    error = refusal(**settings)
    assert f"`{key}" in error.message or f"`{key}`" in error.hint
    assert error.hint


def test_retraining_is_the_notes():
    recipe = Recipe(epochs=20, lr=3e-3)
    assert retraining(recipe, "1clr") == recipe == retraining(recipe, "tfs")
    gentle = retraining(recipe, "ft")
    assert (gentle.lr, gentle.schedule, gentle.warmup, gentle.epochs) == (1e-5, "constant", 0, 20)
    with pytest.raises(UsageError, match="1crl"):
        retraining(recipe, "1crl")
