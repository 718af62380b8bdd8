"""Queries, ids and genres in pictures: what stands between dollar signs is text, not a formula."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from evaluation.report.curves import attention_strips
from evaluation.report.plots import tsne_pair
from evaluation.report.style import plain

BROKEN = [
    r"$\frac{$",
    r"costs $5 and $6_",
    "$^$",
    r"\$x$ \$",
    "one $",
]  # matplotlib cannot parse the first three


@pytest.mark.parametrize("text", BROKEN)
def test_a_picture_of_any_query_can_be_drawn(text):
    weights = {"as trained": np.array([0.25, 0.75])}
    assert attention_strips(weights, np.array([2.0, 1.0]), text)[:4] == b"\x89PNG"
    vectors = np.random.default_rng(0).normal(size=(12, 4))
    picture = tsne_pair(vectors, vectors, np.array([text] * 6 + ["b"] * 6, dtype=object))
    assert picture is not None


@pytest.mark.parametrize("text", ["costs $5 and $6", "one $", "$$"])
def test_the_text_is_drawn_as_it_is(text):
    figure, axis = plt.subplots()
    drawn = axis.text(0, 0, plain(text))
    figure.canvas.draw()
    found, is_math = drawn._preprocess_math(drawn.get_text())
    assert (found, is_math) == (text, False)
    plt.close(figure)
