"""The harness of the tests that need a broker in a process of its own."""

import resource
import socket
import subprocess
import sys

import pytest

from patience import PROGRAM_S, WAIT_S
from process import ROOT, BrokerProcess


def test_a_broker_starts_answers_and_stops(tmp_path):
    with BrokerProcess(tmp_path) as broker:
        with socket.create_connection(broker.amqp, timeout=WAIT_S) as sock:
            sock.sendall(b"AMQP\0\0\x09\x01")
            assert sock.recv(1) == b"\x01"
        assert broker.stop() == 0
        assert broker.output[-1] == "Leveret stopped"


def test_a_broker_starts_again_on_the_data_of_a_killed_one(tmp_path):
    with BrokerProcess(tmp_path) as broker:
        first = broker.pid
        broker.kill()
        broker.start()
        assert broker.pid != first
        assert (broker.data / "definitions.sqlite").exists()


def test_a_broker_that_does_not_start_says_why(tmp_path):
    with (
        pytest.raises(AssertionError, match="there is no such key"),
        BrokerProcess(tmp_path, config="nonsense = 1"),
    ):
        raise RuntimeError("never reached")


def test_a_broker_takes_all_the_descriptors_it_may_have(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        with BrokerProcess(tmp_path) as broker:
            assert resource.prlimit(broker.pid, resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_second_broker_on_the_same_folder_is_refused(tmp_path):
    with BrokerProcess(tmp_path) as broker:
        command = [
            sys.executable,
            "-m",
            "broker",
            "serve",
            "--data",
            str(broker.data),
            "--amqp",
            "127.0.0.1:0",
        ]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PROGRAM_S)
        assert second.returncode == 75
        assert f"in use by another broker (process {broker.pid})" in second.stdout
