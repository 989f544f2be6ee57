"""An output has one writer at a time, and a dead one's lock is nobody's."""

import json
import os
import socket
import subprocess
import sys
from threading import Barrier, Thread

import pytest

from tailor.errors import BundleError
from tailor.workflow.destination import Destination
from tailor.workflow.lock import locked
from tailor.workflow.output import output
from workflow.invented_runs import names, run, said

NO_PROCESS = json.dumps({"host": socket.gethostname(), "pid": 10**30})


HOLD = """
import fcntl, json, socket, os, sys, time
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
json.dump({"host": socket.gethostname(), "pid": os.getpid()}, handle, )
handle.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_one_writer_at_a_time(tmp_path):
    out, lock = tmp_path / "b", tmp_path / ".b.lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BundleError, match=f"another run is writing to `.*b`: process {other.pid} on") as caught:
            run(out)
        assert str(lock) in caught.value.hint and names(tmp_path) == [".b.lock"]
    finally:
        other.kill()
        other.communicate()
    run(out)  # its writer is dead: the lock is taken over
    assert said(out) == "new" and names(tmp_path) == ["b"]


def test_of_several_that_take_a_dead_one_s_lock_over_at_once_one_gets_it(tmp_path):
    """Threads of one process too: its own number in the file says nothing of who has it."""
    for text in ("", json.dumps({"host": socket.gethostname(), "pid": os.getpid()})):
        (tmp_path / ".b.lock").write_text(text)
        start, done, told = Barrier(6), Barrier(6), []

        def take(start=start, done=done, told=told):
            start.wait()
            try:
                with locked(tmp_path / "b"):
                    told.append("had it")
                    done.wait()
            except BundleError as error:
                told.append(error.message)
                done.wait()

        threads = [Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told.count("had it") == 1 and sum("another run is writing" in one for one in told) == 5
        assert names(tmp_path) == []


def test_a_lock_that_is_no_file_is_a_sentence(tmp_path):
    os.mkfifo(tmp_path / ".b.lock")
    with pytest.raises(BundleError, match=r"`.*\.b\.lock` is no file"):
        run(tmp_path / "b")


@pytest.mark.parametrize("held", ["", "{", "[]", '{"host": 3}', '{"host": "here", "pid": "x"}', NO_PROCESS])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path, held):
    (tmp_path / ".b.lock").write_text(held)
    run(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / ".b.lock").write_text(json.dumps({"host": "elsewhere.invalid", "pid": 1}))
    with pytest.raises(BundleError, match=r"process 1 on `elsewhere\.invalid`"):
        run(tmp_path / "b")


def test_the_lock_is_held_while_the_run_lasts_and_says_who_has_it(tmp_path):
    with output(Destination(tmp_path / "b")):
        held = json.loads((tmp_path / ".b.lock").read_text())
        assert held == {"host": socket.gethostname(), "pid": os.getpid()}
    assert names(tmp_path) == ["b"]
