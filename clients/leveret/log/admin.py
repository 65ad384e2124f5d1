"""Topics made, deleted and listed.

Limits: the URL's `request_timeout` for each.
Spec:   CreateTopics (19), DeleteTopics (20), Metadata (3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import anyio

from broker.kafka import api as apis
from broker.kafka.api import Api
from broker.kafka.errors import ErrorCode
from broker.kafka.wire import Struct
from leveret.errors import InvalidValue
from leveret.log.backoff import Backoff
from leveret.log.cluster import Cluster, Topic
from leveret.log.errors import RETRIABLE, refused

_AS_THE_BROKER_WANTS: Final = -1


async def create_topic(
    cluster: Cluster,
    name: str,
    partitions: int | None,
    replicas: int | None,
    configs: Mapping[str, str],
) -> Topic:
    """Returns when it can be written to."""
    for what, count in (("partitions", partitions), ("replicas", replicas)):
        if count is not None and count < 1:
            raise InvalidValue(f"a topic has at least one of its {what}, and not {count}")
    topic = {
        "name": name,
        "num_partitions": _AS_THE_BROKER_WANTS if partitions is None else partitions,
        "replication_factor": _AS_THE_BROKER_WANTS if replicas is None else replicas,
        "configs": [{"name": key, "value": value} for key, value in configs.items()],
    }
    await _ask(cluster, apis.CREATE_TOPICS, {"topics": [topic]}, "topics", name)
    return await cluster.refresh(name, creates=False, patience_s=cluster.url.request_s)


async def delete_topic(cluster: Cluster, name: str) -> None:
    body = {"topics": [{"name": name}], "topic_names": [name]}
    await _ask(cluster, apis.DELETE_TOPICS, body, "responses", name)
    cluster.is_gone(name)


async def topics(cluster: Cluster) -> list[Topic]:
    found = await cluster.ask_topics(None)
    known = [
        Topic(one["name"], len(one["partitions"]), one["is_internal"])
        for one in found
        if not one["error_code"] or one["error_code"] in RETRIABLE
    ]
    return sorted(known, key=lambda topic: topic.name)


async def _ask(cluster: Cluster, api: Api, body: Struct, results: str, name: str) -> None:
    """Of one topic; again, if the one that was asked is not the one to ask, or not yet."""
    backoff = Backoff()
    code: int = ErrorCode.REQUEST_TIMED_OUT
    said: str | None = None
    with anyio.move_on_after(cluster.url.request_s):
        while True:
            answer = await cluster.ask_controller(api, {"timeout_ms": cluster.url.request_timeout, **body})
            (result,) = answer[results]
            code, said = result["error_code"], result["error_message"]
            if not code:
                return
            if code not in (ErrorCode.NOT_CONTROLLER, ErrorCode.REQUEST_TIMED_OUT):
                break
            await cluster.ask_topics([])
            await backoff.pause()
    raise refused(code, f"topic {name!r}", said)
