"""How a group shares partitions out.

Spec:   Kafka's RangeAssignor: of each topic every subscriber gets as many neighbouring partitions as the
        others, and the first ones one more. Those with an instance's id come first, in the order of these,
        and so get the same again when they come back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

NAME: Final = "range"


def share_out(
    members: Mapping[str, Collection[str]],
    partitions: Mapping[str, int],
    instances: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, dict[str, range]]:
    """What each member gets of which topic.

    `members` are ids with the topics that each wants, `partitions` how many each topic has, `instances` the
    ids of the instances that some members are.
    """

    def order(member: str) -> tuple[bool, str]:
        return member not in instances, instances.get(member, member)

    shares: dict[str, dict[str, range]] = {member: {} for member in members}
    for topic, count in partitions.items():
        wanting = sorted((member for member, topics in members.items() if topic in topics), key=order)
        first = 0
        for index, member in enumerate(wanting):
            behind = first + count // len(wanting) + (index < count % len(wanting))
            if behind > first:
                shares[member][topic] = range(first, behind)
            first = behind
    return shares
