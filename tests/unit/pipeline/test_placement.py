"""Which nodes are asked to read."""

from __future__ import annotations

from typing import Any

import pytest

from sam3lt_ray.pipeline.placement import placement_of_committers, placement_of_readers


def _node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_nodes_without_gpus_are_preferred() -> None:
    nodes = [
        _node("head"),
        _node("gpu", CPU=16, GPU=1),
        _node("a", CPU=8),
        _node("b", CPU=8, GPU=0),
        _node("gone", alive=False, CPU=8),
    ]
    strategy = placement_of_readers(nodes, "cuda")["scheduling_strategy"]
    assert strategy.hard == []  # a preference: a run must not wait for them
    (expression,) = strategy.soft
    assert (expression.key, expression.operator.values) == ("ray.io/node-id", ["a", "b"])


@pytest.mark.parametrize(
    ("nodes", "device"),
    [
        ([_node("a", CPU=8), _node("b", CPU=8)], "cpu"),
        ([_node("head"), _node("gpu", CPU=16, GPU=1)], "cuda"),
        ([], "cuda"),
    ],
)
def test_otherwise_ray_spreads_them(nodes: list[dict[str, Any]], device: str) -> None:
    assert placement_of_readers(nodes, device) == {}


def test_nothing_is_committed_on_a_head_that_is_to_be_left_alone() -> None:
    nodes = [_node("head"), _node("zero", CPU=0), _node("gpu", CPU=16, GPU=1), _node("gone", alive=False)]
    strategy = placement_of_committers(nodes)["scheduling_strategy"]
    assert strategy.hard == []  # a preference, too
    (expression,) = strategy.soft
    assert (expression.key, expression.operator.values) == ("ray.io/node-id", ["head", "zero"])


@pytest.mark.parametrize("nodes", [[_node("a", CPU=8), _node("b", CPU=8, GPU=1)], [_node("gone", alive=False)], []])
def test_otherwise_commits_are_spread(nodes: list[dict[str, Any]]) -> None:
    assert placement_of_committers(nodes) == {}
