"""Features of shown lists against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.engagement import models as models
from evaluation.engagement.features import AskedLists, FeatureMaker, ItemSpace, flat_lists
from tests.support.engagement_worlds import rows

# -- features ---------------------------------------------------------------------------------------------------------


def test_features_equal_a_plain_loop():
    generator = np.random.default_rng(5)
    space = ItemSpace(rows(generator, 9, 4), rows(generator, 9, 6), generator.integers(0, 9, 9))
    space.collaborative[3] = 0  # an item without a vector
    offsets = np.array([0, 3, 3, 5])
    lists = AskedLists(
        generator.normal(size=(3, 4)), np.array([True, True, False]), rows(generator, 3, 6), offsets,
        np.array([1, 3, 5, 8, 1]),
    )  # fmt: skip
    maker = FeatureMaker.of(space)
    found, names = maker.features(lists, space, True), maker.names(True)
    assert found.shape == (5, len(names))

    def cos(a, b):
        return 0.0 if not (a.any() and b.any()) else a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    at = 0
    for q in range(3):
        u = lists.user_vectors[q] * lists.known[q]
        before: list[int] = []
        for item in lists.items[offsets[q] : offsets[q + 1]]:
            v, t = space.collaborative[item], space.text[item]
            unit = [
                space.collaborative[j] / max(np.linalg.norm(space.collaborative[j]), 1e-9) for j in before
            ]
            text = [space.text[j] for j in before]
            wanted = {
                "user known": lists.known[q], "user · item": u @ v, "cos(user, item)": cos(u, v),
                "cos(query, text)": cos(lists.query_vectors[q], t), "log popularity": np.log(1 + space.popularity[item]),
                "item known": item != 3, "user ⊙ item 2": u[2] * v[2], "first": not before,
                "log place": np.log(1 + len(before)),
                "cos to previous": cos(v, space.collaborative[before[-1]]) if before else 0,
                "cos to those before": cos(v, np.mean(unit, axis=0)) if before else 0,
                "text cos to those before": cos(t, np.mean(text, axis=0)) if before else 0,
                "query 1": lists.query_vectors[q] @ maker.text_directions[:, 1],
                "item 0": v @ maker.collaborative_directions[:, 0],
                "query ⊙ text 3": (lists.query_vectors[q] @ maker.text_directions[:, 3]) * (t @ maker.text_directions[:, 3]),
            }  # fmt: skip
            for name, value in wanted.items():
                assert found[at, names.index(name)] == pytest.approx(float(value), abs=1e-6), (name, at)
            before.append(int(item))
            at += 1


def test_directions_are_the_principal_ones():
    generator = np.random.default_rng(6)
    space = ItemSpace(generator.normal(size=(30, 20)), generator.normal(size=(30, 40)), np.ones(30))
    maker = FeatureMaker.of(space)
    for vectors, found in (
        (space.collaborative, maker.collaborative_directions), (space.text, maker.text_directions)
    ):  # fmt: skip
        _, values, along = np.linalg.svd(vectors)
        k = min(found.shape[1], len(values))
        np.testing.assert_allclose(np.abs((along[:k] * found.T[:k]).sum(1)), 1, atol=1e-6)


def test_flat_lists_leave_out_the_padding():
    offsets, items = flat_lists(np.array([[3, 1, -1], [-1, -1, -1], [2, -1, -1]]))
    assert (offsets.tolist(), items.tolist()) == ([0, 2, 2, 3], [3, 1, 2])
