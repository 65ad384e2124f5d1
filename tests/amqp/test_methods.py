from __future__ import annotations

from typing import Any

import pamqp.base
import pamqp.commands
import pamqp.frame
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amqp_strategies import any_method
from broker.amqp import methods
from broker.amqp.errors import LocalProtocolError, RemoteProtocolError
from broker.amqp.methods import Method
from broker.amqp.spec import ReplyCode

# Of AMQP 0-9-1 and RabbitMQ's additions: class, method, its name.
NAMES = {
    (10, 10): "connection.start",
    (10, 11): "connection.start-ok",
    (10, 20): "connection.secure",
    (10, 21): "connection.secure-ok",
    (10, 30): "connection.tune",
    (10, 31): "connection.tune-ok",
    (10, 40): "connection.open",
    (10, 41): "connection.open-ok",
    (10, 50): "connection.close",
    (10, 51): "connection.close-ok",
    (10, 60): "connection.blocked",
    (10, 61): "connection.unblocked",
    (10, 70): "connection.update-secret",
    (10, 71): "connection.update-secret-ok",
    (20, 10): "channel.open",
    (20, 11): "channel.open-ok",
    (20, 20): "channel.flow",
    (20, 21): "channel.flow-ok",
    (20, 40): "channel.close",
    (20, 41): "channel.close-ok",
    (30, 10): "access.request",
    (30, 11): "access.request-ok",
    (40, 10): "exchange.declare",
    (40, 11): "exchange.declare-ok",
    (40, 20): "exchange.delete",
    (40, 21): "exchange.delete-ok",
    (40, 30): "exchange.bind",
    (40, 31): "exchange.bind-ok",
    (40, 40): "exchange.unbind",
    (40, 51): "exchange.unbind-ok",
    (50, 10): "queue.declare",
    (50, 11): "queue.declare-ok",
    (50, 20): "queue.bind",
    (50, 21): "queue.bind-ok",
    (50, 30): "queue.purge",
    (50, 31): "queue.purge-ok",
    (50, 40): "queue.delete",
    (50, 41): "queue.delete-ok",
    (50, 50): "queue.unbind",
    (50, 51): "queue.unbind-ok",
    (60, 10): "basic.qos",
    (60, 11): "basic.qos-ok",
    (60, 20): "basic.consume",
    (60, 21): "basic.consume-ok",
    (60, 30): "basic.cancel",
    (60, 31): "basic.cancel-ok",
    (60, 40): "basic.publish",
    (60, 50): "basic.return",
    (60, 60): "basic.deliver",
    (60, 70): "basic.get",
    (60, 71): "basic.get-ok",
    (60, 72): "basic.get-empty",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 100): "basic.recover-async",
    (60, 110): "basic.recover",
    (60, 111): "basic.recover-ok",
    (60, 120): "basic.nack",
    (85, 10): "confirm.select",
    (85, 11): "confirm.select-ok",
    (90, 10): "tx.select",
    (90, 11): "tx.select-ok",
    (90, 20): "tx.commit",
    (90, 21): "tx.commit-ok",
    (90, 30): "tx.rollback",
    (90, 31): "tx.rollback-ok",
}


def test_every_method_is_there() -> None:
    assert {id: kind.name for id, kind in methods.BY_ID.items()} == NAMES


@given(any_method)
def test_a_method_comes_back(method: Method) -> None:
    assert methods.decode(methods.encode_payload(method)) == method


@given(any_method, st.integers(0, 2**16 - 1))
def test_a_frame_is_its_payload_in_a_frame(method: Method, channel: int) -> None:
    payload = methods.encode_payload(method)
    frame = methods.encode(channel, method)
    assert frame == b"\x01" + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


@given(any_method, st.data())
def test_a_method_cut_short_is_refused(method: Method, data: st.DataObject) -> None:
    payload = methods.encode_payload(method)
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    with pytest.raises(RemoteProtocolError) as error:
        methods.decode(cut)
    assert error.value.code is (ReplyCode.FRAME_ERROR if len(cut) < 4 else ReplyCode.SYNTAX_ERROR)


@given(any_method, st.binary(min_size=1, max_size=8))
def test_a_method_that_runs_on_is_refused(method: Method, tail: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="octets behind the arguments") as error:
        methods.decode(methods.encode_payload(method) + tail)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


@given(st.sampled_from(sorted(methods.BY_ID)), st.binary(max_size=60))
def test_any_octets_are_a_method_or_an_error(id: tuple[int, int], octets: bytes) -> None:
    payload = id[0].to_bytes(2) + id[1].to_bytes(2) + octets
    try:
        method = methods.decode(payload)
    except RemoteProtocolError:
        return
    assert method.id == id


