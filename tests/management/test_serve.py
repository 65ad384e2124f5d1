"""The API of a broker in a process of its own: where it listens, and how the process ends."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import time

import pytest

from broker.management.options import HttpLimits
from patience import PROGRAM_S, WAIT_S
from process import BrokerProcess

LOGIN = {"authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}


@pytest.fixture
def broker(tmp_path):
    with BrokerProcess(tmp_path, management=True) as process:
        yield process


def ask(broker, method, path, body=None, *, protocol="http", headers=LOGIN):
    connection = http.client.HTTPConnection(*broker.addresses[protocol], timeout=WAIT_S)
    try:
        connection.request(method, path, body and json.dumps(body), dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_process_says_where_it_listens_and_serves_there(broker):
    assert set(broker.addresses) == {"amqp", "http", "http/prometheus"}
    status, body = ask(broker, "GET", "/api/overview")
    assert status == 200
    listeners = {(entry["protocol"], entry["port"]) for entry in json.loads(body)["listeners"]}
    assert listeners == {(protocol, port) for protocol, (_, port) in broker.addresses.items()}
    status, body = ask(broker, "GET", "/metrics", protocol="http/prometheus", headers={})
    assert status == 200
    assert b"rabbitmq_identity_info{" in body
    assert broker.stop() == 0
    assert broker.output[-1] == "Leveret stopped"


def test_what_was_answered_is_there_after_a_crash(broker):
    assert ask(broker, "PUT", "/api/queues/%2F/kept", {"durable": True})[0] == 201
    body = {
        "properties": {"delivery_mode": 2},
        "routing_key": "kept",
        "payload": "safe",
        "payload_encoding": "string",
    }
    assert ask(broker, "POST", "/api/exchanges/%2F/amq.default/publish", body) == (200, b'{"routed":true}')
    assert ask(broker, "PUT", "/api/users/new", {"password": "p", "tags": "administrator"})[0] == 201
    broker.kill()
    broker.start()
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    other = {"authorization": "Basic " + base64.b64encode(b"new:p").decode()}
    assert ask(broker, "GET", "/api/whoami", headers=other)[0] == 200
    status, body = ask(broker, "POST", "/api/queues/%2F/kept/get", get)
    assert (status, json.loads(body)[0]["payload"]) == (200, "safe")


def test_a_client_that_is_stuck_does_not_hold_the_process_up(broker):
    for number in range(300):
        ask(broker, "PUT", f"/api/queues/%2F/{number}-{'x' * 200}")
    stuck = []
    for _ in range(3):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(broker.addresses["http"])
        request = f"GET /api/queues HTTP/1.1\r\nhost: x\r\nauthorization: {LOGIN['authorization']}\r\n\r\n"
        sock.sendall(request.encode() * 20)
        assert sock.recv(12) == b"HTTP/1.1 200"
        stuck.append(sock)
    idle = socket.create_connection(broker.addresses["http"])
    started = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - started < HttpLimits().stop_timeout_s + WAIT_S
    for sock in (*stuck, idle):
        sock.close()


def test_a_listener_that_is_off_is_off(tmp_path):
    with BrokerProcess(tmp_path, "--management", "off", "--metrics", "127.0.0.1:0") as broker:
        assert set(broker.addresses) == {"amqp", "http/prometheus"}
        assert ask(broker, "GET", "/metrics", protocol="http/prometheus", headers={})[0] == 200


@pytest.mark.parametrize("flag", ["--management", "--metrics"])
def test_a_port_that_is_taken_is_said(tmp_path, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broker = BrokerProcess(tmp_path, flag, f"127.0.0.1:{port}", management=True)
        with pytest.raises(
            AssertionError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
        ):
            broker.start()


@pytest.mark.skipif(shutil.which("rabbitmqadmin") is None, reason="rabbitmqadmin is not installed")
def test_rabbitmqadmin_works(broker):
    host, port = broker.addresses["http"]

    def run(*command):
        done = subprocess.run(
            ["rabbitmqadmin", "-H", host, "-P", str(port), "--format", "raw_json", *command],
            capture_output=True,
            text=True,
            timeout=PROGRAM_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert json.loads(run("show", "overview"))[0]["product_name"] == "RabbitMQ"
    run("declare", "queue", "name=orders", "durable=true", 'arguments={"x-max-length": 5}')
    run("declare", "exchange", "name=x", "type=topic")
    run("declare", "binding", "source=x", "destination=orders", "routing_key=a.#")
    assert "Message published" in run("publish", "exchange=x", "routing_key=a.b", "payload=hello")
    assert "NOT routed" in run("publish", "exchange=x", "routing_key=b", "payload=hello")
    (queue,) = json.loads(run("list", "queues", "name", "messages", "arguments"))
    assert queue == {"name": "orders", "messages": 1, "arguments": {"x-max-length": 5}}
    (got,) = json.loads(run("get", "queue=orders", "ackmode=ack_requeue_false"))
    assert (got["payload"], got["routing_key"]) == ("hello", "a.b")
    run("purge", "queue", "name=orders")
    run("declare", "vhost", "name=v")
    run("declare", "user", "name=u", "password=p", "tags=monitoring")
    run("declare", "permission", "vhost=v", "user=u", "configure=.*", "write=.*", "read=.*")
    assert {entry["user"] for entry in json.loads(run("list", "permissions"))} == {"guest", "u"}
    for kind in ("exchanges", "bindings", "vhosts", "users", "connections", "channels", "consumers", "nodes"):
        run("list", kind)
    run(
        "delete",
        "binding",
        "source=x",
        "destination_type=queue",
        "destination=orders",
        "properties_key=a.%23",
    )
    run("delete", "queue", "name=orders")
    run("delete", "exchange", "name=x")
    run("delete", "user", "name=u")
    run("delete", "vhost", "name=v")
