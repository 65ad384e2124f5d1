"""Clients that load a broker until it dies, and note in a `Promises` what they do and what they are told.

Flow:   `load` runs them all until the connections break; `inspect` looks at all that the next process has.
Shape:  direct   -> orders, quick    one publisher with a large window, one with a window of one each
        fan      -> fan0 ... fan3    each message to four queues: such commits go through the journal
        work     -> tx0 ... tx2      transactions that take work and publish what becomes of it
        orders   -> dead             what is rejected there
"""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from amqp_client import Channel, Client, Confirm, Ended, Message, Refused
from broker.amqp import methods
from promises import DEAD, Copy, Promises, Transaction, body_of

FANNED = ("fan0", "fan1", "fan2", "fan3")
RESULTS = ("tx0", "tx1", "tx2")
QUEUES = ("orders", "quick", "work", *FANNED, *RESULTS)
# So many messages in a queue, and its publishers wait.
WAITING_MAX = 1500
DEFINED_MAX = 25

Task = Callable[[Client, Promises, random.Random], Awaitable[None]]


async def set_up(address: tuple[str, int]) -> None:
    """Declare everything; again is harmless."""
    client = await Client.connect(address)
    channel = await client.channel()
    await channel.exchange("fan", "fanout", durable=True)
    await channel.exchange("defined", durable=True)
    await channel.declare(DEAD, durable=True)
    for queue in QUEUES:
        letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
        await channel.declare(queue, durable=True, arguments=letters if queue == "orders" else {})
        if queue in FANNED:
            await channel.bind(queue, "fan")
    await client.close()


async def load(address: tuple[str, int], promises: Promises, seed: str, kill: Callable[[], None]) -> None:
    """Until `kill`, which comes at a random moment; the seed decides which."""
    chance = random.Random(seed)
    tasks: list[Task] = [
        publisher("p-large", "", "orders", ("orders",), window=500),
        publisher("p-one", "", "orders", ("orders",), window=1),
        publisher("p-quick", "", "quick", ("quick",), window=60),
        publisher("p-quick-one", "", "quick", ("quick",), window=1),
        publisher("p-fan", "fan", "", FANNED, window=40),
        publisher("p-fan-one", "fan", "", FANNED, window=1),
        publisher("p-work", "", "work", ("work",), window=10),
        consumer("orders", multiple=False, prefetch=50, rejects=0.1),
        consumer("orders", multiple=True, prefetch=200),
        consumer("quick", multiple=True, prefetch=0),
        consumer("fan0", multiple=False, prefetch=10),
        consumer("fan1", multiple=True, prefetch=100),
        consumer("fan3", multiple=True, prefetch=300),
        transactions,
        definer,
    ]
    killed = trio.Event()
    async with trio.open_nursery() as nursery:
        for number, task in enumerate(tasks):
            own_chance = random.Random(f"{seed}/{number}")
            nursery.start_soon(_until_killed, task, address, promises, own_chance, killed)
        await trio.sleep(chance.uniform(0.1, 2.2))
        killed.set()
        kill()


