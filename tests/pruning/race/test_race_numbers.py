"""The race in numbers alone: what was asked for, how time is divided, who goes on, what can be had."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from tailor.errors import TailorError, UsageError
from tailor.pruning.race.aim import Aim, aim_of
from tailor.pruning.race.candidates import Candidate, Judge, front, sentence, standard_error, table
from tailor.pruning.race.clock import Clock, epochs, part, rounds
from tailor.pruning.race.pace import Load, fitted
from tailor.pruning.race.settings import Race


def candidate(name, depth=6, ms=10.0, meets=True, **scores):
    return Candidate(name, depth, "", ms, 40 / ms, 100, 10, 1000, meets, True, scores)


def test_an_aim_is_one_amount():
    assert aim_of({"speed": "4x"}) == Aim("speed", 4.0, True)
    assert aim_of({"latency": "3ms", "speed": None}).limit(12.0) == 3.0
    assert aim_of({"macs": "25%"}).limit(80.0) == 20.0
    assert aim_of({"bytes": "2M"}).limit(8e6) == 2e6
    assert aim_of({"speed": "4x"}).limit(200.0) == 50.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing says how fast"),
        ({"speed": "4x", "macs": "50%"}, "`--speed` and `--macs` are two targets"),
        ({"speed": "4"}, "`--speed 4` is no speed-up"),
        ({"speed": "0.5x"}, "`--speed 0.5x` is no speed-up"),
        ({"latency": "3M"}, "`--latency 3M` has the wrong unit"),
        ({"params": "3ms"}, "`--params 3ms` has the wrong unit"),
    ],
)
def test_what_is_no_aim_is_told(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        aim_of(given)
    assert caught.value.hint


def test_a_milder_aim_lies_between_on_the_scale_of_ratios():
    assert Aim("speed", 4.0, True).milder(100.0, 0.5).limit(100.0) == pytest.approx(50.0)
    assert Aim("latency", 4.0, False).milder(16.0, 0.5).limit(16.0) == pytest.approx(8.0)


@pytest.mark.parametrize("entrants", range(1, 9))
@pytest.mark.parametrize("shares", [(), (0.2,), (0.2, 0.2), (0.1, 0.1, 0.1, 0.1)])
def test_every_round_is_the_better_half_and_the_time_is_used_up(entrants, shares):
    plan = rounds(entrants, shares)
    assert plan[-1].entrants == 1 and len(plan) <= len(shares) + 1
    assert sum(one.entrants * one.share for one in plan) == pytest.approx(1.0)
    for before, after in pairwise(plan[:-1]):
        assert after.entrants == (before.entrants + 1) // 2
    left, used = 100.0, 0.0
    for number, one in enumerate(plan):  # what a round does not use is there for those after it
        used = one.entrants * part(plan, number, left)
        left -= used
    assert left == pytest.approx(0.0, abs=1e-9)


def test_a_late_round_shortens_what_follows_and_not_the_last_alone():
    plan = rounds(4, (0.2, 0.2))
    assert part(plan, 1, 40.0) == pytest.approx(40.0 * 0.1 / 0.8)
    assert part(plan, 2, 7.0) == pytest.approx(7.0)


def test_epochs_fit_and_are_at_least_one():
    assert epochs(60.0, 2.5) == 24 and epochs(0.0, 2.5) == 1 and epochs(1e9, 1.0, most=30) == 30


def test_a_clock_counts_what_went_before():
    now = [100.0]
    clock = Clock(60.0, before=20.0, now=lambda: now[0])
    now[0] = 130.0
    assert clock.spent == 50.0 and clock.left == 10.0
    now[0] = 200.0
    assert clock.left == 0.0


def test_a_pace_is_found_again_and_never_runs_backwards():
    generator = np.random.default_rng(0)
    loads = [Load(*generator.uniform(1, 10, 4) * (1e6, 1e5, 1e3, 1)) for _ in range(8)]
    times = [1.5 + 0.7 * one.blocks + 2e-4 * one.channels + 3e-7 * one.macs for one in loads]
    pace = fitted(loads, times)
    assert pace.error < 1e-6
    assert pace(Load(2e6, 0, 3e3, 4)) == pytest.approx(1.5 + 2.8 + 0.6 + 0.6, rel=1e-4)
    noisy = fitted(loads, [t * f for t, f in zip(times, generator.uniform(0.7, 1.3, 8))])
    assert min(noisy.rest, noisy.block, noisy.channel, noisy.mac) >= 0 and noisy.error > 0.05
    assert loads[0].times(0.5).macs == loads[0].macs / 2


def test_the_better_half_by_the_last_stage():
    judge = Judge(0.7, True, 0.03)
    first = [candidate("a", cut=0.9), candidate("b", cut=0.1).scored("round 1", 0.8, 3.0), candidate("c", cut=0.5)]
    assert [one.name for one in judge.best(first, 2)] == ["a", "b"]
    smaller = Judge(0.7, False, 0.03)
    assert [one.name for one in smaller.best(first, 2)] == ["c", "b"]
    assert judge.equal(0.671) and not judge.equal(0.66) and judge.behind(0.75) == pytest.approx(-0.05)
    assert smaller.equal(0.729) and not smaller.equal(0.74)


def test_every_depth_starts_before_a_depth_starts_twice():
    judge = Judge(0.7, True, 0.03)
    field = [
        candidate("deep", 12, cut=0.2),
        candidate("best", 6, cut=0.6),
        candidate("twin", 6, cut=0.55),
        candidate("flat", 3, cut=0.3),
        candidate("slow", 9, cut=0.7, meets=False),
    ]
    assert [one.name for one in judge.entrants(field, 4)] == ["best", "flat", "deep", "twin"]
    assert [one.name for one in judge.entrants(field, 2)] == ["best", "flat"]


def test_the_front_is_what_nothing_beats_in_both():
    judge = Judge(0.7, True, 0.03)
    field = [candidate("a", ms=10, cut=0.5), candidate("b", ms=20, cut=0.6), candidate("c", ms=15, cut=0.4)]
    assert [one.name for one in front(field, judge)] == ["a", "b"]
    lines = table(front(field, judge), judge, "accuracy")
    assert len({line.index(last) for line, last in zip(lines, ("model", "a", "b"), strict=True)}) == 1
    assert "4.00x" in lines[1] and "0.500" in lines[1] and "-0.200" in lines[1]


def test_the_sentence_says_whether_it_is_equal():
    judge = Judge(0.7, True, 0.03)
    assert "equal within one standard error (0.030)" in sentence(candidate("a", cut=0.68), judge, "accuracy")
    assert "0.050 behind, more than one standard error" in sentence(candidate("a", cut=0.65), judge, "accuracy")


def test_the_standard_error_of_a_share_is_that_of_a_proportion():
    assert standard_error(0.64, 900, True) == pytest.approx(0.016)
    assert standard_error(-5.0, 900, False) == pytest.approx(0.1)


def test_an_epochs_time_is_of_the_trainings_alone():
    one = candidate("a").scored("cut", 0.1, 9.0)
    assert one.each is None
    one = dataclasses.replace(one.scored("round 1", 0.2, 6.0), epochs={"round 1": 3})
    assert one.each == 2.0


@pytest.mark.parametrize("wrong", [{"depths": 0}, {"rounding": ()}, {"rounds": (0.5, 0.5)}, {"finding": 1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(TailorError):
        Race(**wrong)
