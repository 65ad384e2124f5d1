"""The checker of the log's crash tests sees what it is there to see."""

from __future__ import annotations

import pytest

from log_history import (
    Acknowledged,
    Began,
    CommitAnswered,
    CommitAsked,
    CommitFound,
    FaultKind,
    History,
    Log,
    Read,
    Sent,
    check,
    read_events,
)
from promises import Identity

P = "t-0"
COUNT = 6


def record(number, producer="p"):
    return Identity(producer, number)


def good():
    """Six records of one producer; a group reads them and commits twice, and its next member goes on at four."""
    events = []
    for number in range(COUNT):
        events.append(Sent(number, P, record(number)))
        events.append(Acknowledged(10 + number, P, record(number), number))
    events.append(Began(19, "one", P, 0))
    events += [Read(20 + number, "g", "one", P, number, record(number)) for number in range(4)]
    events += [CommitAsked(30, "g", P, 2), CommitAnswered(31, "g", P, 2)]
    events += [CommitAsked(32, "g", P, 4), CommitAnswered(33, "g", P, 4)]
    events += [CommitFound(40, 41, "g", P, 4), Began(41.5, "two", P, 4)]
    events += [Read(42 + number, "g", "two", P, number, record(number)) for number in range(4, COUNT)]
    return events, Log(0, COUNT, {number: record(number) for number in range(COUNT)})


def kinds(events, log):
    return {fault.kind for fault in check(events, {P: log})}


def without(events, kind, **fields):
    kept = [
        event
        for event in events
        if not (type(event) is kind and all(getattr(event, name) == value for name, value in fields.items()))
    ]
    assert len(kept) < len(events)
    return kept


def test_a_log_is_without_fault():
    events, log = good()
    assert check(events, {P: log}) == []
    assert check(reversed(events), {P: log}) == []


def test_what_was_not_acknowledged_may_be_there_or_not():
    events, log = good()
    events.append(Sent(50, P, record(6)))
    assert kinds(events, log) == set()
    log.records[6], log.end = record(6), 7
    assert kinds(events, log) == set()


def test_what_was_let_go_is_not_lost():
    """By retention; whoever reads begins behind it."""
    events, log = good()
    log.start = 3
    for offset in range(3):
        del log.records[offset]
    assert kinds(events, log) == set()


def test_an_unanswered_commit_is_found_or_not():
    events, log = good()
    events.append(CommitAsked(50, "g", P, 6))
    for found in (4, 6):
        assert kinds([*events, CommitFound(60, 61, "g", P, found)], log) == set()


def test_an_answer_that_comes_while_somebody_asks_need_not_be_known():
    events, log = good()
    events += [CommitAsked(50, "g", P, 6), CommitAnswered(55, "g", P, 6), CommitFound(54, 56, "g", P, 4)]
    assert kinds(events, log) == set()


def test_groups_and_partitions_are_apart():
    events, log = good()
    events.append(CommitFound(60, 61, "other", P, None))
    events += [Sent(0, "t-1", record(9)), Acknowledged(1, "t-1", record(9), 0)]
    assert check(events, {P: log, "t-1": Log(0, 1, {0: record(9)})}) == []


def lost(events, log):
    del log.records[5]
    log.end = 5
    return events


def lost_that_was_read_and_never_acknowledged(events, log):
    lost(events, log)
    return without(events, Acknowledged, offset=5)


def hole(events, log):
    del log.records[3]
    return without(without(events, Acknowledged, offset=3), Read, offset=3)


def invented(events, log):
    log.records[6], log.end = record(1, "stranger"), 7
    return events


def sent_elsewhere(events, log):
    log.records[6], log.end = record(9), 7
    return [*events, Sent(0, "t-1", record(9))]


def changed(events, log):
    log.records[5] = record(6)
    return [*events, Sent(5, P, record(6))]


def twice(events, log):
    log.records[6], log.end = record(5), 7
    return events


def acknowledged_elsewhere(events, log):
    return [*events, Acknowledged(50, P, record(5), 4)]


