"""What a configuration file declares: made if it is missing, left as it is and said if it is different."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from inspect import isawaitable

import pytest
import trio

from broker.config.layers import declarations
from broker.config.reading import read_config
from broker.node.declarations import apply
from broker.node.node import NodeOptions, open_node
from broker.node.passwords import matches
from broker.node.portions import Portions


class Files:
    """Starts of a broker on one data folder, each with a file."""

    def __init__(self, folder):
        self._folder = folder
        self.data = str(folder / "data")

    async def start(self, text, then=None, **options):
        """What is said when the file is applied; `then` is called with the node while it runs."""
        file = self._folder / "broker.toml"
        file.write_text(text)
        declared = declarations(read_config(file, {}))
        node = open_node(NodeOptions(self.data, reserve_size=0, **options))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.run)
                nursery.start_soon(self._collect, node)
                conflicts = await apply(node, declared)
                if then is not None:
                    if isawaitable(waiting := then(node)):
                        await waiting
                    await node.settled()
                nursery.cancel_scope.cancel()
        finally:
            node.close()
        return conflicts

    def revision(self):
        """It rises with each transaction in which definitions change."""
        with closing(sqlite3.connect(self._folder / "data" / "definitions.sqlite")) as store:
            return store.execute("SELECT number FROM revision").fetchone()[0]

    async def _collect(self, node):
        """What the pump does: hear of commits that are safe."""
        while True:
            await trio.lowlevel.wait_readable(node.flusher.fileno())
            node.flusher.collect()


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


STREAM = """
[[exchange]]
name = "events"
type = "fanout"

[[queue]]
name = "log"
arguments = { x-queue-type = "stream", x-max-age = "7D" }

[[binding]]
source = "events"
destination = "log"
"""


async def test_a_queue_of_the_type_stream_is_a_topic(files):
    def look(node):
        topic = node.topics.topic("/", "log")
        assert (len(topic.partitions), topic.settings.retention_ms) == (1, 7 * 86_400_000)
        (binding,) = node.topology.vhost("/").bindings()
        assert (binding.destination.kind, binding.destination.name) == ("topic", "log")

    assert await files.start(STREAM, look) == []
    assert await files.start(STREAM, look) == []
    assert await files.start(STREAM.replace("7D", "8D"), look) == [
        "queue 'log': inequivalent arg 'x-max-age' for queue 'log' in vhost '/': "
        "received '8D' but the topic has retention.ms=604800000"
    ]


@pytest.mark.parametrize("first", ["", 'arguments = { x-queue-type = "stream" }'])
async def test_a_queue_stays_of_its_type(files, first):
    second = "" if first else 'arguments = { x-queue-type = "stream" }'
    assert await files.start(f'[[queue]]\nname = "q"\n{first}') == []
    (line,) = await files.start(f'[[queue]]\nname = "q"\n{second}')
    assert line.startswith("queue 'q': inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received ")


ALL = """
[[vhost]]
name = "spare"

[[user]]
name = "clerk"
password_hash = "c2FsdFE+PAdKAOtAktZCDvlN9lUpz9BbTmR4d6tQnJaCzESR"
hashing_algorithm = "rabbit_password_hashing_sha256"
tags = ["monitoring"]
[[user.permission]]
vhost = "shop"
configure = ""
write = "^orders"
read = ".*"

[[exchange]]
name = "orders"
vhost = "shop"
type = "topic"
arguments = { alternate-exchange = "rest" }

[[exchange]]
name = "rest"
vhost = "shop"
type = "fanout"
internal = true
auto_delete = true
durable = false

[[queue]]
name = "bills"
vhost = "shop"
arguments = { x-message-ttl = 60000 }

[[topic]]
name = "clicks"
vhost = "shop"
partitions = 3
configs = { "retention.ms" = 86400000, "min.cleanable.dirty.ratio" = 0.25, "preallocate" = false }

[[binding]]
vhost = "shop"
source = "orders"
destination = "bills"
routing_key = "order.*.paid"
arguments = { note = "kept" }

