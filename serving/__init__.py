"""Recommendations from a finished run: `from serving import Recommender`, or `recommend(user_id, query)`.

May import: every other room; within this one, folders from below (tests/whole/test_walls.py has the order).
Read first: `answering/recommender.py` (an answer), then `pipeline.py` (a whole run), then `commands/`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.answering.recommender import Recommender, recommend

__all__ = ["Recommender", "recommend"]


def __getattr__(name: str) -> Any:
    """Loaded when they are asked for: the command line must not wait for torch to print its help."""
    if name not in __all__:
        raise AttributeError(f"module 'serving' has no attribute {name!r}")
    from serving.answering import recommender

    return getattr(recommender, name)
