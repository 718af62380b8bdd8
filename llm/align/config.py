"""Settings of the stage `align`: its rows (method × objective), target, reference and weights."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field, model_validator

from llm.align.targets import Target
from llm.methods.base import TrainedMethod
from llm.methods.catalogue import named
from llm.methods.choices import Method
from llm.methods.config import Stage2Config
from recsys.config import StageConfig

ReferenceName = Literal["no_personalization", "lm_snapshot"]

NAMES = {"lm": "LM", "engagement": "KTO eq. 5", "kto": "KTO"}


class AlignRow(StageConfig):
    """One row: a method of `llm.methods` that is trained by gradient (a name, or settings of one's own),
    and what it is trained for.
    """

    method: Method
    objective: Literal["lm", "engagement", "kto"] = "lm"
    # lm: from what this method's lm row (listed before) ended with; fresh: from an untrained personalizer
    start: Literal["lm", "fresh"] = "lm"
    # π_ref; None: align.reference
    reference: ReferenceName | None = None
    key: str = Field("", pattern=r"^[a-z0-9_]*$")  # "": method_objective
    name: str = ""  # "": such as E2P (KTO)

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("method") is None:
            return values
        given, objective = named(values["method"]), values.get("objective", "lm")
        key, name = (
            (given.get("key"), given.get("name")) if isinstance(given, dict) else (given.key, given.name)
        )
        own = {"key": f"{key}_{objective}", "name": f"{name} ({NAMES.get(objective, objective)})"}
        return own | {name: value for name, value in values.items() if value or name not in own}

    @model_validator(mode="after")
    def _is_trained_by_gradient(self) -> AlignRow:
        if not isinstance(self.method, TrainedMethod):
            raise ValueError(
                f"{self.method.method} has no personalizer that one gradient trains for all users; take e2p, tap_per, p2p, …"
            )
        return self

    @property
    def trained(self) -> TrainedMethod:
        """The method under the row's own key and name."""
        assert isinstance(self.method, TrainedMethod)
        return self.method.model_copy(update={"key": self.key, "name": self.name})

    @property
    def starts_trained(self) -> bool:
        return self.objective != "lm" and self.start == "lm"

    def shares_snapshot(self, other: AlignRow) -> bool:
        """May this row start from what the other ended with? How they are trained may differ,
        what they are may not.
        """
        apart = {"key", "name", "steps", "learning_rates"}
        return self.method.model_dump(exclude=apart) == other.method.model_dump(exclude=apart)


class AlignConfig(Stage2Config):
    """`steps`, `learning_rates` and the like are of every row; a row's method may set its own."""

    rows: tuple[AlignRow, ...] = Field(
        (
            {"method": "static_prefix"},
            {"method": "static_prefix", "objective": "kto"},
            {"method": "e2p"},
            {"method": "e2p", "objective": "engagement"},
            {"method": "e2p", "objective": "kto"},
        ),
        validate_default=True,
        min_length=1,
    )
    batch: int = Field(32, ge=2)  # targets a step; of one alone there is no KL pair
    target: Target = "item"  # what is engaged with: a shown item, or the list (if more than half of it was)
    # no_personalization: the frozen model with the same prompt, prefix and updates off; lm_snapshot: the
    # method's lm row
    reference: ReferenceName = "no_personalization"
    beta: float = Field(0.1, gt=0)  # how fast the value saturates in the log-ratio; both objectives
    alpha: float | None = Field(None, gt=0)  # of E2P eq. 5; None: λ_U / λ_D of `balanced_weights`
    # λ_D and λ_U of KTO; None: `balanced_weights`
    desirable_weight: float | None = Field(None, gt=0)
    undesirable_weight: float | None = Field(None, gt=0)
    watched_requests: int = Field(200, ge=1)  # validation requests from which the collapse watch draws

    @model_validator(mode="after")
    def _makes_sense(self) -> AlignConfig:
        for attribute in ("key", "name"):
            counts = Counter(getattr(row, attribute) for row in self.rows)
            twice = [value for value, count in counts.items() if count > 1]
            if twice:
                raise ValueError(f"two rows have the {attribute} {twice[0]!r}; give one of them another")
        if (self.desirable_weight is None) != (self.undesirable_weight is None):
            raise ValueError(
                "give both desirable_weight and undesirable_weight, or neither: only their ratio says much"
            )
        for row in self.rows:
            if self.needs_snapshot(row) and self.lm_row(row) is None:
                raise ValueError(
                    f"the row {row.key} reads the lm snapshot of its method, which no row before it trains; list "
                    f"{{method: …, objective: lm}} with the same settings in front, or set start: fresh and reference: no_personalization"
                )
        return self

    def row(self, key: str) -> AlignRow:
        """One of the rows. Raises `ValueError` naming those that there are."""
        for row in self.rows:
            if row.key == key:
                return row
        raise ValueError(f"align has no row {key!r}; it has {', '.join(row.key for row in self.rows)}")

    def reference_of(self, row: AlignRow) -> ReferenceName:
        return row.reference or self.reference

    def needs_snapshot(self, row: AlignRow) -> bool:
        return row.starts_trained or (row.objective != "lm" and self.reference_of(row) == "lm_snapshot")

    def lm_row(self, row: AlignRow) -> AlignRow | None:
        """The lm row of the same method that is listed before `row`."""
        before = self.rows[: self.rows.index(row)]
        found = [one for one in before if one.objective == "lm" and row.shares_snapshot(one)]
        return found[0] if found else None
