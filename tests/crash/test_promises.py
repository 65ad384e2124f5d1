"""The twin of the crash tests sees what it is there to see."""

import time

import pytest

from promises import SETTLED_S, Copy, Identity, Promises, Transaction, body_of


@pytest.fixture
def promises() -> Promises:
    """Three confirmed messages in one queue."""
    made = Promises()
    for _ in range(3):
        made.confirm(made.publish(made.next("p"), ["q"]), 0.0)
    return made


def bodies(*numbers: int) -> list[bytes]:
    return [body_of(Identity("p", number)) for number in numbers]


def copy_of(promises: Promises, number: int) -> Copy:
    return promises.copies["q"][Identity("p", number)]


def after_a_crash(promises: Promises, *numbers: int) -> None:
    promises.go_on({"q": promises.check_queue("q", bodies(*numbers))})


def test_all_that_was_confirmed_is_what_must_be_there(promises):
    after_a_crash(promises, 1, 2, 3)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (bodies(1, 3), "1 confirmed messages are lost"),
        (bodies(1, 3, 2), "comes behind 3"),
        (bodies(1, 2, 2, 3), "comes behind 2"),
        (bodies(1, 2, 3, 4), "was never published"),
        ([body.replace(b"p:2:", b"p:3:") for body in bodies(1, 2)], "not what was sent"),
    ],
)
def test_what_is_lost_or_out_of_order_or_wrong_is_seen(promises, found, said):
    with pytest.raises(AssertionError, match=said):
        promises.check_queue("q", found)


def test_what_was_not_confirmed_may_be_there_and_stays_what_it_was(promises):
    promises.publish(promises.next("p"), ["q"])
    promises.publish(promises.next("p"), ["q"])
    after_a_crash(promises, 1, 2, 3, 4)
    with pytest.raises(AssertionError, match="lost"):
        after_a_crash(promises, 1, 2, 3)
    with pytest.raises(AssertionError, match="back from the dead"):
        after_a_crash(promises, 1, 2, 3, 4, 5)


def test_what_was_settled_long_ago_must_not_come_back(promises):
    promises.settle(copy_of(promises, 1))
    promises.settle(copy_of(promises, 2))
    promises.settled([copy_of(promises, 1)])
    promises.confirm([], time.monotonic() + SETTLED_S + 1)
    promises.check_queue("q", bodies(2, 3))
    promises.check_queue("q", bodies(3))
    with pytest.raises(AssertionError, match="was settled"):
        promises.check_queue("q", bodies(1, 2, 3))


def test_a_dead_message_is_here_or_there(promises):
    promises.settle(copy_of(promises, 2), died=True)
    with pytest.raises(AssertionError, match="0 dead letters, not 1-1"):
        promises.check_letters([], {"q": promises.check_queue("q", bodies(1, 3))})
    promises.check_letters([], {"q": promises.check_queue("q", bodies(1, 2, 3))})
    with pytest.raises(AssertionError, match="2 dead letters, not 0-1"):
        promises.check_letters(bodies(2, 2), {"q": promises.check_queue("q", bodies(1, 2, 3))})


def test_half_a_transaction_is_seen(promises):
    made = promises.publish(promises.next("p"), ["q"])
    promises.settle(copy_of(promises, 1))
    promises.transactions.append(Transaction(made, [copy_of(promises, 1)]))
    with pytest.raises(AssertionError, match="half a transaction"):
        promises.check_transactions({"q": promises.check_queue("q", bodies(1, 2, 3, 4))})
