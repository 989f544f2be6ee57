"""What a name may hold, and what a terminal is shown of it."""

import pytest

from tailor.visible import visible


@pytest.mark.parametrize(
    "name",
    [
        "plain.jpg",
        "a [web].jpg",
        "c:rose:.jpg",
        "d[/x]/q.jpg",
        "straße 日本.png",
        "👩\u200d🌾",
        "`a`",
        "a\\nb",
        "a　b",
        "",
    ],
)
def test_what_is_shown_stays(name):
    assert visible(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("a\x7f\x9b2J", "a\\x7f\\x9b2J"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\u2028b", "a\\u2028b"),
        ("caf\udce9.png", "caf\\xe9.png"),
        ("a\ud800b", "a\\ud800b"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(name, shown):
    assert visible(name) == shown
    assert visible(name).encode("utf-8").decode("utf-8") == shown
