"""What unit files say of themselves, added up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sam3lt_ray.labels.footer import add_up_counts
from sam3lt_ray.labels.rows import UnitCounts
from sam3lt_ray.vocabulary.labels import Label
from tests.run_factory import make_failed_image, make_image, make_instance, make_run

MASK = np.ones((6, 9), bool)
LABELS = (Label(3, "cat", ("cat",)), Label(7, "dog", ("dog",)))


def test_counts_of_units_are_added_up(tmp_path: Path) -> None:
    presence = {3: 0.9, 7: 0.1}
    found = [make_instance(MASK, label_id=label_id, score=0.5) for label_id in (3, 3, 7)]
    images = [
        make_image("a", index=0, presence=presence, instances=found[:1]),
        make_failed_image("b", index=1, kind="corrupt"),
        make_image("c", index=2, presence=presence, instances=found),
        make_failed_image("d", index=3, kind="empty"),
        make_failed_image("e", index=4, kind="corrupt"),
    ]
    store = make_run(tmp_path, images, LABELS, images_per_unit=2)
    paths = [item.path for item in store.list("labels")]
    assert len(paths) == 3
    causes = {"corrupt: Damaged.": 2, "empty: Damaged.": 1}
    assert add_up_counts(store, paths) == UnitCounts(5, {"corrupt": 2, "empty": 1}, {3: 3, 7: 1}, causes)
    assert add_up_counts(store, paths[1:2]) == UnitCounts(2, {"empty": 1}, {3: 2, 7: 1}, {"empty: Damaged.": 1})
    assert add_up_counts(store, []) == UnitCounts()
