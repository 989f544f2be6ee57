"""Where the hub cannot be reached, that is found out within seconds, and its client does not try again and again."""

import socket
import threading
import time

import pytest
from huggingface_hub import constants

from tailor import backbones, hub
from tailor.data.images import open_data
from tailor.errors import DataError, ModelError


@pytest.fixture(params=["no answer", "silence"])
def offline(request, monkeypatch, tmp_path):
    """A machine whose name server says that there is no such name, or says nothing at all."""
    silence = threading.Event()

    def lookup(*arguments, **others):
        if request.param == "silence":
            silence.wait(20)
        raise socket.gaierror(-2, "Name or service not known")

    def again(seconds):
        raise AssertionError(f"waits {seconds} seconds to try again")

    monkeypatch.setattr(hub, "SECONDS", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", again)
    yield
    silence.set()


@pytest.mark.parametrize("name", ["resnet18", "hf-hub:someone/small"])
def test_a_model_s_name_is_answered_soon(offline, name):
    start = time.monotonic()
    with pytest.raises(ModelError, match="not on this machine, and the hub cannot be reached"):
        backbones.create(name)
    assert time.monotonic() - start < 5
    assert not constants.HF_HUB_OFFLINE  # what was so before


def test_the_name_of_data_is_answered_soon(offline):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="cannot be opened"):
        open_data("hfds/someone/images")
