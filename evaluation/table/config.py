"""Settings of the evaluation: instances, draws, temperatures, and how sure a test must be."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from recsys.config import StageConfig


def _listed(value: Any) -> Any:
    """One whole number counts as a list of it."""
    return (value,) if isinstance(value, int) else value


class EvaluateConfig(StageConfig):
    """How figures are made. Intervals are always 95 %, as their names in results.json say."""

    # instances; 0 = all. Scoring costs up to a second an instance on a CPU; the report states a sample
    max_instances: int = Field(0, ge=0)
    # draws a request; 30 is the papers' hit-rate@30
    n_candidates: int = Field(30, ge=1)
    # depths of Recall@k and NDCG@k, shallow first; 5 and 10 are customary. One number is a list of one
    top_k: Annotated[tuple[int, ...], BeforeValidator(_listed)] = Field((5, 10), min_length=1)
    # no unit; 1 samples the model's own distribution, as in E2P
    temperature: float = Field(1.0, gt=0)
    # temperatures that validation may choose from: the softmax baselines' and the second temperature column's
    temperature_grid: tuple[float, ...] = (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
    # any integer; names the sample of instances and the bootstrap
    seed: int = 0
    # seeds of the draws, averaged per instance; more of them steady the sampled columns only
    draw_seeds: tuple[int, ...] = Field((0,), min_length=1)
    # requests a call, and what a kill may cost
    batch_size: int = Field(128, ge=1)
    # MiB that a generative method may take beside its weights;
    # it decides how many of a call's requests are read at once
    memory_mb: int = Field(1024, ge=1)
    # 8-bit weights in generative methods: faster on CPUs, another distribution; the report says by how much
    int8: bool = False
    # chance of a false alarm in one test; customary
    alpha: float = Field(0.05, gt=0, lt=1)
    # chance to find the smallest detectable difference if it is true; customary
    power: float = Field(0.8, gt=0, lt=1)
    # bootstrap samples; 2,000 place a 95 % bound to about 2 % of the interval's width
    bootstrap_samples: int = Field(2000, ge=100)
    # how often E2P-Random deals out other users' vectors; five is the protocol's least
    random_permutations: int = Field(5, ge=1)
    # ranked and distinct lists too? They cost a search and a second draw a request
    beam_columns: bool = True
    # names of the rows that are measured, in any order; null: all that the run has.
    # No Context, the baseline, always is
    rows: tuple[str, ...] | None = None
    # measure generative rows by one tree pass over the catalogue (the same ranks and, at t = 1, probabilities; other temperatures
    # are then of items, not of codes): for a GPU, or a small catalogue, as each request then costs a token for every inner node
    whole_catalogue: bool = False
    # the default method (what `recommend` answers with where none is named) is chosen on so many validation instances,
    # by kind of request; 0: on none, and it is E2P or No Context
    default_instances: int = Field(200, ge=0)
    # ms a single request for ten items may take, on the machine that evaluates, to be the default
    default_latency_ms: float = Field(500.0, gt=0)
    # test instances of the table of queries, and validation instances that choose and weigh its rows; 0: no such table
    query_instances: int = Field(150, ge=0)
    # replicas of a row that those columns are measured on; 0 = all. One is enough, as no test rests on them
    beam_replicas: int = Field(1, ge=0)

    @field_validator("top_k")
    @classmethod
    def _ascending(cls, cuts: tuple[int, ...]) -> tuple[int, ...]:
        if list(cuts) != sorted(set(cuts)) or cuts[0] < 1:
            raise ValueError(f"top_k is {list(cuts)}; expected whole numbers from 1 up, each once, ascending")
        return cuts
