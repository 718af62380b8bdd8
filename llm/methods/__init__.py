"""Every way to personalize: one module and one configuration each, one line to choose it.

methods: [e2p, static_prefix, tap_per]                    # names of CATALOGUE
methods: all                                              # all of them
methods: [e2p, {method: tap_per, bridge: false, name: "TAP-PER, no bridge"}]      # or settings of one's own
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llm.methods.base import MethodConfig
from llm.methods.continued import ContinuedConfig
from llm.methods.e2p import E2PConfig, StaticPrefixConfig
from llm.methods.lora import MTLoraConfig
from llm.methods.p2p import P2PConfig
from llm.methods.tap_per import TapPerConfig
from llm.methods.untrained import PromptingConfig

AnyMethod = Annotated[
    E2PConfig
    | StaticPrefixConfig
    | ContinuedConfig
    | PromptingConfig
    | MTLoraConfig
    | TapPerConfig
    | P2PConfig,
    Field(discriminator="method"),
]

_P_Q = {"user_state": False, "bridge": False}

# key -> settings. The order is that of the table.
CATALOGUE: dict[str, dict[str, Any]] = {
    "no_context_continued": {"name": "No Context, continued"},
    "static_prefix": {"name": "Static Prefix"},
    "e2p": {"name": "E2P"},
    "prompt_context": {"name": "Prompt Context"},
    "rag": {"name": "RAG, k = 2"},
    "pag": {"name": "PAG, k = 2"},
    "full_history": {"name": "Full History"},
    "e2p_prompt": {"method": "e2p", "prompt": "prompt_context", "name": "E2P + Prompt"},
    "mt_lora": {"name": "MT-LoRA"},
    "tap_per": {"name": "TAP-PER"},
    "tap_per_p_q": {"method": "tap_per", "user_state": False, "name": "TAP-PER, P_q only"},
    "bridge_only": {"method": "tap_per", "user_state": False, "records": False, "name": "Bridge only"},
    "p2p": {"name": "P2P"},
    "p2p_summary": {"method": "p2p", "profile": "summary_only", "name": "P2P, summary only"},
}


def named(value: Any) -> Any:
    """A method's settings, from its name or from settings of one's own. Raises `ValueError` naming what there is."""
    if isinstance(value, MethodConfig):
        return value
    if isinstance(value, str):
        if value not in CATALOGUE:
            raise ValueError(f"there is no method {value!r}; there are {', '.join(CATALOGUE)}, or: all")
        return {"method": value, "key": value} | CATALOGUE[value]
    if isinstance(value, dict) and value.get("key") in CATALOGUE:
        return {"method": value["key"]} | CATALOGUE[value["key"]] | value
    if isinstance(value, dict) and "method" in value:
        known = CATALOGUE.get(value["method"], {"name": str(value["method"])})
        name = value.get("name") or known["name"]
        key = value.get("key") or (value["method"] if "name" not in value else _slug(name))
        return {"name": name, "key": key} | value
    return value


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def listed(value: Any) -> Any:
    """`all` as the whole catalogue."""
    return list(CATALOGUE) if value == "all" else value


Method = Annotated[AnyMethod, BeforeValidator(named)]
