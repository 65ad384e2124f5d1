"""The settings: where they come from, which goes over which, and what is said about one that cannot be."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import entries, layers, settings, values
from broker.config.reading import ConfigError, read_config
from broker.config.settings import Config, Listeners
from broker.server.serve import Address
from process import ROOT

EXAMPLE = ROOT / "config" / "broker.toml"
DECLARED = ("vhost", "user", "exchange", "queue", "topic", "binding")
TABLES = settings.Table.__subclasses__()


@pytest.fixture
def wrong(tmp_path):
    """The lines that are said about a file with this text, without the name of the file."""

    def wrong(text):
        file = tmp_path / "broker.toml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_config(file, {})
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{file}: ") for line in lines)
        return [line.removeprefix(f"{file}: ") for line in lines]

    return wrong


@pytest.fixture
def right(tmp_path):
    """The settings of a file with this text."""

    def right(text, environment=None, **flags):
        file = tmp_path / "broker.toml"
        file.write_text(text)
        return read_config(file, environment or {}, flags)

    return right


# ---- the file that names every setting ----


def test_the_example_has_the_defaults():
    assert read_config(EXAMPLE, {}) == Config()


def kinds_of(table: type) -> dict[str, object]:
    """The type of each setting, without what else is asked of it."""
    names = {**vars(settings), **vars(values), **vars(entries)}
    hints = get_type_hints(table, names)
    return {field.name: hints[field.name] for field in fields(table)}


def numbers_of(table: type, path: str = "") -> list[str]:
    """The key paths of all numbers, octets among them."""
    found = []
    for name, inner in kinds_of(table).items():
        if inner in (int, float):
            found.append(path + name)
        elif is_dataclass(inner):
            found += numbers_of(inner, f"{path}{name}.")
    return found


@pytest.mark.parametrize("flag", ["true", "false"])
def test_no_flag_is_a_number(wrong, flag):
    paths = numbers_of(Config)
    assert {"kafka.partitions", "limits.memory", "limits.disk_free", "amqp.close_timeout_s"} <= set(paths)
    for path in paths:
        (line,) = wrong(f"{path} = {flag}")
        assert re.fullmatch(rf"{path}: expected (an integer|a number|a size as .*), got {flag}", line)


def names_of(table: type, *, without: tuple[str, ...] = ()) -> dict[str, object]:
    """Every setting, with the tables in it."""
    found = {}
    for name, inner in kinds_of(table).items():
        if name not in without:
            found[name] = names_of(inner) if is_dataclass(inner) else None
    return found


def keys_of(found: dict[str, object]) -> dict[str, object]:
    return {name: keys_of(inner) if isinstance(inner, dict) else None for name, inner in found.items()}


def test_the_example_names_every_setting():
    assert keys_of(tomllib.loads(EXAMPLE.read_text())) == names_of(Config, without=DECLARED)


def declared_in_the_example() -> str:
    """What it shows in comments, as it is when somebody takes the marks away."""
    _, _, text = EXAMPLE.read_text().partition("Uncomment and change.\n")
    return "\n".join(line.removeprefix("# ") for line in text.splitlines() if line != "#")


def test_what_the_example_shows_can_be_used(right):
    found = right(declared_in_the_example())
    shown = tomllib.loads(declared_in_the_example())
    for kind in DECLARED:
        (entry,) = getattr(found, kind)
        # Everything that is optional is shown, but for what goes instead of a password.
        unsaid = {field.name for field in fields(entry)} - shown[kind][0].keys()
        assert unsaid <= {"password_hash", "hashing_algorithm"}, kind
    assert found.topic[0].configs == {
        "retention.ms": 86_400_000,
        "cleanup.policy": "delete",
        "flush": "sync",
    }


def test_readme_is_right_about_the_settings(right):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    found = right("\n".join(blocks))
    assert (len(found.exchange), len(found.queue), len(found.binding), len(found.topic)) == (1, 1, 1, 1)
    for table, name in re.findall(r"`\[(\w+)\] (\w+)`", text):
        assert hasattr(getattr(Config(), table), name)
    for name in re.findall(r"(LEVERET_\w+)=", text):
        assert read_config(None, {name: "1GiB" if "MEMORY" in name else "127.0.0.1:5672"})
    default = {name: getattr(Config().listeners, name).port for name in Listeners.__annotations__}
    table = dict(re.findall(r"^\| (AMQP|HTTP management|metrics|Kafka) \| (\d+) \|", text, re.MULTILINE))
    assert {name.split()[-1].lower(): int(port) for name, port in table.items()} == default


# ---- which goes over which ----


@pytest.mark.parametrize(
    "flags",
    [
        {"data": "there"},
        {"data": Path("there"), "amqp": None},
        {"amqp": "[::1]:5", "kafka": "off", "management": ":0", "metrics": "1"},
        {"amqp": " localhost:1 "},
    ],
)
def test_flags_alone_are_read_as_those_over_a_file(right, flags):
    """Without a file there is nothing else to check, and the checks are not even imported."""
    assert read_config(None, {}, flags) == right("", **flags)


@pytest.mark.parametrize("text", ["5672 please", "", "::1:5", ":65536"])
def test_a_flag_that_is_wrong_without_a_file(text):
    with pytest.raises(ConfigError) as caught:
        read_config(None, {}, {"data": "there", "kafka": text})
    assert str(caught.value) == (
        f"--kafka: listeners.kafka: expected host:port, :port, a port or off, got {json.dumps(text)}"
    )


def test_without_anything_there_are_the_defaults():
    assert read_config(None, {}) == Config()
    assert read_config(None, {"PATH": "/bin", "HOME": "/"}, {"data": None, "amqp": None}) == Config()


def test_flags_go_over_the_environment_and_that_over_the_file(right):
    text = (
        'data = "file"\n[listeners]\namqp = "127.0.0.1:1"\nkafka = "127.0.0.1:1"\nmetrics = "127.0.0.1:1"\n'
    )
    environment = {
        "LEVERET_AMQP": "127.0.0.1:2",
        "LEVERET_KAFKA": "127.0.0.1:2",
        "LEVERET_DATA": "environment",
    }
    found = right(text, environment, amqp="127.0.0.1:3", kafka=None, data=Path("flag"))
    assert found.data == Path("flag")
    assert [found.listeners.amqp.port, found.listeners.kafka.port, found.listeners.metrics.port] == [3, 2, 1]
    assert found.listeners.management == Address("", 15672)
    assert right(text, environment).data == Path("environment")
    assert right(text).data == Path("file")


def test_a_variable_changes_one_setting_of_a_table(right):
    text = "[limits]\nconnections = 5\npartitions = 7\n"
    found = right(text, {"LEVERET_LIMITS__CONNECTIONS": "6", "LEVERET_LIMITS__DISK_FREE": "1 GB"})
    assert (found.limits.connections, found.limits.partitions, found.limits.disk_free) == (6, 7, 10**9)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("LEVERET_NAME", "n", "n"),
        ("LEVERET_LOG__LEVEL", "debug", "debug"),
        ("LEVERET_LOG__FORMAT", "json", "json"),
        ("LEVERET_AMQP__HEARTBEAT_S", "0", 0),
        ("LEVERET_AMQP__CLOSE_TIMEOUT_S", "2.5", 2.5),
        ("LEVERET_KAFKA__AUTO_CREATE_TOPICS", "false", False),
        ("LEVERET_KAFKA__ADVERTISED", "there.example:9092", Address("there.example", 9092)),
        ("LEVERET_KAFKA__ANONYMOUS_USER", "", ""),
        ("LEVERET_LISTENERS__MANAGEMENT", "off", None),
        ("LEVERET_MANAGEMENT", "15", Address("", 15)),
        ("LEVERET_METRICS", "[::1]:0", Address("::1", 0)),
        ("LEVERET_LOOPBACK_USERS", "", []),
        ("LEVERET_LOOPBACK_USERS", "guest, root", ["guest", "root"]),
        ("RABBITMQ_DEFAULT_USER", "alice", "alice"),
        ("RABBITMQ_DEFAULT_PASS", "secret", "secret"),
        ("RABBITMQ_DEFAULT_VHOST", "shop", "shop"),
        ("LEVERET_DEFAULT_USER__PASSWORD", "secret", "secret"),
    ],
)
def test_variables(name, text, value):
    def flat(table, place=()):
        for key, one in vars(table).items():
            yield from flat(one, (*place, key)) if type(one) in TABLES else [((*place, key), one)]

    before = dict(flat(Config()))
    changed = [one for place, one in flat(read_config(None, {name: text})) if one != before[place]]
    assert changed == [value]


def test_rabbitmqs_variables_make_the_default_user():
    environment = {
        "RABBITMQ_DEFAULT_USER": "alice",
        "RABBITMQ_DEFAULT_PASS": "secret",
        "RABBITMQ_DEFAULT_VHOST": "shop",
    }
    user = layers.declarations(read_config(None, environment)).default_user
    assert (user.name, user.password, user.tags) == ("alice", "secret", ("administrator",))
    assert [one.vhost for one in user.permissions] == ["shop"]


@pytest.mark.parametrize(
    ("environment", "flags", "line"),
    [
        ({"LEVERET_NONSENSE": "1"}, {}, "LEVERET_NONSENSE: nonsense: there is no such key"),
        ({"LEVERET_AMQP__NONSENSE": "1"}, {}, "LEVERET_AMQP__NONSENSE: amqp.nonsense: there is no such key"),
        ({"LEVERET_AMQP_PORT": "5672"}, {}, "LEVERET_AMQP_PORT: amqp_port: there is no such key"),
        (
            {"LEVERET_LIMITS__CONNECTIONS": "none"},
            {},
            'LEVERET_LIMITS__CONNECTIONS: limits.connections: expected an integer, got "none"',
        ),
        (
            {"LEVERET_QUEUE": "q"},
            {},
            'LEVERET_QUEUE: queue: expected tables, as [[queue]] begins one, got "q"',
        ),
        ({"LEVERET_LIMITS": "q"}, {}, 'LEVERET_LIMITS: limits: expected a table, got "q"'),
        ({"RABBITMQ_DEFAULT_USER": ""}, {}, "RABBITMQ_DEFAULT_USER: default_user.name: expected at least 1"),
        (
            {"LEVERET_AMQP": "127.0.0.1:0"},
            {"amqp": "5672 please"},
            "--amqp: listeners.amqp: expected host:port, :port, a port or off, got",
        ),
    ],
)
def test_whose_mistake_it_is_is_said(environment, flags, line):
    with pytest.raises(ConfigError) as caught:
        read_config(EXAMPLE, environment, flags)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_what_kubernetes_says_of_a_service_is_no_setting():
    environment = {
        "LEVERET_SERVICE_HOST": "10.0.0.1",
        "LEVERET_SERVICE_PORT": "5672",
        "LEVERET_SERVICE_PORT_AMQP": "5672",
        "LEVERET_PORT": "tcp://10.0.0.1:5672",
        "LEVERET_PORT_5672_TCP": "tcp://10.0.0.1:5672",
        "LEVERET_PORT_5672_TCP_PROTO": "tcp",
        "LEVERET_PORT_5672_TCP_PORT": "5672",
        "LEVERET_PORT_5672_TCP_ADDR": "10.0.0.1",
        "LEVERET_KAFKA_SERVICE_HOST": "10.0.0.1",
        "LEVERET_KAFKA_PORT": "tcp://10.0.0.1:9092",
        "LEVERET_CONFIG": "/etc/leveret.toml",
    }
    assert read_config(None, environment) == Config()


# ---- kinds of values ----


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1k", 1024),
        ("1 kB", 1000),
        ("1.5 MiB", 1_572_864),
        ("50MB", 50_000_000),
        (" 2 gib ", 2**31),
        ("3G", 3 * 2**30),
    ],
)
def test_sizes(right, text, octets):
    assert right(f'limits.disk_free = "{text}"').limits.disk_free == octets
    assert right("limits.disk_free = 1000").limits.disk_free == 1000


def test_a_share_of_the_memory(right):
    whole = right('limits.memory = "100%"').limits.memory
    assert whole > 2**20
    assert abs(right('limits.memory = "25 %"').limits.memory - whole / 4) <= 1
    assert right('limits.memory = "1GiB"').limits.memory == 2**30


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ('":5672"', Address("", 5672)),
        ('"localhost:1"', Address("localhost", 1)),
        ('"[::1]:65535"', Address("::1", 65_535)),
        ("5672", Address("", 5672)),
        ('"off"', None),
        ('"OFF"', None),
        ("false", None),
    ],
)
def test_listeners(right, text, address):
    assert right(f"listeners.amqp = {text}").listeners.amqp == address


NINES = "9" * 400
LONG = "ü" * 128


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nonsense = 1", ["nonsense: there is no such key"]),
        ("[amqp]\nnonsense = 1", ["amqp.nonsense: there is no such key"]),
        ("amqp = 5", ["amqp: expected a table, got 5"]),
        ("data = 5", ["data: expected a path, got 5"]),
        ('name = ""', ['name: expected at least 1 characters, got ""']),
        ("loopback_users = 5", ["loopback_users: expected a list, got 5"]),
        ("amqp.frame_max = 4095", ["amqp.frame_max: expected >= 4096, got 4095"]),
        ("amqp.channel_max = 65536", ["amqp.channel_max: expected <= 65535, got 65536"]),
        ("amqp.close_timeout_s = 0", ["amqp.close_timeout_s: expected > 0.0, got 0"]),
        (
            "amqp.close_timeout_s = inf",
            ["amqp.close_timeout_s: expected a number that is finite, got Infinity"],
        ),
        ("kafka.partitions = true", ["kafka.partitions: expected an integer, got true"]),
        ("kafka.idle_timeout_s = true", ["kafka.idle_timeout_s: expected a number, got true"]),
        (
            '[[topic]]\nname = "t"\npartitions = false',
            ["topic[0].partitions: expected an integer, got false"],
        ),
        ("amqp.heartbeat_s = 1.5", ["amqp.heartbeat_s: expected an integer, got 1.5"]),
        ('amqp.refused_delay_s = "long"', ['amqp.refused_delay_s: expected a number, got "long"']),
        ("amqp.product = 5", ["amqp.product: expected a string, got 5"]),
        (
            'kafka.auto_create_topics = "maybe"',
            ['kafka.auto_create_topics: expected true or false, got "maybe"'],
        ),
        (
            "kafka.offsets_retention_s = nan",
            ["kafka.offsets_retention_s: expected a number that is finite, got NaN"],
        ),
        ('log.level = "loud"', ["log.level: expected 'debug', 'info', 'warning' or 'error', got \"loud\""]),
        (
            'limits.disk_free = "much"',
            ['limits.disk_free: expected a size as 16 MiB, 50MB or a number of octets, got "much"'],
        ),
        (
            f'limits.disk_free = "{NINES}"',
            [f'limits.disk_free: expected a size as 16 MiB, 50MB or a number of octets, got "{NINES}"'],
        ),
        ("limits.disk_free = -1", ["limits.disk_free: expected >= 0, got -1"]),
        (
            'limits.memory = "half"',
            ['limits.memory: expected a size as 512 MiB or a share of the memory as 60%, got "half"'],
        ),
        (
            'listeners.amqp = "localhost"',
            ['listeners.amqp: expected host:port, :port, a port or off, got "localhost"'],
        ),
        (
            'listeners.amqp = ":65536"',
            ['listeners.amqp: expected host:port, :port, a port or off, got ":65536"'],
        ),
        (
            'listeners.amqp = "::1:5"',
            ['listeners.amqp: expected host:port, :port, a port or off, got "::1:5"'],
        ),
        (
            "amqp.channel_max = 0\nkafka.partitions = 0",
            ["amqp.channel_max: expected >= 1, got 0", "kafka.partitions: expected >= 1, got 0"],
        ),
    ],
)
def test_what_is_said_of_settings(wrong, text, lines):
    assert wrong(text) == lines


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("[[queue]]", "queue[0].name: this key is missing"),
        ("queue = 5", "queue: expected tables, as [[queue]] begins one, got 5"),
        ('[queue]\nname = "q"', "queue: expected tables, as [[queue]] begins one"),
        ("queue = [5]", "queue[0]: expected a table, got 5"),
        (
            '[[queue]]\nname = "q"\n[[queue]]\nname = ""',
            'queue[1].name: expected at least 1 characters, got ""',
        ),
        (
            f'[[queue]]\nname = "{LONG}"',
            f"queue[0].name: expected at most 255 octets, these are 256, got {json.dumps(LONG)}",
        ),
        ('[[vhost]]\nname = "a"\ntracing = true', "vhost[0].tracing: there is no such key"),
        ('[[user]]\nname = "a"', "user[0]: expected either password or password_hash"),
        (
            '[[user]]\nname = "a"\npassword = "p"\npassword_hash = "h"',
            "user[0]: expected either password or password_hash",
        ),
        ('[[user]]\nname = "a"\npassword = 123456', "user[0].password: expected a string"),
        (
            '[[user]]\nname = "a"\npassword = "p"\n[[user.permission]]\nread = "("',
            "user[0].permission[0].read: expected a regular expression: "
            'missing ), unterminated subpattern at position 0, got "("',
        ),
        (
            '[[user]]\nname = "a"\npassword = "p"\n[[user.permission]]\nread = "a{4294967296}"',
            "user[0].permission[0].read: expected a regular expression: "
            'the repetition number is too large, got "a{4294967296}"',
        ),
        (
            '[[exchange]]\nname = "e"\ntype = "x-random"',
            'exchange[0].type: expected one of direct, fanout, topic, headers, got "x-random"',
        ),
        (
            '[[exchange]]\nname = "e"\narguments = { alternate-exchange = 5 }',
            "exchange[0].arguments.alternate-exchange: expected a string, got 5",
        ),
        (
            '[[binding]]\nsource = "e"\ndestination = "q"\ndestination_type = "stream"',
            "binding[0].destination_type: expected 'queue', 'exchange' or 'topic', got \"stream\"",
        ),
        (
            '[[binding]]\nsource = "e"\ndestination = "q"\narguments = { day = 1979-05-27 }',
            "binding[0].arguments.day: expected what AMQP has a type for: a field cannot hold a date, "
            'got "1979-05-27"',
        ),
        ('[[topic]]\nname = "t"\npartitions = 0', "topic[0].partitions: expected >= 1, got 0"),
        ('[[topic]]\nname = "t"\npartitions = 10001', "topic[0].partitions: expected <= 10000, got 10001"),
        (
            '[[topic]]\nname = "a/b"',
            "topic[0].name: expected a name: the topic name 'a/b' has characters other than ASCII letters, digits, "
            "'.', '_' and '-', got \"a/b\"",
        ),
        (
            '[[topic]]\nname = "__consumer_offsets"',
            'topic[0].name: expected another name: this is the broker\'s own topic, got "__consumer_offsets"',
        ),
        (
            '[[topic]]\nname = "t"\nconfigs = { "retention.days" = 7 }',
            "topic[0].configs.retention.days: there is no such topic configuration, got 7",
        ),
        (
            '[[topic]]\nname = "t"\nconfigs = { "segment.bytes" = 5 }',
            "topic[0].configs.segment.bytes: expected a whole number from 1048576 to 2147483647, got 5",
        ),
        (
            '[[topic]]\nname = "t"\nconfigs = { "cleanup.policy" = "shrink" }',
            'topic[0].configs.cleanup.policy: expected a list of delete, compact, or nothing, got "shrink"',
        ),
        (
            '[[topic]]\nname = "t"\nconfigs = { preallocate = "perhaps" }',
            'topic[0].configs.preallocate: expected true or false, got "perhaps"',
        ),
    ],
)
def test_what_is_said_of_declarations(wrong, entry, line):
    assert wrong(entry) == [line]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('x-max-length = "many"', 'x-max-length: expected an integer >= 0, got "many"'),
        ("x-message-ttl = -1", "x-message-ttl: expected an integer >= 0, got -1"),
        ("x-expires = 0", "x-expires: expected an integer >= 1, got 0"),
        (
            'x-overflow = "burst"',
            'x-overflow: expected drop-head, reject-publish or reject-publish-dlx, got "burst"',
        ),
        (
            'x-dead-letter-routing-key = "k"',
            'x-dead-letter-routing-key: expected a string, and x-dead-letter-exchange beside it, got "k"',
        ),
        ("x-max-priority = 5", "x-max-priority: this version of the broker does not have it yet, got 5"),
        (
            'x-max-age = "7D"',
            "x-max-age: invalid arg 'x-max-age' of queue type rabbit_classic_queue, got \"7D\"",
        ),
        (
            'x-queue-type = "stream", x-max-age = "5 days"',
            'x-max-age: expected an age as 7D, in Y, M, D, h, m or s, got "5 days"',
        ),
        (
            'x-queue-type = "stream", x-message-ttl = 5',
            "x-message-ttl: invalid arg 'x-message-ttl' of queue type rabbit_stream_queue, got 5",
        ),
        (
            'x-queue-type = "quorum"',
            "x-queue-type: this version of the broker does not have queues of type 'quorum' yet, got \"quorum\"",
        ),
        ("x-big = 9223372036854775808", "x-big: expected what AMQP has a type for: "),
    ],
)
def test_what_is_said_of_a_queues_arguments(wrong, arguments, said):
    (line,) = wrong(f'[[queue]]\nname = "q"\narguments = {{ {arguments} }}')
    assert line.startswith(f"queue[0].arguments.{said}")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("durable = false", "queue[0]: invalid property 'non-durable' for a stream"),
        ("auto_delete = true", "queue[0]: invalid property 'auto-delete' for a stream"),
    ],
)
def test_what_a_stream_cannot_be(wrong, flags, said):
    entry = '[[queue]]\nname = "q"\narguments = { x-queue-type = "stream" }\n'
    assert wrong(entry + flags) == [said]
    (line,) = wrong(entry.replace('"q"', '"q/r"'))
    assert line.startswith("queue[0]: the topic name 'q/r' has characters other than")


def test_a_file_that_is_none(tmp_path, wrong):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file or directory$"):
        read_config(tmp_path / "nowhere.toml", {})
    with pytest.raises(ConfigError, match=r"Is a directory$"):
        read_config(tmp_path, {})
    (line,) = wrong("name = \n")
    assert line == "Invalid value (at line 1, column 8)"
    file = tmp_path / "latin.toml"
    file.write_bytes('name = "größe"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml: 'utf-8' codec can't decode byte 0xf6"):
        read_config(file, {})


def test_a_number_of_thousands_of_digits_is_a_mistake_in_the_file(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(f"[amqp]\nheartbeat_s = {'1' * 5000}\n")
    with pytest.raises(ConfigError, match="4300 digits"):
        read_config(file, {})


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["LIMITS__MEMORY", "AMQP", "LOG__LEVEL"]),
)
def test_any_text_is_used_or_refused_in_words(text, name):
    refused = ""
    try:
        read_config(None, {f"LEVERET_{name}": text})
    except ConfigError as error:
        refused = str(error)
    assert not refused or refused.startswith(f"LEVERET_{name}: ")


# ---- for each layer ----


def test_settings_reach_the_layers(right):
    found = right(
        'data = "d"\nname = "n"\nloopback_users = ["a"]\n'
        '[amqp]\nframe_max = 5000\nmessage_size_max = "1 MiB"\ntransaction_size_max = "2 MiB"\n'
        '[kafka]\nvhost = "v"\nadvertised = "there:1"\nanonymous_user = ""\npartitions = 3\n'
        '[limits]\nconnections = 7\nmemory = "1GiB"\ndisk_free = 5\nsegment_size = "1 MiB"\npartitions = 9\n'
    )
    node = layers.node_options(found)
    assert (node.data, node.name, node.memory_limit, node.disk_free_limit) == ("d", "n", 2**30, 5)
    assert node.arguments_size_max == 5000
    assert (node.segment_size_max, node.partitions_max, node.groups.vhost) == (2**20, 9, "v")
    amqp = layers.amqp_options(found)
    assert (amqp.frame_max, amqp.message_size_max, amqp.transaction_size_max) == (5000, 2**20, 2 * 2**20)
    assert (amqp.connection_max, amqp.loopback_users) == (7, {"a"})
    kafka = layers.kafka_options(found)
    assert (kafka.vhost, kafka.advertised_host, kafka.advertised_port) == ("v", "there", 1)
    assert (kafka.anonymous_user, kafka.partitions, kafka.connections_max) == ("", 3, 7)
    management = layers.management_options(found)
    assert (management.connection_max, management.loopback_users) == (7, {"a"})
