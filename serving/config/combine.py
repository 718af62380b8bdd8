"""The settings of the optional stage `combine`: what generators are multiplied with."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from recsys.config import StageConfig

PRODUCT = "_product"  # what the keys of products end with
ALONE = f"experts{PRODUCT}"  # the product without a generator: the control that says what the generator adds
WORDS = f"words{PRODUCT}"  # the experts and what fits the words of a query, without a generator
ASKED = f"query{PRODUCT}"  # the same with the first generator, which reads the query too

Expert = Literal["embedding_retrieval", "sasrec", "item_knn", "text", "popularity"]


class CombineConfig(StageConfig):
    """Products of experts over the whole catalogue (`evaluation.product`); validation gives the weights."""

    # methods whose log p is one factor; each becomes a row of its own, and of every training seed its own
    # weights. None: the product of the experts alone
    generators: tuple[str, ...] = ("no_context", "e2p")
    # the other factors: exp(β · score). text: cosine to the faded mean of the history's text vectors
    experts: tuple[Expert, ...] = ("embedding_retrieval", "text", "popularity")
    # validation instances, a seeded sample: a handful of weights needs no more, and each is scored on the
    # whole catalogue
    instances: int = Field(4000, ge=1)
    seed: int = 0  # of that sample
    # of it, instances with a query about their target, by which products for queries are weighed; 0: no such products
    query_instances: int = Field(1000, ge=0)
    # inner nodes of the trie up to which a generator forwards them all for each request, so that products are exact: 50,000 are
    # 80 GFLOP with a decoder of .8M weights. 0: never, which is many times faster, and a little off (BENCHMARKS.md)
    exact_up_to: int = Field(50_000, ge=0)
    # nodes of each depth that are forwarded of a larger one: what lies below the others is told from their probability alone.
    # 1,024 on two depths are 4 GFLOP a million weights of the decoder
    nodes_a_depth: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> CombineConfig:
        for name, keys in (("generators", self.generators), ("experts", self.experts)):
            if len(set(keys)) < len(keys):
                raise ValueError(f"combine.{name} has a name twice; name each once, got {list(keys)}")
        if not self.experts:
            raise ValueError("combine.experts needs at least one name")
        return self

    def product_keys(self) -> list[str]:
        """Keys of the rows that the stage makes, in the table's order."""
        return [ALONE, *map(product_key, self.generators)]

    def query_keys(self) -> list[str]:
        """Keys of the products that read a query's words."""
        return [WORDS, ASKED] if self.generators else [WORDS]


def product_key(generator: str) -> str:
    """What the product with a generator is asked for by, as in `recommend --method no_context_product`."""
    return generator + PRODUCT


def product_name(name: str) -> str:
    """Its row."""
    return f"{name} × experts"
