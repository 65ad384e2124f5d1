"""The commands as a user runs them, in a process of their own: what they print, and the code they end with."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from amqp_client import Client, Refused
from broker import __version__
from patience import PROGRAM_S
from process import ROOT, BrokerProcess
from program import Program

NO_LISTENERS = ("--amqp", "off", "--kafka", "off", "--management", "off", "--metrics", "off")


def leveret(*arguments, prepare=None, **environment):
    """Run it to its end."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LEVERET_", "RABBITMQ_"))
    }
    ended = subprocess.run(
        [sys.executable, "-m", "broker", *map(str, arguments)],
        cwd=ROOT,
        env={**kept, "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        preexec_fn=prepare,
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.returncode, ended.stdout, ended.stderr


@contextmanager
def answering(*octets: bytes, pause: threading.Event | None = None) -> Iterator[str]:
    """A listener that sends this to the first who comes, one after the other, and waits for the event behind each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.recv(8)
                for some in octets:
                    connected.sendall(some)
                    if pause is not None:
                        pause.wait(PROGRAM_S)
                if pause is None:
                    connected.shutdown(socket.SHUT_WR)
                connected.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            if pause is not None:
                pause.set()
            thread.join(PROGRAM_S)


def test_version():
    assert leveret("version") == (0, f"leveret {__version__}\n", "")


def test_without_a_command_the_commands_are_listed():
    code, out, err = leveret()
    assert code == 2
    assert all(command in out + err for command in ("serve", "check-config", "ping", "version"))
    code, out, _ = leveret("serve", "--help")
    assert code == 0
    flags = ("--config", "--data", "--amqp", "--kafka", "--management", "--metrics")
    assert all(flag in out for flag in flags)


# ---- check-config ----


def test_check_config_says_that_a_file_is_right():
    code, out, err = leveret("check-config", "config/broker.toml")
    none = "0 exchanges, 0 queues, 0 topics, 0 bindings, 0 users"
    assert (code, out, err) == (0, f"config/broker.toml: ok, declares {none}\n", "")


def test_check_config_says_what_is_declared_and_touches_nothing(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(
        f'data = "{tmp_path / "data"}"\n[[queue]]\nname = "q"\n[[topic]]\nname = "t"\n'
        '[[user]]\nname = "u"\npassword = "p"\n'
    )
    code, out, _ = leveret("check-config", file, LEVERET_NONSENSE="1")  # the environment is another matter
    assert (code, out) == (0, f"{file}: ok, declares 0 exchanges, 1 queues, 1 topics, 0 bindings, 1 users\n")
    assert list(tmp_path.iterdir()) == [file]


def test_check_config_names_every_mistake(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text('[[queue]]\nname = "q"\narguments = { x-max-length = "many" }\n[log]\nlevel = "loud"\n')
    assert leveret("check-config", file) == (
        78,
        "",
        f"{file}: log.level: expected 'debug', 'info', 'warning' or 'error', got \"loud\"\n"
        f'{file}: queue[0].arguments.x-max-length: expected an integer >= 0, got "many"\n',
    )


def test_check_config_of_a_file_that_is_not_there(tmp_path):
    assert leveret("check-config", tmp_path / "no.toml") == (
        78,
        "",
        f"{tmp_path / 'no.toml'}: No such file or directory\n",
    )


# ---- ping ----


def test_ping_finds_a_broker(tmp_path):
    with BrokerProcess(tmp_path) as broker:
        address = ":".join(map(str, broker.amqp))
        said = (0, "pong from RabbitMQ 3.13.7\n", "")
        assert leveret("ping", "--amqp", address) == said
        assert leveret("ping", LEVERET_AMQP=f":{broker.amqp[1]}") == said
        assert leveret("ping", LEVERET_AMQP=f"0.0.0.0:{broker.amqp[1]}") == said


def test_ping_finds_nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert leveret("ping", "--amqp", address) == (
            69,
            "",
            f"no broker at {address}: Connection refused\n",
        )


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:99999", "off", "localhost:"])
def test_ping_of_what_is_no_address(address):
    assert leveret("ping", "--amqp", address) == (69, "", f"no broker at {address}: expected host:port\n")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak AMQP 0-9-1"),
        (b"AMQP\x00\x01\x00\x00", "it does not speak AMQP 0-9-1"),
        (b"", "it closed the connection"),
        (b"\x01\x00", "it closed the connection"),
    ],
)
def test_ping_of_somebody_else(octets, reason):
    with answering(octets) as address:
        assert leveret("ping", "--amqp", address) == (69, "", f"no broker at {address}: {reason}\n")


def test_ping_does_not_wait_longer_than_it_is_told():
    pause = threading.Event()
    with answering(b"\x01\x00\x00", b"\x00", pause=pause) as address:
        started = time.monotonic()
        code, _, err = leveret("ping", "--amqp", address, "--timeout", "0.3")
        assert (code, err) == (69, f"no broker at {address}: timed out\n")
        assert time.monotonic() - started < PROGRAM_S / 2


# ---- serve ----


def test_it_says_where_it_listens_and_when_it_is_ready(tmp_path):
    with BrokerProcess(tmp_path, management=True, kafka=True) as broker:
        assert [line.split(" on ")[0] for line in broker.output[:-2]] == [
            "Listening for amqp",
            "Listening for kafka",
            "Listening for http",
            "Listening for http/prometheus",
        ]
        assert broker.output[-2].startswith(
            f"Leveret {__version__}, data in {broker.data}, 0 queues, 0 topics, "
        )
        assert broker.output[-1] == "Server startup complete"
        for address in broker.addresses.values():
            socket.create_connection(address, timeout=PROGRAM_S).close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_with_0(tmp_path, number):
    with Program("-m", "broker", "serve", "--data", tmp_path, *NO_LISTENERS, environment={}) as broker:
        broker.line("Server startup complete")
        assert (broker.interrupt if number == signal.SIGINT else broker.terminate)() == 0
        assert f"{number.name} received" in broker.output
        assert broker.output.endswith("Leveret stopped\n")
    assert not (tmp_path / "reserve").exists()


def test_ctrl_c_while_it_starts_shows_no_trace(tmp_path):
    program = (
        "import os, signal, trio\nimport broker.cli.serve as serve\n"
        "async def apply(node, declared):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    await trio.sleep_forever()\n"
        "serve.apply = apply\n"
    )
    arguments = ["serve", "--data", tmp_path, *NO_LISTENERS]
    with Program(
        "-c", f"{program}from broker.cli import main\nmain()\n", *arguments, environment={}
    ) as broker:
        assert broker.wait() in (1, 130)  # as old and new versions of typer have it
        assert "Traceback" not in broker.output


def test_flags_go_over_the_environment_and_that_over_the_file(tmp_path):
    file = tmp_path / "broker.toml"
    wrong = tmp_path / "wrong"
    file.write_text(f'data = "{wrong}"\n[listeners]\namqp = "127.0.0.1:0"\nmanagement = "127.0.0.1:0"\n')
    environment = {
        "LEVERET_CONFIG": str(file),
        "LEVERET_DATA": str(wrong),
        "LEVERET_MANAGEMENT": "off",
        "LEVERET_METRICS": "off",
        "LEVERET_KAFKA": "off",
    }
    with Program("-m", "broker", "serve", "--data", tmp_path / "right", environment=environment) as broker:
        broker.line("Server startup complete")
        assert broker.interrupt() == 0
        assert [line.split()[2] for line in broker.output.splitlines() if line.startswith("Listening")] == [
            "amqp"
        ]
    assert (tmp_path / "right").is_dir()
    assert not wrong.exists()


async def test_rabbitmqs_variables_name_the_first_user(tmp_path):
    environment = {
        "RABBITMQ_DEFAULT_USER": "alice",
        "RABBITMQ_DEFAULT_PASS": "secret",
        "RABBITMQ_DEFAULT_VHOST": "shop",
    }
    with BrokerProcess(tmp_path, environment=environment, kafka=True) as broker:
        client = await Client.connect(broker.amqp, user="alice", password="secret", vhost="shop")
        client.drop()
        with pytest.raises(Refused, match="ACCESS_REFUSED"):
            await Client.connect(broker.amqp)
        # Kafka's clients would see / as ever.
        assert "kafka.vhost: there is no virtual host '/'" in broker.log.read_text()


def test_conflicts_are_said_and_do_not_keep_it_from_starting(tmp_path):
    text = '[[queue]]\nname = "q"\n[[topic]]\nname = "t"\n'
    with BrokerProcess(tmp_path, config=text) as broker:
        assert broker.stop() == 0
    assert "configuration:" not in broker.log.read_text()
    changed = text.replace('"q"', '"q"\narguments = { x-max-length = 1 }') + "partitions = 2\n"
    with BrokerProcess(tmp_path, config=changed) as broker:
        assert broker.stop() == 0
    said = [
        line.split(" ERROR ")[1].strip() for line in broker.log.read_text().splitlines() if "ERROR" in line
    ]
    assert said == [
        "configuration: queue 'q': inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
        "received the value '1' of type 'signedint' but current is none",
        "configuration: topic 't': partitions are 1, in the file 2",
    ]


def test_the_log_can_be_json(tmp_path):
    with BrokerProcess(tmp_path, config='[log]\nformat = "json"\nlevel = "info"\n') as broker:
        assert broker.stop() == 0
    lines = [json.loads(line) for line in broker.log.read_text().splitlines()]
    assert {"level": "info", "logger": "broker", "message": "SIGTERM received"}.items() <= lines[0].items()


# ---- starts that cannot be ----


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--amqp", "--kafka", "--management", "--metrics"):
            arguments = [*NO_LISTENERS, flag, f"127.0.0.1:{port}"]
            code, out, err = leveret("serve", "--data", tmp_path / "data", *arguments)
            said = f"leveret: cannot listen on 127.0.0.1:{port}: Address already in use"
            assert (code, out.splitlines()[-1], err) == (70, said, "")
            assert "Listening" not in out
            assert not (tmp_path / "data" / "reserve").exists()


def test_a_host_that_there_is_not(tmp_path):
    code, out, err = leveret("serve", "--data", tmp_path, *NO_LISTENERS, "--amqp", "no host:0")
    assert (code, err) == (70, "")
    assert out.startswith("leveret: cannot listen on no host:0: ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--config", "/no/such.toml"], {}, "/no/such.toml: No such file or directory"),
        ([], {"LEVERET_CONFIG": "/no/such.toml"}, "/no/such.toml: No such file or directory"),
        (["--config", "."], {}, ".: Is a directory"),
        (
            ["--amqp", "somewhere"],
            {},
            '--amqp: listeners.amqp: expected host:port, :port, a port or off, got "somewhere"',
        ),
        ([], {"LEVERET_LIMITS__MEMRY": "1"}, "LEVERET_LIMITS__MEMRY: limits.memry: there is no such key"),
    ],
)
def test_settings_that_cannot_be(arguments, environment, said):
    assert leveret("serve", *NO_LISTENERS, *arguments, **environment) == (78, "", f"{said}\n")


def test_a_file_with_a_mistake(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(f'data = "{tmp_path / "data"}"\nqueue = 5\n')
    said = f"{file}: queue: expected tables, as [[queue]] begins one, got 5\n"
    assert leveret("serve", "--config", file) == (78, "", said)
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_is_a_file(tmp_path):
    file = tmp_path / "data"
    file.write_text("")
    for data in (file, file / "below"):
        code, out, err = leveret("serve", "--data", data, *NO_LISTENERS)
        assert (code, err) == (70, "")
        assert out.startswith(f"leveret: {file}")
        assert out.count("\n") == 1


def obey_permissions() -> None:
    """Root may do everything, unless it gives that up."""
    if os.getuid() == 0:
        drop_capability, dac_override = 24, 1
        assert ctypes.CDLL(None).prctl(drop_capability, dac_override, 0, 0, 0) == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_data_folder_that_nobody_may_write_to(tmp_path, there):
    data = tmp_path / "data"
    if there:
        data.mkdir()
    closed = data if there else tmp_path
    closed.chmod(0o500)
    try:
        code, out, err = leveret("serve", "--data", data, *NO_LISTENERS, prepare=partial(obey_permissions))
    finally:
        closed.chmod(0o700)
    assert (code, err) == (70, "")
    assert out.startswith(f"leveret: {data}")
    assert out.endswith(": Permission denied\n")
    assert out.count("\n") == 1


def test_definitions_that_are_none(tmp_path):
    (tmp_path / "definitions.sqlite").write_bytes(b"something else entirely" * 100)
    code, out, err = leveret("serve", "--data", tmp_path, *NO_LISTENERS)
    assert (code, err) == (70, "")
    assert "definitions.sqlite" in out
    assert out.count("\n") == 1
