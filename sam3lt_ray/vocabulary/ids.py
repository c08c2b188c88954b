"""Numbers for labels that have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def number_labels(names: Sequence[str], given: Mapping[str, int]) -> dict[str, int]:
    """An id for every name: the given one, else the next above all given ones, in order.

    Args:
        names: Labels in file order.
        given: Ids that stand already; more names than in ``names`` are fine.

    Returns:
        name -> id. Without given ids: 1, 2, 3...
    """
    next_id = max(given.values(), default=0) + 1
    ids: dict[str, int] = {}
    for name in names:
        if name in given:
            ids[name] = given[name]
        else:
            ids[name] = next_id
            next_id += 1
    return ids
