"""The forms of the API: what is asked and answered, as JSON. An unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
)

from recsys.door.values import one_id
from serving.answering.limits import MOST_IDS, MOST_ITEMS, MOST_QUERY
from serving.service.settings import TYPES


def _no_text(value: Any) -> Any:
    """A whole number is 7 or 7.0, as JSON has it; not "7", and not true."""
    if isinstance(value, str | bool):
        raise ValueError("expected a whole number")
    return value


def _short(user_id: str | None) -> str | None:
    if len(user_id or "") > 200:
        raise ValueError("an id has at most 200 characters")
    return user_id


Whole = Annotated[int, BeforeValidator(_no_text)]
Id = Annotated[str | StrictInt, Field(union_mode="left_to_right")]
# of a user, as the run writes it, however it is spelled: what is kept of a list is found by it, and goes by it
UserId = Annotated[Id, AfterValidator(one_id), AfterValidator(_short)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
ListName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Ids = Annotated[list[Id], Field(max_length=MOST_IDS)]


class Form(BaseModel):
    """The base of every form."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecommendForm(Form):
    """Everything that `Recommender.recommend` takes, and `next`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"user_id": "42", "query": "dark comedy", "n": 10, "temperature": 1.0}]
        },
    )

    user_id: UserId | None = Field(None, description="Whose list; nobody's where it is missing.")
    query: StrictStr | None = Field(None, max_length=MOST_QUERY, description="What they ask for, in words.")
    n: Whole = Field(10, ge=1, le=MOST_ITEMS, description="How many items.")
    method: StrictStr | None = Field(None, max_length=200, description="Default: the run's best.")
    strength: float = Field(1.0, ge=0, le=1, description="How much of what the method adds is used.")
    temperature: float = Field(
        0.0, ge=0, le=1e6, description="0: the best; above: draws without replacement."
    )
    seed: Whole | None = Field(
        None, ge=-(2**63), lt=2**63, description="Draws that can be had again. Default: other ones each time."
    )
    time: Whole | StrictStr | None = Field(None, description="Hide everything at or after this moment.")
    history: Ids | None = Field(None, description="Item ids, oldest first, in place of what is known.")
    exclude: Ids | StrictStr = Field(
        (), description="Item ids, or the name of a stored list.", validate_default=False
    )  # type: ignore[assignment]
    allow: Ids | StrictStr | None = Field(
        None, description="The only items: ids, or the name of a stored list."
    )
    exclude_seen: StrictBool | None = Field(
        None, description="May what the user had come again? Default: as the run."
    )
    sequence: StrictBool = Field(False, description="A playlist: each item after those before it.")
    caps: dict[StrictStr, Whole] | None = Field(
        None, max_length=10, description="Column: at most so many a value."
    )
    order: Literal["as made", "smooth", "score"] = "as made"
    next: StrictStr | None = Field(
        None,
        max_length=40,
        description="A recommendation_id: go on where it stopped; n alone may be given beside it.",
    )


class ItemForm(Form):
    """An item of a list."""

    item_id: str
    title: str
    score: float | None = Field(description="log-probability, inner product or count; by method.")
    probability: float | None = Field(
        description="Exact, given the items before it; null where nothing was drawn."
    )


class RecommendationForm(Form):
    """A list, and how it came about."""

    recommendation_id: str
    method: str
    path: str
    why: str = Field("", description="Why this method, where none was named.")
    arm: str | None = None
    items: list[ItemForm]
    ignored: dict[str, int] = Field({}, description="Ids that the run does not know, and that were left out.")


class BatchForm(Form):
    """Several requests."""

    requests: list[RecommendForm] = Field(min_length=1)


class FailureForm(Form):
    """A request of a batch that could not be answered."""

    error: str


class BatchAnswerForm(Form):
    """An answer or a failure each, in the order of the requests."""

    answers: list[RecommendationForm | FailureForm]


class EventForm(Form):
    """What somebody did."""

    event_id: Text = Field(description="Whoever sends it twice has it stored once.")
    user_id: Id
    item_id: Id
    type: Literal[TYPES]  # type: ignore[valid-type]
    timestamp: Whole | StrictStr | None = Field(None, description="Unix seconds or ISO; default: now.")
    recommendation_id: Text | None = Field(None, max_length=40, description="The list that it answers.")


class EventsForm(Form):
    """One event or many."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"events": [{"event_id": "a1", "user_id": "42", "item_id": "296", "type": "like"}]}]
        },
    )
    events: list[EventForm] = Field(min_length=1)


class TakenForm(Form):
    """What came of events: they are on the disk."""

    stored: int = Field(description="New ones.")
    known: int = Field(description="Those that had been stored before.")
    unknown_items: int = Field(
        description="Those of items that the run does not know: kept, and read by no method."
    )


class ListForm(Form):
    """A named list of item ids."""

    ids: list[Id]


class ListFactsForm(Form):
    """What is known of a named list."""

    name: str
    count: int
    unknown: int | None = Field(None, description="Ids in it that the run does not know.")
    made_unix_s: float


class PersonForm(Form):
    """What the service and the run know of somebody."""

    user_id: str
    known: bool
    history: list[dict[str, Any]] = Field(description="The newest items, newest first.")
    events: int
    shown: int
    states: list[dict[str, Any]]


class NeighbourForm(Form):
    """An item that is alike."""

    item_id: str
    title: str
    similarity: float


class CodeForm(Form):
    """One level of an item's semantic ID."""

    level: int
    code: int
    items: int = Field(description="How many items share the codes down to here.")
    words: list[str] = Field(description="What those items are, most telling first.")


class CatalogueItemForm(Form):
    """An item as the run knows it."""

    item_id: str
    title: str
    columns: dict[str, list[str]]
    codes: list[CodeForm]
    neighbours: list[NeighbourForm]


class ReloadForm(Form):
    """Another run beside the one that is served; the same one, read again, where it is missing."""

    run: ListName | None = None


class ProblemForm(BaseModel):
    """RFC 9457: what was wrong, and with which field."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
