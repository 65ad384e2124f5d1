"""Bodies of requests: what is taken, and what is said of what is not."""

import json

import pytest

from broker.management.http import Refused
from broker.management.schema import (
    BindingBody,
    ExchangeBody,
    GetBody,
    OffsetsBody,
    PermissionBody,
    PublishBody,
    QueueBody,
    UserBody,
    UsersBody,
    VhostBody,
    parse,
)


@pytest.mark.parametrize("raw", [b"", b"null", b"undefined", b" {} ", b'{"unknown": 1}'])
def test_no_body_is_an_empty_one(raw):
    assert parse(QueueBody, raw) == QueueBody()


def test_defaults_are_those_of_amqp():
    queue = QueueBody()
    assert (queue.durable, queue.auto_delete, queue.arguments) == (False, False, {})
    exchange = ExchangeBody()
    assert (exchange.type, exchange.durable, exchange.internal) == ("direct", False, False)


@pytest.mark.parametrize(("raw", "value"), [(b"true", True), (b'"true"', True), (b'"false"', False)])
def test_a_boolean_may_be_a_string(raw, value):
    assert parse(QueueBody, b'{"durable": %b}' % raw).durable is value


def test_an_empty_list_is_an_empty_table():
    assert parse(QueueBody, b'{"arguments": []}').arguments == {}
    assert parse(QueueBody, b'{"arguments": null}').arguments == {}
    body = b'{"routing_key": "", "properties": [], "payload": "", "payload_encoding": "string"}'
    assert parse(PublishBody, body).properties.headers is None


def test_arguments_keep_their_types():
    raw = b'{"arguments": {"a": 1, "b": "x", "c": true, "d": 1.5, "e": {"f": [1, null]}, "g": 9007199254740993}}'
    arguments = parse(QueueBody, raw).arguments
    assert arguments == {
        "a": 1, "b": "x", "c": True, "d": 1.5, "e": {"f": [1, None]}, "g": 9007199254740993,
    }  # fmt: skip
    assert type(arguments["c"]) is bool


@pytest.mark.parametrize(
    ("raw", "tags"), [(b'"a, b"', ("a", "b")), (b'["a"]', ("a",)), (b'""', ()), (b"[]", ())]
)
def test_tags_are_a_string_or_a_list(raw, tags):
    assert parse(UserBody, b'{"tags": %b}' % raw).tags == tags
    assert parse(VhostBody, b'{"tags": %b}' % raw).tags == tags


def test_a_count_may_be_a_string():
    body = b'{"count": "5", "ackmode": "ack_requeue_true", "encoding": "auto"}'
    assert parse(GetBody, body).count == 5


@pytest.mark.parametrize(
    ("kind", "raw", "reason"),
    [
        (QueueBody, b"{", "not_json: EOF while parsing an object at line 1 column 1"),
        (QueueBody, b"[]", "the body: expected an object, got []"),
        (QueueBody, b'"{}"', 'the body: expected an object, got "{}"'),
        (QueueBody, b'{"durable": "yes"}', 'durable: expected true or false, got "yes"'),
        (QueueBody, b'{"durable": 1}', "durable: expected true or false, got 1"),
        (QueueBody, b'{"arguments": [1]}', "arguments: expected an object, got [1]"),
        (
            QueueBody,
            b'{"arguments": {"a": 9223372036854775808}}',
            "arguments: the integer 9223372036854775808 does not fit into 64 bits, "
            'got {"a": 9223372036854775808}',
        ),
        (BindingBody, b'{"routing_key": 5}', "routing_key: expected a string, got 5"),
        (
            BindingBody,
            b'{"routing_key": "%b"}' % ("ü".encode() * 128),
            "routing_key: expected at most 255 bytes, this has 256, got ",
        ),
        (PermissionBody, b'{"configure": "", "write": 1}', "write: expected a string, got 1; read: this key is missing"),
        (UserBody, b'{"tags": [1]}', "tags: expected a string with commas, or a list of strings, got [1]"),
        (UserBody, b'{"tags": ["%b"]}' % (b"t" * 256), "tags.0: expected at most 255 bytes, this has 256, got "),
        (VhostBody, b'{"tags": "%b"}' % (b"t," * 65), "tags: expected at most 64 tags, these are 65, got "),
        (VhostBody, b'{"description": "%b"}' % (b"d" * 4097), "description: expected at most 4096 bytes, this has 4097, "),
        (
            PermissionBody,
            b'{"configure": "%b", "write": "", "read": ""}' % (b"p" * 4097),
            "configure: expected at most 4096 bytes, this has 4097, got ",
        ),
        (UsersBody, b'{"users": [1' + b",1" * 9000 + b"]}", "users.0: expected a string, got 1"),
        (
            OffsetsBody,
            b'{"topic": "t", "to": "earliest", "partitions": [1.5' + b",1.5" * 9000 + b"]}",
            "partitions.0: expected an integer, got 1.5",
        ),
        (VhostBody, b'{"default_queue_type": "quorum"}', "default_queue_type: expected 'classic' or 'undefined'"),
        (
            GetBody,
            b'{"count": 1.5, "ackmode": "no", "encoding": "auto", "truncate": -1}',
            "count: expected an integer, got 1.5; ackmode: expected 'ack_requeue_true', 'ack_requeue_false', "
            "'reject_requeue_true' or 'reject_requeue_false', got \"no\"; truncate: expected a number >= 0, got -1",
        ),
        (
            PublishBody,
            b'{"properties": {"priority": 256, "headers": 3, "timestamp": "x"}, "routing_key": "", "payload": 1}',
            "properties.headers: expected an object, got 3; properties.priority: expected a number <= 255, got 256; "
            'properties.timestamp: expected an integer, got "x"; payload: expected a string, got 1; '
            "payload_encoding: this key is missing",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key(kind, raw, reason):
    with pytest.raises(Refused) as refused:
        parse(kind, raw)
    assert refused.value.response.status == 400
    said = json.loads(refused.value.response.body)
    assert said["error"] == "bad_request"
    assert said["reason"].startswith(reason)
    assert len(said["reason"]) < 1000


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b'{"routing_key": "\\ud800"}',
        b'{"arguments": {"\\ud800": 1}}',
        b'{"arguments": ' + b'{"a": ' * 500 + b"1" + b"}" * 501,
        b'{"arguments": ' + b'{"a": ' * 40 + b"1" + b"}" * 41,
        b'{"arguments": {"a": ' + b"1" * 5000 + b"}}",
        b'{"arguments": {"' + b"k" * 256 + b'": 1}}',
    ],
)
def test_what_nobody_means_is_refused(raw):
    with pytest.raises(Refused) as refused:
        parse(BindingBody, raw)
    assert refused.value.response.status == 400
    assert len(refused.value.response.body) < 1000