@given(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)).filter(lambda id: id not in NAMES))
def test_another_method_is_not_implemented(id: tuple[int, int]) -> None:
    with pytest.raises(RemoteProtocolError, match="unimplemented method") as error:
        methods.decode(id[0].to_bytes(2) + id[1].to_bytes(2))
    assert error.value.code is ReplyCode.COMMAND_INVALID
    assert (error.value.class_id, error.value.method_id) == id


@pytest.mark.parametrize(
    "method",
    [
        methods.ConnectionTune(channel_max=2**16),
        methods.ConnectionTune(heartbeat=-1),
        methods.BasicAck(delivery_tag=2**64),
        methods.QueueDeclareOk(message_count=2**32),
        methods.QueueDeclare(queue="q" * 256),
        methods.QueueDeclare(arguments={"x": object()}),
    ],
)
def test_what_does_not_fit_is_our_mistake(method: Method) -> None:
    with pytest.raises(LocalProtocolError) as error:
        methods.encode(1, method)
    assert error.value.code is ReplyCode.SYNTAX_ERROR


def test_a_method_has_its_fields_and_no_others() -> None:
    assert methods.BasicAck(7, multiple=True).values() == [7, True]
    for wrong in ({"tag": 1}, {"delivery_tag": 1, "more": 2}):
        with pytest.raises(TypeError, match="BasicAck has the fields delivery_tag, multiple"):
            methods.BasicAck(**wrong)
    with pytest.raises(TypeError):
        methods.BasicAck(1, True, 3)
    with pytest.raises(TypeError):
        methods.BasicAck(1, delivery_tag=1)


def test_methods_are_equal_by_class_and_fields() -> None:
    assert methods.BasicAck(1) == methods.BasicAck(1, False)
    assert methods.BasicAck(1) != methods.BasicAck(2)
    assert methods.TxSelect() != methods.TxCommit()
    assert repr(methods.BasicAck(1)) == "BasicAck(delivery_tag=1, multiple=False)"


# ---- beside another implementation ----


def _theirs(method: Method) -> pamqp.base.Frame:
    kind = pamqp.commands.INDEX_MAPPING[method.id[0] << 16 | method.id[1]]
    made = kind.__new__(kind)
    for name, value in zip(kind.__slots__, method.values(), strict=True):
        setattr(made, name, value.decode() if isinstance(value, bytes) else value)
    made.validate = lambda: None  # type: ignore[method-assign]  # it knows which names are usual
    return made


def _plain(method: Method) -> Method:
    """Without what pamqp reads differently: tables (see `test_wire`), long strings that are not ASCII, and
    delivery tags from 2**63 on, which it takes for signed."""
    values = []
    for value, (_, kind) in zip(method.values(), method.layout, strict=True):
        if kind == "Table":
            value = {}
        elif kind == "LongStr":
            value = bytes(octet & 0x7F for octet in value)
        elif kind == "LongLong":
            value &= 2**63 - 1
        values.append(value)
    return type(method)(*values)


_UNKNOWN_THERE = {id for id in methods.BY_ID if id[0] << 16 | id[1] not in pamqp.commands.INDEX_MAPPING}


def test_pamqp_knows_most_methods() -> None:
    assert {methods.BY_ID[id].name for id in _UNKNOWN_THERE} <= {"access.request", "access.request-ok"}


@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
@given(any_method.filter(lambda method: method.id not in _UNKNOWN_THERE).map(_plain))
@example(_plain(methods.BasicAck(2**63)))
def test_pamqp_reads_what_we_write(method: Method) -> None:
    frame = methods.encode(5, method)
    size, channel, theirs = pamqp.frame.unmarshal(frame)
    assert (size, channel) == (len(frame), 5)
    assert isinstance(theirs, pamqp.base.Frame)
    assert theirs.name.lower() == method.name.replace("-", "")
    read = [getattr(theirs, name) for name in theirs.__slots__]
    assert [_octets(value) for value in read] == [_octets(value) for value in method.values()]


@given(any_method.filter(lambda method: method.id not in _UNKNOWN_THERE).map(_plain))
@example(_plain(methods.BasicAck(2**64 - 1)))
def test_we_read_what_pamqp_writes(method: Method) -> None:
    theirs = _theirs(method)
    assert methods.decode(theirs.index.to_bytes(4) + theirs.marshal()) == method


def _octets(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
