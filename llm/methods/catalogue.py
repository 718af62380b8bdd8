"""The methods that have a name of their own: what `methods: all` means, and the order of the table."""

from __future__ import annotations

import re
from typing import Any

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
    "oppu_lora": {"method": "oppu", "name": "OPPU, LoRA"},
    "oppu_ia3": {"method": "oppu", "kind": "ia3", "name": "OPPU, IA3"},
    "oppu_prompt": {"method": "oppu", "kind": "prompt", "name": "OPPU, prompt tuning"},
    "oppu_lora_rag": {"method": "oppu", "prompt": "rag", "name": "OPPU, LoRA + RAG"},
    "oppu_lora_pag": {"method": "oppu", "prompt": "pag", "name": "OPPU, LoRA + PAG"},
    "per_pcs": {"name": "PER-PCS"},
    "tap_per": {"name": "TAP-PER"},
    "tap_per_p_q": {"method": "tap_per", "user_state": False, "name": "TAP-PER, P_q only"},
    "bridge_only": {"method": "tap_per", "user_state": False, "records": False, "name": "Bridge only"},
    "e2p_p_q": {
        "method": "combination",
        "parts": ["e2p", {"method": "tap_per", "user_state": False, "bridge": False}],
        "name": "E2P + P_q",
    },
    "p2p": {"name": "P2P"},
    "p2p_summary": {"method": "p2p", "profile": "summary_only", "name": "P2P, summary only"},
}


def named(value: Any) -> Any:
    """A method's settings, from its name or from settings of one's own.
    Raises `ValueError` naming what there is.
    """
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


def listed(value: Any) -> Any:
    """`all` as the whole catalogue.
    In a list, what follows it replaces the rows of the same key: [all, {key: e2p, bottleneck: 64}].
    """
    given = [value] if value == "all" else value
    if not isinstance(given, list | tuple) or "all" not in given:
        return given
    rows: dict[str, Any] = dict(zip(CATALOGUE, CATALOGUE, strict=True))
    for number, own in enumerate(one for one in given if one != "all"):
        key = own if isinstance(own, str) else own.get("key") if isinstance(own, dict) else own.key
        rows[key or f"own {number}"] = own
    return list(rows.values())


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