async def _until_killed(
    task: Task, address: tuple[str, int], promises: Promises, chance: random.Random, killed: trio.Event
) -> None:
    try:
        client = await Client.connect(address)
        try:
            await task(client, promises, chance)
        finally:
            client.drop()
    except (Ended, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        assert killed.is_set(), "the broker hung up"


def publisher(name: str, exchange: str, key: str, queues: tuple[str, ...], window: int) -> Task:
    async def run(client: Client, promises: Promises, chance: random.Random) -> None:
        channel = await client.channel()
        await channel.confirm_mode()
        unconfirmed: deque[tuple[int, float, list[Copy]]] = deque()
        tags = itertools.count(1)
        while True:
            while max(promises.waiting[queue] for queue in queues) > WAITING_MAX:
                await channel.depth(queues[0])
            octets = []
            for _ in range(chance.randint(1, window - len(unconfirmed))):
                identity = promises.next(name)
                copies = promises.publish(identity, queues)
                unconfirmed.append((next(tags), time.monotonic(), copies))
                octets.append(
                    channel.publishing(body_of(identity), to=key, exchange=exchange, delivery_mode=2)
                )
            await client.write(b"".join(octets))
            least = chance.randint(0, window - 1)
            while len(unconfirmed) > least:
                for confirm in [await channel.next(), *client.came(channel.number)]:
                    assert isinstance(confirm, Confirm)
                    _confirmed(promises, unconfirmed, confirm)

    return run


def _confirmed(
    promises: Promises, unconfirmed: deque[tuple[int, float, list[Copy]]], confirm: Confirm
) -> None:
    assert confirm.ack
    while unconfirmed and confirm.multiple and unconfirmed[0][0] <= confirm.tag:
        _, sent_at, copies = unconfirmed.popleft()
        promises.confirm(copies, sent_at)
    for waiting in [one for one in unconfirmed if one[0] == confirm.tag]:
        unconfirmed.remove(waiting)
        promises.confirm(waiting[2], waiting[1])


def consumer(queue: str, *, multiple: bool, prefetch: int, rejects: float = 0.0) -> Task:
    async def run(client: Client, promises: Promises, chance: random.Random) -> None:
        channel = await client.channel()
        await channel.qos(prefetch)
        await channel.consume(queue)
        newest: dict[str, int] = {}
        sent: list[Copy] = []
        while True:
            came = [await channel.message(), *client.came(channel.number)]
            copies = [promises.deliver(queue, message.body) for message in came]
            for message, copy in zip(came, copies, strict=True):
                if not message.redelivered:
                    publisher, number = copy.identity
                    assert number > newest.get(publisher, 0), f"{queue}: {copy.identity} is out of order"
                    newest[publisher] = number
            answers = _answers(promises, came, copies, chance, multiple=multiple, rejects=rejects)
            sent += [copy for copy in copies if copy.settled]
            await channel.send(*answers)
            if chance.random() < 0.2:
                await channel.qos(prefetch)
                promises.settled(sent)
                sent.clear()

    return run


def _answers(
    promises: Promises,
    came: list[Message],
    copies: list[Copy],
    chance: random.Random,
    *,
    multiple: bool,
    rejects: float,
) -> list[methods.Method]:
    """Some go back, some are rejected, the rest is acknowledged."""
    if multiple:
        for copy in copies:
            promises.settle(copy)
        return [methods.BasicAck(came[-1].tag, True)]
    answers: list[methods.Method] = []
    for message, copy in zip(came, copies, strict=True):
        drawn = chance.random()
        if drawn < 0.05:
            answers.append(methods.BasicNack(message.tag, False, True))
        elif drawn < 0.05 + rejects:
            promises.settle(copy, died=True)
            answers.append(methods.BasicReject(message.tag, False))
        else:
            promises.settle(copy)
            answers.append(methods.BasicAck(message.tag, False))
    return answers


async def transactions(client: Client, promises: Promises, chance: random.Random) -> None:
    channel = await client.channel()
    await channel.call(methods.TxSelect(), methods.TxSelectOk)
    await channel.qos(20)
    await channel.consume("work")
    while True:
        came = [await channel.message()]
        copies = [promises.deliver("work", message.body) for message in came]
        published = []
        octets = []
        for queue in chance.sample(RESULTS, chance.randint(1, len(RESULTS))):
            identity = promises.next("p-tx")
            published += promises.publish(identity, (queue,))
            octets.append(channel.publishing(body_of(identity), to=queue, delivery_mode=2))
        for copy in copies:
            promises.settle(copy)
        transaction = Transaction(published, copies)
        promises.transactions.append(transaction)
        await client.write(b"".join(octets))
        await channel.ack(came[-1].tag, multiple=True)
        await channel.call(methods.TxCommit(), methods.TxCommitOk)
        promises.transactions.remove(transaction)
        promises.confirm(published, 0.0)
        for copy in copies:
            copy.settled_safe = True


async def definer(client: Client, promises: Promises, chance: random.Random) -> None:
    """Queues and bindings come and go."""
    channel = await client.channel()
    known = promises.definitions
    for _ in range(DEFINED_MAX):
        name = promises.next("defined").number
        queue, binding = f"queue-{name}", f"binding-{name}"
        known[queue] = None
        await channel.declare(queue, durable=True)
        known[queue] = True
        known[binding] = None
        await channel.bind(queue, "defined", queue)
        known[binding] = True
        if chance.random() < 0.3:
            known[queue] = known[binding] = None
            await channel.call(methods.QueueDelete(queue=queue), methods.QueueDeleteOk)
            known[queue] = known[binding] = False


# ---- after a crash ----


async def inspect(address: tuple[str, int], promises: Promises, chance: random.Random) -> None:
    """Hold everything that is there against the promises; some of it is taken away."""
    client = await Client.connect(address)
    numbers = itertools.count(1)
    there: dict[str, list[Copy]] = {}
    for queue in QUEUES:
        channel, came = await _all_of(client, next(numbers), queue)
        there[queue] = promises.check_queue(queue, [message.body for message in came])
    channel, dead = await _all_of(client, next(numbers), DEAD)
    promises.check_letters([message.body for message in dead], there)
    promises.check_transactions(there)
    await _check_definitions(client, promises, numbers)
    promises.go_on(there)
    for number, queue in enumerate(QUEUES, 1):
        await _take_some(Channel(client, number), promises, there[queue], chance)
    if dead and chance.random() < 0.5:
        await channel.ack(0, multiple=True)
        await channel.settle()
        for letters in promises.letters.values():
            letters.there, letters.acked = 0, letters.there
    await client.close()


async def _all_of(client: Client, number: int, queue: str) -> tuple[Channel, list[Message]]:
    """All messages of a queue, unsettled."""
    channel = await client.channel(number)
    count = await channel.depth(queue)
    await channel.consume(queue)
    messages = await channel.messages(count)
    assert await channel.came() == [], f"{queue} has more than {count} messages"
    return channel, messages


async def _take_some(channel: Channel, promises: Promises, copies: list[Copy], chance: random.Random) -> None:
    """All, none, or the first so many; delivery tags count from 1."""
    taken = chance.choice((0, len(copies), chance.randint(0, len(copies))))
    if len(copies) > 2 * WAITING_MAX:
        taken = len(copies)
    for copy in copies[:taken]:
        promises.settle(copy)
    if taken:
        await channel.ack(taken, multiple=True)
        await channel.settle()
        promises.settled(copies[:taken])


async def _check_definitions(client: Client, promises: Promises, numbers: itertools.count[int]) -> None:
    known = promises.definitions
    channel = await client.channel(next(numbers))
    for name, expected in list(known.items()):
        if name.startswith("queue-"):
            try:
                await channel.declare(name, passive=True)
                found = True
            except Refused:
                await channel.send(methods.ChannelCloseOk())
                channel = await client.channel(next(numbers))
                found = False
        else:
            await channel.publish(
                b"", exchange="defined", to=name.replace("binding", "queue"), mandatory=True
            )
            found = not await channel.came()
        assert expected in (None, found), f"{name}: {found}, and {expected} was answered"
        known[name] = found
    for name in [name for name, found in known.items() if name.startswith("queue-") and found]:
        if len(known) > 4 * DEFINED_MAX:
            await channel.call(methods.QueueDelete(queue=name), methods.QueueDeleteOk)
            known[name] = known[name.replace("queue", "binding")] = False
    for name in [name for name, found in known.items() if not found and len(known) > 4 * DEFINED_MAX]:
        del known[name]