[[binding]]
vhost = "shop"
source = "orders"
destination = "clicks"
destination_type = "topic"
routing_key = "#"

[[binding]]
vhost = "shop"
source = "orders"
destination = "rest"
destination_type = "exchange"
"""


def everything(node):
    """What there is that somebody declared."""
    vhost = node.topology.vhost("shop")
    clerk = node.accounts.user("clerk")
    return {
        "vhosts": sorted(node.topology.vhosts),
        "user": (clerk.tags, sorted(clerk.permissions), clerk.permissions["shop"].write),
        "exchanges": {
            one.name: (one.type, one.durable, one.auto_delete, one.internal, dict(one.arguments))
            for one in vhost.exchanges.values()
            if one.name and not one.name.startswith("amq.")
        },
        "queues": {
            one.name: (one.durable, one.auto_delete, dict(one.arguments)) for one in vhost.queues.values()
        },
        "topics": {
            one.name: (len(one.partitions), one.configs)
            for one in node.topics.topics("shop")
            if not one.internal
        },
        "bindings": sorted(
            (one.source, one.destination.kind, one.destination.name, one.routing_key, str(one.arguments))
            for one in vhost.bindings()
        ),
    }


EVERYTHING = {
    "vhosts": ["shop", "spare"],
    "user": (("monitoring",), ["shop"], "^orders"),
    "exchanges": {
        "orders": ("topic", True, False, False, {"alternate-exchange": "rest"}),
        "rest": ("fanout", False, True, True, {}),
    },
    "queues": {"bills": (True, False, {"x-message-ttl": 60000})},
    "topics": {
        "clicks": (
            3,
            {"retention.ms": "86400000", "min.cleanable.dirty.ratio": "0.25", "preallocate": "false"},
        )
    },
    "bindings": [
        ("orders", "exchange", "rest", "", "{}"),
        ("orders", "queue", "bills", "order.*.paid", "{'note': 'kept'}"),
        ("orders", "topic", "clicks", "#", "{}"),
    ],
}


async def test_everything_that_is_declared_is_made_and_lasts(files):
    def look(node):
        assert everything(node) == EVERYTHING

    assert await files.start(ALL, look) == []
    # What is not durable is made anew; nothing else is touched.
    assert await files.start(ALL, look) == []


async def test_who_applies_twice_writes_once(files):
    await files.start(ALL)
    before = files.revision()
    await files.start(ALL)
    assert files.revision() == before


CONFLICTS = [
    # the line in the file, another one, and what is said of that
    (
        'exchange "e" type = "topic"',
        'exchange "e" type = "direct"',
        "exchange 'e': inequivalent arg 'type' for exchange 'e' in vhost '/': received 'direct' but current is 'topic'",
    ),
    (
        'exchange "e" internal = true',
        'exchange "e"',
        "exchange 'e': inequivalent arg 'internal' for exchange 'e' in vhost '/': received 'false' but current is 'true'",
    ),
    (
        'queue "q"',
        'queue "q" arguments = { x-max-length = 5 }',
        "queue 'q': inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
        "received the value '5' of type 'signedint' but current is none",
    ),
    (
        'queue "q"',
        'queue "q" auto_delete = true',
        "queue 'q': inequivalent arg 'auto_delete' for queue 'q' in vhost '/': "
        "received 'true' but current is 'false'",
    ),
    (
        'queue "q"',
        'topic "q"',
        "topic 'q': there is a queue 'q' in vhost '/'",
    ),
    (
        'topic "t" partitions = 2',
        'topic "t" partitions = 3',
        "topic 't': partitions are 2, in the file 3",
    ),
    (
        'topic "t" configs = { "retention.ms" = 1000, flush = "os" }',
        'topic "t" configs = { "retention.ms" = 2000 }',
        "topic 't': flush is os, not in the file; retention.ms is 1000, in the file 2000",
    ),
    (
        'topic "t"',
        'topic "t" configs = { "retention.ms" = 2000 }',
        "topic 't': retention.ms is 604800000, in the file 2000",
    ),
]


def written(line):
    """`queue "q" durable = true` as TOML."""
    kind, name, rest = (*line.split(" ", 2), "")[:3]
    return f"[[{kind}]]\nname = {name}\n" + rest + "\n"


@pytest.mark.parametrize(("before", "now", "line"), CONFLICTS)
async def test_what_is_different_stays_and_is_said_and_the_rest_is_made(files, before, now, line):
    first, last = written('queue "first"'), written('queue "last"') + written('topic "last-topic"')
    before, now = written(before), written(now)

    def look(node):
        found.append(
            [
                {one.name: (one.type, one.internal) for one in node.topology.vhost("/").exchanges.values()},
                {one.name: (one.auto_delete, dict(one.arguments)) for one in node.topology.queues()},
                {one.name: (len(one.partitions), one.configs) for one in node.topics.topics("/")},
            ]
        )

    found = []
    assert await files.start(before, look) == []
    assert await files.start(first + now + last, look) == [line]
    assert await files.start(first + now + last, look) == [line]
    for was, became, later in zip(*found, strict=True):
        assert (
            became
            == later
            == was | {name: became[name] for name in ("first", "last", "last-topic") if name in became}
        )
    assert {"first", "last"} <= found[1][1].keys()
    assert "last-topic" in found[1][2]


async def test_a_binding_without_an_end_is_said(files):
    text = (
        '[[exchange]]\nname = "e"\n[[binding]]\nsource = "{}"\ndestination = "{}"\ndestination_type = "{}"\n'
    )
    assert await files.start(text.format("e", "q", "queue")) == [
        "binding of 'q' to 'e': no queue 'q' in vhost '/'"
    ]
    assert await files.start(text.format("e", "t", "topic")) == [
        "binding of 't' to 'e': no topic 't' in vhost '/'"
    ]
    assert await files.start(text.format("x", "e", "exchange")) == [
        "binding of 'e' to 'x': no exchange 'x' in vhost '/'"
    ]


async def test_reserved_names_are_said(files):
    text = '[[exchange]]\nname = "amq.mine"\n[[queue]]\nname = "amq.mine"\n[[topic]]\nname = "t"\n'
    assert await files.start(text, lambda node: node.topics.topic("/", "t")) == [
        "exchange 'amq.mine': exchange name 'amq.mine' contains reserved prefix 'amq.*'",
        "queue 'amq.mine': queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ]


# ---- topics that somebody changes while the broker runs ----

TOPIC = '[[topic]]\nname = "t"\npartitions = 2\nconfigs = { "retention.ms" = 1000 }\n'


async def test_what_was_configured_at_runtime_stays_and_is_said(files):
    def configure(node):
        node.topics.configure(node.topics.topic("/", "t"), {"retention.ms": "1000", "segment.ms": "5000"})

    assert await files.start(TOPIC, configure) == []

    def look(node):
        assert node.topics.topic("/", "t").configs == {"retention.ms": "1000", "segment.ms": "5000"}

    for _ in range(2):
        assert await files.start(TOPIC, look) == ["topic 't': segment.ms is 5000, not in the file"]
    said = TOPIC.replace("1000", '1000, "segment.ms" = 5000')
    assert await files.start(said, look) == []


async def test_a_configuration_that_was_deleted_at_runtime_stays_so_and_is_said(files):
    await files.start(TOPIC, lambda node: node.topics.configure(node.topics.topic("/", "t"), {}))
    assert await files.start(TOPIC) == ["topic 't': retention.ms is 604800000, in the file 1000"]


async def test_partitions_that_were_added_at_runtime_stay_and_are_said(files):
    def add(node):
        return node.topics.add_partitions(Portions(1), node.topics.topic("/", "t"), 5)

    await files.start(TOPIC, add)

    def look(node):
        assert len(node.topics.topic("/", "t").partitions) == 5

    assert await files.start(TOPIC, look) == ["topic 't': partitions are 5, in the file 2"]


@pytest.mark.parametrize(
    ("config", "there", "file"),
    [
        ("retention.ms", "604800000", None),
        ("retention.ms", None, "604800000"),
        ("retention.ms", "0100", "100"),
        ("min.cleanable.dirty.ratio", "0.50", "0.5"),
        ("cleanup.policy", "compact, delete", "delete,compact"),
        ("flush", "sync", None),
    ],
)
async def test_the_same_in_other_words_is_no_difference(files, config, there, file):
    def configure(node):
        node.topics.configure(node.topics.topic("/", "t"), {config: there} if there else {})

    text = '[[topic]]\nname = "t"\n' + (f'configs = {{ "{config}" = "{file}" }}' if file else "")
    assert await files.start(text, configure) == []
    assert await files.start(text) == []


LARGE = """
[[queue]]
name = "q"
arguments = { a = "%s" }
"""


async def test_arguments_are_no_larger_than_a_frame_of_amqp(files):
    conflicts = await files.start(LARGE % ("x" * 131_072))
    assert conflicts == [
        "queue 'q': the arguments of queue 'q' in vhost '/' have 131083 bytes as a field table, "
        "at most 131072 are allowed (frame_max)"
    ]


async def test_a_queue_with_large_arguments_stays_when_the_limit_becomes_lower(files):
    assert await files.start(LARGE % ("x" * 5000)) == []
    found = []
    await files.start("", lambda node: found.extend(node.topology.vhost("/").queues), arguments_size_max=4096)
    assert found == ["q"]


# ---- users ----

LOGIN = """
[[user]]
name = "clerk"
password = "{}"
tags = [{}]
[[user.permission]]
read = "{}"
"""


async def test_a_user_has_the_password_tags_and_permissions_of_the_file(files):
    def change(node):
        node.accounts.put_user("clerk", "", "", ("administrator",))
        node.accounts.put_permission("/", "clerk", "", "", "")
        node.topology.put_vhost("other")
        node.accounts.put_permission("other", "clerk", "a", "b", "c")

    assert await files.start(LOGIN.format("one", "", ".*"), change) == []
    kept = []

    def look(node):
        user = node.accounts.user("clerk")
        assert matches("two", user.password_hash, user.hashing_algorithm)
        assert set(user.scram) == {"SCRAM-SHA-256", "SCRAM-SHA-512"}
        assert user.tags == ("monitoring",)
        assert user.permissions["/"].read == "^a"
        assert user.permissions["other"].write == "b"
        kept.append((user.password_hash, user.scram))

    for _ in range(2):
        assert await files.start(LOGIN.format("two", '"monitoring"', "^a"), look) == []
    assert kept[0] == kept[1]  # not hashed anew at each start


def users_of(found):
    """Notes who is there each time."""
    return lambda node: found.append(sorted(node.accounts.users))


async def test_the_default_user_is_for_a_new_data_folder(files):
    found = []
    await files.start("", users_of(found))
    await files.start('default_user.name = "alice"', users_of(found))
    await files.start(LOGIN.format("one", "", ".*"), users_of(found))
    assert found == [["guest"], ["guest"], ["clerk", "guest"]]


async def test_who_deletes_the_last_user_does_not_find_the_default_one_again(files):
    found = []
    await files.start("", lambda node: node.accounts.delete_user("guest"))
    await files.start("", users_of(found))
    await files.start(LOGIN.format("one", "", ".*"), lambda node: node.accounts.delete_user("clerk"))
    await files.start("", users_of(found))
    assert found == [[], []]


async def test_a_folder_whose_users_were_declared_never_gets_the_default_one(files):
    found = []
    await files.start(LOGIN.format("one", "", ".*"), lambda node: node.accounts.delete_user("clerk"))
    await files.start("", users_of(found))
    assert found == [[]]


async def test_a_first_start_that_made_no_user_is_made_up_for(files):
    found = []
    open_node(NodeOptions(files.data, reserve_size=0)).close()
    await files.start("", users_of(found))
    assert found == [["guest"]]


async def test_the_default_user_is_not_made_beside_a_declared_one(files):
    found = []
    await files.start(LOGIN.format("one", "", ".*"), lambda node: found.extend(node.accounts.users))
    assert found == ["clerk"]