def out_of_order(events, log):
    log.records, log.end = {0: record(2), 1: record(1)}, 2
    return [Sent(0, P, record(1)), Sent(0, P, record(2))]


def passed_over(events, log):
    return without(events, Read, reader="two", offset=4)


def passed_over_later(events, log):
    return without(events, Read, reader="one", offset=2)


def read_again(events, log):
    return [*events, Read(60, "g", "two", P, 4, record(4))]


def commit_unread(events, log):
    return [*without(events, Read, offset=5), CommitAsked(50, "g", P, 6)]


def commit_of_what_is_read_later(events, log):
    return [*without(events, CommitAsked, offset=2), CommitAsked(20.5, "g", P, 2)]


def commit_ahead(events, log):
    return [*events, CommitAnswered(50, "g", P, 7)]


def commit_invented(events, log):
    return [*events, CommitFound(50, 51, "g", P, 5)]


def commit_found_before_it_was_asked_for(events, log):
    return [*events, CommitFound(29, 29.5, "g", P, 2)]


def commit_forgotten(events, log):
    return [*events, CommitFound(50, 51, "g", P, 2)]


def commit_gone(events, log):
    return [*events, CommitFound(50, 51, "g", P, None)]


def commit_found_and_forgotten(events, log):
    """Unanswered, but somebody was told of it."""
    asked = [CommitAsked(50, "g", P, 6), CommitFound(51, 52, "g", P, 6)]
    return [*events, *asked, CommitFound(53, 54, "g", P, 4)]


SPOILT = [
    (lost, FaultKind.LOST, set()),
    (lost_that_was_read_and_never_acknowledged, FaultKind.LOST, set()),
    (hole, FaultKind.HOLE, {FaultKind.SKIPPED, FaultKind.COMMIT_UNREAD}),
    (invented, FaultKind.INVENTED, set()),
    (sent_elsewhere, FaultKind.INVENTED, set()),
    (changed, FaultKind.CHANGED, set()),
    (twice, FaultKind.TWICE, set()),
    (acknowledged_elsewhere, FaultKind.TWICE, {FaultKind.CHANGED}),
    (out_of_order, FaultKind.ORDER, set()),
    (passed_over, FaultKind.SKIPPED, set()),
    (passed_over_later, FaultKind.SKIPPED, {FaultKind.COMMIT_UNREAD}),
    (read_again, FaultKind.BACK, set()),
    (commit_unread, FaultKind.COMMIT_UNREAD, set()),
    (commit_of_what_is_read_later, FaultKind.COMMIT_UNREAD, set()),
    (commit_ahead, FaultKind.COMMIT_AHEAD, set()),
    (commit_invented, FaultKind.COMMIT_INVENTED, set()),
    (commit_found_before_it_was_asked_for, FaultKind.COMMIT_INVENTED, set()),
    (commit_forgotten, FaultKind.COMMIT_FORGOTTEN, set()),
    (commit_gone, FaultKind.COMMIT_FORGOTTEN, set()),
    (commit_found_and_forgotten, FaultKind.COMMIT_FORGOTTEN, set()),
]


@pytest.mark.parametrize(
    ("spoil", "kind", "beside"), SPOILT, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_kind_of_fault_is_found(spoil, kind, beside):
    events, log = good()
    spoiled = spoil(events, log)
    assert kinds(spoiled, log) - beside == {kind}


def test_every_kind_is_tried():
    assert {kind for _, kind, _ in SPOILT} == set(FaultKind)


def test_what_was_noted_comes_back_from_a_file(tmp_path):
    file = tmp_path / "history"
    history = History(file)
    history.sent(P, record(1))
    history.acknowledged(P, record(1), 0)
    history.began("one", P, 0)
    history.read("g", "one", P, 0, record(1))
    history.commit_asked("g", P, 1)
    history.commit_answered("g", P, 1)
    history.commit_found(0.0, "g", P, None)
    history.close()
    with file.open("a") as cut:
        cut.write('["Sent", 1')
    assert read_events(file) == history.events
    assert [type(event) for event in read_events(file)] == [type(event) for event in history.events]
    assert len(history.events) == 7
