"""Recommendations from a finished run: `from serving import Recommender`, or `recommend(user_id, query)`."""

from serving.recommender import Recommender, recommend

__all__ = ["Recommender", "recommend"]
