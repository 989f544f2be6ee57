"""What a person reads: figures with their meaning, lists as tables."""

import pytest

from tailor.cli import main
from tailor.cli.show import print_people, print_prediction

ROUTES = [
    {
        "route": "1",
        "macs": 2_000_000,
        "params": 500,
        "interval": 1,
        "deployed": True,
        "latency_ms": 2.5,
        "accuracy": None,
    },
    {"route": "0.5-1.5", "macs": 1_500_000, "params": 400, "interval": 0, "deployed": False},
    {"route": "0", "macs": 1_000_000, "params": 300, "interval": 0, "deployed": True, "latency_ms": None},
]


def test_routes_are_a_table_of_those_that_are_deployed(capsys):
    print_people("stitch", {"bundle": "runs/p", "routes": ROUTES, "deployed": 2})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["route", "MACs", "parameters", "ms"] in lines  # no accuracy was measured
    assert lines[lines.index(["0", "1,000,000", "300", "-"]) + 1] == ["1", "2,000,000", "500", "2.5"]
    assert lines[-1][:4] == ["and", "1", "more", "routes,"]
    assert not any("interval" in line for line in lines)


def test_a_share_of_pixels_does_not_look_like_a_probability(capsys):
    print_prediction({"path": "a.png", "label": "road", "share": 0.403, "top": []}, False)
    assert capsys.readouterr().out == "a.png  road  on 40.3% of the pixels\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("adapt", "x", "--model", "m", "--method", "lora", "--alpha", "0.3"), "tailor prune --method sls"),
        (("adapt", "x", "--model", "m", "--method", "lora", "--scores", "y"), "`--method spt-"),
    ],
)
def test_a_flag_of_another_method_is_said_to_be_that(capsys, arguments, hint):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    said = capsys.readouterr().err
    assert done.value.code == 2 and hint in said and "--help" not in said
