"""The benchmark's three sides do the same: our trie, a dict trie in plain Python, a compare with all items."""

from __future__ import annotations

import numpy as np
import pytest

from semantic_ids.trie import Trie
from serving.bench import masking_sides as sides


@pytest.mark.parametrize(
    "n_items", [150, 20_000]
)  # of 150 items 100 draws (with repeats) empty whole subtrees
def test_all_sides_draw_the_same_allowed_items(n_items):
    codes = sides.random_codes(n_items)
    assert len(np.unique(codes, axis=0)) == n_items
    work = sides.work_of(n_items)
    drawn = sides.ours(Trie(codes, (sides.SIZE,) * sides.LEVELS), work)
    with sides.dict_trie(codes) as (root, _):
        by_dict = sides.by_dict(root, codes, work)
    columns = [codes[:, level].astype(np.uint8) for level in range(4)]
    by_compare = sides.by_compare(columns, np.argsort(sides.keys_of(columns)), work)
    assert (drawn == by_dict).mean() > 0.999  # a number within rounding of a boundary may fall on either side
    assert (drawn == by_compare).mean() > 0.999
    for row, items in enumerate(drawn.reshape(sides.REQUESTS, sides.DRAWS)):
        assert not np.isin(items, work.excluded[row]).any()
