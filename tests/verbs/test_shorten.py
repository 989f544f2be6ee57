"""Settings of SLS from Python and from a file's `sls:` section."""

import importlib
import json

import pytest

import tailor
from tailor import bundle
from tailor.cli import main
from tailor.errors import PlanError, UsageError
from tailor.pruning.sls import Curve

SLS = importlib.import_module("tailor.pruning.sls")
RANDOM = {"weights": "random", "alpha": 0.9}
pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture
def curve(monkeypatch):
    """What the blocks separate is set by the test."""

    def is_(*scores):
        maps = lambda features: {i: value[:, :2].numpy() for i, value in enumerate(features.values)}  # noqa: E731
        monkeypatch.setattr(SLS, "measure", lambda features, settings, **_: Curve(scores, maps(features)))

    return is_


def test_the_walk_ends_at_the_lowest_depth(curve, photos, tmp_path):
    curve(*[1.0] * 12)
    made = tailor.prune("tailor_mini_s", data=photos, sls={"lowest": 6}, out=tmp_path / "b", **RANDOM)
    assert (made.kept_blocks, made.blocks) == (6, 12)
    facts = bundle.read(made.bundle).spec.pruning[-1].facts
    assert (facts["lowest"], facts["below_zero"]) == (6, "keep")


def test_a_last_block_that_separates_nothing_can_have_a_threshold_from_the_file(curve, photos, tmp_path, capsys):
    curve(*[-0.5] * 6, *[-0.1] * 6)
    (tmp_path / "c.yaml").write_text("sls: {below_zero: shift}\n")
    arguments = ["prune", "tailor_mini_s", "--weights", "random", "--data", photos, "--alpha", "0.9", "--json"]
    kept = []
    for name, more in {"kept": [], "shifted": ["--config", str(tmp_path / "c.yaml")]}.items():
        with pytest.raises(SystemExit) as done:
            main([*arguments, *more, "-o", str(tmp_path / name)])
        assert not done.value.code
        kept.append(json.loads(capsys.readouterr().out.splitlines()[-1])["kept_blocks"])
    assert kept == [12, 7]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"sls": {"lowst": 2}}, UsageError, "`sls:` has no setting `lowst`\nhint: did you mean `lowest`"),
        ({"sls": {"alpha": 0.2}}, UsageError, "no setting `alpha`"),
        ({"sls": {"below_zero": "drop"}}, UsageError, "`below_zero` of `sls:`"),
        ({"sls": {"lowest": 0}}, PlanError, "at least one block, found: 0"),
        ({"sls": {"lowest": 2}, "method": "uniform", "mlp": "50%", "alpha": None}, UsageError, "is not for `uniform`"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_opened(settings, error, says, tmp_path):
    with pytest.raises(error) as raised:
        tailor.prune("nothing", **{**RANDOM, "data": "nothing", "out": tmp_path / "b", **settings})
    assert says in str(raised.value)
