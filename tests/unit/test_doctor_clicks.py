"""Measures of clicks against boxes equal values by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pdetr3d.data.index.index import Index
from pdetr3d.data.index.nuscenes import build_index
from pdetr3d.finished.doctor.clicks import click_facts, outside_m
from pdetr3d.schema import CLASSES, Boxes3D, PointLabels

CAR, BUS, CONE = (CLASSES.index(name) for name in ("car", "bus", "traffic_cone"))
# A car of 4 x 2 x 2 m at (10, 0, 0) that heads to +y, and a bus of 10 x 3 x 4 m at (-10, 0, 0) that heads to +x.
BOXES = Boxes3D.build(
    [[10, 0, 0], [-10, 0, 0]], [[4, 2, 2], [10, 3, 4]], np.array([np.pi / 2, 0]), np.array([CAR, BUS])
)


def test_distance_from_boxes() -> None:
    np.testing.assert_allclose(outside_m(np.array([10, 1.9, 0.9]), BOXES), [0, np.hypot(15, 0.4)], atol=1e-5)
    np.testing.assert_allclose(
        outside_m(np.array([12, 2, 5]), BOXES), [17**0.5, (17**2 + 0.5**2 + 3**2) ** 0.5], atol=1e-5
    )


def test_facts_of_clicks(sim_world: Path, tmp_path: Path) -> None:
    index = Index.open(build_index(sim_world, "v1.0-sim", tmp_path / "index.arrow"))
    token = index.tokens("sim_train")[0]
    places = np.array([[10, 0, 0.5], [10, 3, 0], [12, 0, 0], [-10, 0, 0], [0, 0, 0], [-9, 0, 0]], float)
    labels = np.array([CAR, CAR, CAR, CAR, CONE, BUS])
    own = np.array([0, 0, -1, -1, -1, 1])
    names = np.array(list("abcdef"), object)
    record = index.record(token, "box", BOXES, PointLabels(names, places, labels, own))
    facts = click_facts([record, index.record(token, "box", BOXES, PointLabels.empty())])
    np.testing.assert_allclose(facts.outside_m, [0, 1, 1, 19, np.inf, 0], atol=1e-6)
    assert facts.other_class.tolist() == [False, False, False, True, False, False]  # a "car" in the bus
    np.testing.assert_allclose(
        facts.offset_m[[0, 1, 2, 3, 5]], [[0, 0, 0.5], [0, 3, 0], [2, 0, 0], [-20, 0, 0], [1, 0, 0]]
    )
    assert np.isnan(facts.offset_m[4]).all() and facts.token.tolist() == [token] * 6


def test_no_clicks_are_a_shape() -> None:
    facts = click_facts([])
    assert facts.outside_m.shape == (0,) and facts.offset_m.shape == (0, 3) and len(facts.token) == 0
