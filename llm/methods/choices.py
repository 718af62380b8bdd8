"""Every way to personalize: one module and one configuration each, one line to choose it.

methods: [e2p, static_prefix, tap_per]                    # names of CATALOGUE
methods: all                                              # all of them
methods: [all, {key: p2p, encoder: backbone}]             # all of them, one with settings of one's own
methods: [e2p, {method: tap_per, bridge: false, name: "TAP-PER, no bridge"}]      # or settings of one's own
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llm.methods.catalogue import CATALOGUE, named
from llm.methods.combination import CombinationConfig
from llm.methods.continued import ContinuedConfig
from llm.methods.e2p import E2PConfig, StaticPrefixConfig
from llm.methods.lora import MTLoraConfig
from llm.methods.p2p.method import P2PConfig
from llm.methods.per_user.oppu import OppuConfig
from llm.methods.per_user.per_pcs import PerPcsConfig
from llm.methods.tap_per import TapPerConfig
from llm.methods.untrained import PromptingConfig

AnyMethod = Annotated[
    E2PConfig
    | StaticPrefixConfig
    | ContinuedConfig
    | PromptingConfig
    | MTLoraConfig
    | OppuConfig
    | PerPcsConfig
    | TapPerConfig
    | P2PConfig
    | CombinationConfig,
    Field(discriminator="method"),
]


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


Method = Annotated[AnyMethod, BeforeValidator(named)]
