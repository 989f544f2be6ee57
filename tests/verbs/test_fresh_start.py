"""`--retrain tfs` starts afresh what it trains, `1clr` where the cut left it."""

import pytest

import tailor

STILL = {"epochs": 1, "batch_size": 12, "lr": 1e-8, "recipe": {"min_lr": 0.0}}
CUTS = {
    "widths": {"method": "uniform", "criterion": "l1", "mlp": "50%", "train": "tunes", "repair": "none"},
    "blocks": {"method": "sls", "alpha": -1.0},
}
pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return tailor.adapt(photos, model="tailor_mini_ti", method="linear", out=out, epochs=1, batch_size=12, lr=0.05)


@pytest.mark.parametrize("cut", CUTS)
def test_training_from_scratch_begins_elsewhere_and_a_cycle_goes_on(adapted, photos, tmp_path, cut):
    before = tailor.load(adapted.bundle).head.weight.detach()
    moved = {}
    for retrain in ("1clr", "tfs"):
        made = tailor.prune(adapted.bundle, data=photos, retrain=retrain, out=tmp_path / retrain, **CUTS[cut], **STILL)
        after = tailor.load(made.bundle).head.weight.detach()
        moved[retrain] = float((after - before).norm() / before.norm())
    assert moved["1clr"] < 1e-4
    assert moved["tfs"] > 0.1  # from the seed's own draw again
