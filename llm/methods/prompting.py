"""Personal context in the prompt, nothing trained: Prompt Context, RAG, PAG, Full History.

  prompt_context  a text profile (frequent attributes and last titles)
  rag             the k earlier records that fit the query best (BM25)
  pag             the profile, and k records
  full_history    as many of the most recent items as fit into `history_tokens`

Stage 1 has seen profiles and records in a part of its windows (`adapt.profile_share`, `adapt.records_share`),
so that these rows are trained for. Summaries written elsewhere (by the backbone: `prelude summarize`, or by
hand) may stand in for the template.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from llm.prompts.builder import Context
from llm.prompts.contexts import FullHistory, Joined, Profile, Records, Summaries
from recsys.config import StageConfig

if TYPE_CHECKING:
    from llm.methods.stage2 import World


class _Prompting(StageConfig):
    method: Literal["prompt_context", "rag", "pag", "full_history"]
    k: int = Field(2, ge=1, le=64)  # records (rag, pag); the papers use 1, 2 and 4
    history_tokens: int = Field(256, ge=8)  # full_history: tokens of items
    # Parquet user_id, timestamp, summary: what stands in for the template profile from its moment on
    # (`prelude summarize`)
    summaries: Path | None = None

    def context(self, world: World) -> Context:
        """The context itself."""
        if self.method == "full_history":
            return FullHistory(self.history_tokens // world.builder.item_tokens.shape[1])
        profile = Profile(
            Summaries.read(world.outside(self.summaries), world.dataset) if self.summaries else None
        )
        if self.method == "prompt_context":
            return profile
        records = Records(world.search, self.k)
        return records if self.method == "rag" else Joined((profile, records))


def _named(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


PromptMethod = Annotated[_Prompting, BeforeValidator(_named)]
