"""Progress in a log: a line now and then, whose estimate is of the stage that runs."""

import pytest

from tailor.events import Event
from tailor.evidence import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_that_comes_again_has_its_own_clock(clock, capsys):
    drawn = progress.LiveProgress()
    for start in (0.0, 1000.0):
        for done in (0, 40, 80):
            clock[0] = start + done
            drawn(Event("scoring", done, 80))
    first = ["scoring: 40/80, about 40 s left", "scoring: 80/80"]
    assert capsys.readouterr().err.splitlines() == 2 * first


def test_a_bar_that_comes_again_begins_anew(capsys):
    drawn = progress.LiveProgress()
    drawn.live = True
    for done in (0, 80, 0):
        drawn(Event("scoring", done, 80))
    (task,) = drawn.progress.tasks
    assert not task.finished
    assert task.visible


def test_what_a_resumed_stage_has_done_before_took_no_time_here(clock, capsys):
    drawn = progress.LiveProgress()
    for second, done in ((0, 60), (20, 70)):
        clock[0] = second
        drawn(Event("training", done, 80))
    assert capsys.readouterr().err.splitlines() == ["training: 70/80, about 20 s left"]
