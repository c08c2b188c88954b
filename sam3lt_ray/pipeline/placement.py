"""Where tasks are to run: on nodes without GPUs where there are any; the cores beside a GPU have work of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ray.util.scheduling_strategies import In, NodeLabelSchedulingStrategy, NotIn

_NODE_ID_LABEL: Final = "ray.io/node-id"  # Ray gives it to every node


def placement_of_readers(nodes: Sequence[Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Ray's options for the tasks that read.

    A preference, not a condition: where the preferred nodes are busy or gone, others read.

    Args:
        nodes: As ``ray.nodes()`` tells them.
        device: What the actors compute on.

    Returns:
        Nodes with CPUs and without GPUs, where labeling needs GPUs; else nothing, and Ray Data spreads the tasks
        over all nodes.
    """
    preferred = [
        node["NodeID"]
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1 and not node["Resources"].get("GPU")
    ]
    if device != "cuda" or not preferred:
        return {}
    return {"scheduling_strategy": NodeLabelSchedulingStrategy(hard={}, soft={_NODE_ID_LABEL: In(*preferred)})}


def placement_of_committers(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ray's options for the tasks that commit, which reserve nothing and so would fit everywhere.

    A preference again; nodes that join later are among the preferred.

    Args:
        nodes: As ``ray.nodes()`` tells them.

    Returns:
        Not on nodes without CPUs, such as a head that is to be left alone; where there are none, nothing, and Ray Data
        spreads the tasks over all nodes.
    """
    avoided = [node["NodeID"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) == 0]
    if not avoided:
        return {}
    return {"scheduling_strategy": NodeLabelSchedulingStrategy(hard={}, soft={_NODE_ID_LABEL: NotIn(*avoided)})}
