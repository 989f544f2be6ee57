"""Trackers are begun before they are told anything, and a missing package is a sentence."""

import sys

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from tailor.errors import UsageError
from tailor.training import processes_here
from tailor.workflow.place import placed, started


class Noted:
    requires_logging_directory = True

    def __init__(self, name, folder):
        self.said = [name]

    def start(self):
        self.said.append("start")

    def store_init_configuration(self, values):
        self.said.append(values)


def test_a_tracker_is_begun_before_it_hears_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Noted)
    (tracker,) = started(("tensorboard",), tmp_path / "run", {"lr": 0.1, "betas": [0.9]})
    assert tracker.said == ["run", "start", {"lr": 0.1}]


def test_a_tracker_without_its_package_is_a_sentence(tmp_path, monkeypatch):
    for name in ("tensorboard", "tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="needs a package"):
        started(("tensorboard",), tmp_path / "run", {})


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_a_device_holds_while_it_is_asked_for(name):
    before = processes_here().device
    with placed(name):
        assert processes_here().device == torch.device(name)
    assert processes_here().device == before


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", "cuda:9999"])
def test_a_device_that_is_not_here_is_a_sentence(name):
    with pytest.raises(UsageError, match=f"there is no device `{name}` here") as caught, placed(name):
        pass
    assert "\n" not in caught.value.message and "`cpu`" in caught.value.hint
