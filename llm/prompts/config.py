"""Settings of the prompt; see `llm.prompts.builder`."""

from __future__ import annotations

from typing import Literal

from recsys.config import StageConfig


class PromptConfig(StageConfig):
    recent_items: int = 5  # items shown; the same for every method of a table
    profile_values: int = 3  # most frequent values of each text column in a profile
    profile_titles: int = 3  # titles of the last items before the shown ones in a profile
    profile_tokens: int = 48  # cut of the profile
    query_tokens: int = 64  # cut of the query, whatever its length in characters
    # what stands in front of the items; "": nothing, where an item's one vector (adapt.items: vector) says what it is
    header: str = "History:"
    # the paper leaves it open; eq. 3 says first
    prefix_position: Literal["before_bos", "after_bos"] = "before_bos"
