"""Every way to personalize: one module and one configuration each, one line to choose it.

methods: [e2p, static_prefix, tap_per]                    # names of CATALOGUE
methods: all                                              # all of them
methods: [all, {key: p2p, encoder: backbone}]             # all of them, one with settings of one's own
methods: [e2p, {method: tap_per, bridge: false, name: "TAP-PER, no bridge"}]      # or settings of one's own
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from llm.methods.catalogue import named
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


Method = Annotated[AnyMethod, BeforeValidator(named)]
