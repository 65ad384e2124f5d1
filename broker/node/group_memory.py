"""What outlives the process of a group: between the model's groups and the records of `__consumer_offsets`."""

from __future__ import annotations

from typing import Any

from broker.kafka import group_records
from broker.model.committed import CommittedOffset
from broker.model.group import Group
from broker.model.group_calls import GroupDescription, MemberDescription
from broker.model.group_state import GroupState


def offset_record(group_id: str, topic: str, number: int, offset: CommittedOffset) -> tuple[bytes, bytes]:
    """Key and value."""
    value = group_records.offset_value(
        offset.offset, offset.leader_epoch, offset.metadata, offset.commit_ms, offset.expire_ms
    )
    return group_records.offset_key(group_id, topic, number), value


def group_record(group: Group[Any], now_ms: int) -> tuple[bytes, bytes]:
    """Key and value. In the middle of a rebalance the members are left out: nobody knows what is theirs."""
    found = group.describe()
    settled = found.state in (GroupState.STABLE, GroupState.EMPTY)
    since_ms = found.empty_since_ms if settled else now_ms
    value = group_records.group_value(
        {
            "protocol_type": found.protocol_type or "",
            "generation": found.generation,
            "protocol": found.protocol if settled else None,
            "leader": found.leader if settled else None,
            "current_state_timestamp": -1 if since_ms is None else since_ms,
            "members": [
                {
                    "member_id": member.member_id,
                    "group_instance_id": member.group_instance_id,
                    "client_id": member.client_id,
                    "client_host": member.client_host,
                    "rebalance_timeout": member.rebalance_timeout_ms,
                    "session_timeout": member.session_timeout_ms,
                    "subscription": member.metadata,
                    "assignment": member.assignment,
                }
                for member in (found.members if settled else ())
            ],
        }
    )
    return group_records.group_key(found.group_id), value


def description(group_id: str, body: dict[str, Any]) -> GroupDescription:
    """Of a value that was read."""
    state = GroupState.STABLE if body["members"] else GroupState.EMPTY
    return GroupDescription(
        group_id,
        state,
        body["protocol_type"] or None,
        body["protocol"],
        body["generation"],
        body["leader"],
        body["current_state_timestamp"] if body["current_state_timestamp"] >= 0 else None,
        tuple(
            MemberDescription(
                member["member_id"],
                member["group_instance_id"],
                member["client_id"],
                member["client_host"],
                member["session_timeout"],
                member["rebalance_timeout"],
                ((body["protocol"] or "", bytes(member["subscription"])),),
                bytes(member["subscription"]),
                bytes(member["assignment"]),
            )
            for member in body["members"]
        ),
    )
