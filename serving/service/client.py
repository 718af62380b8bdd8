"""A typed client of the service: `Client("http://localhost:8000").recommend(user_id="42", n=5)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from serving.service.forms import (
    BatchAnswerForm,
    CatalogueItemForm,
    EventForm,
    EventsForm,
    ListFactsForm,
    PersonForm,
    RecommendationForm,
    RecommendForm,
    TakenForm,
)

Form = TypeVar("Form", bound=BaseModel)


class ServiceError(Exception):
    """The service has refused or failed: status, what it said, and the field that it names (None: no single one)."""

    def __init__(self, status: int, detail: str, field: str | None = None):
        super().__init__(f"{status}: {detail}")
        self.status, self.detail, self.field = status, detail, field


class Client:
    """Calls of the API, each with its answer as a form. Every call raises `ServiceError` for what is no success."""

    def __init__(
        self, url: str, key: str | None = None, timeout_s: float = 60.0, http: httpx.Client | None = None
    ):
        """`http`: the connection to use in place of one to `url`."""
        headers = {} if key is None else {"X-API-Key": key}
        self.http = httpx.Client(base_url=url, timeout=timeout_s) if http is None else http
        self.http.headers.update(headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def recommend(self, **asked: Any) -> RecommendationForm:
        """One list; fields as those of `RecommendForm`."""
        return self._post("/v1/recommend", RecommendForm(**asked), RecommendationForm)

    def pages(self, **asked: Any) -> Iterator[RecommendationForm]:
        """A list, and what comes after it, until there is nothing more."""
        page = self.recommend(**asked)
        while page.items:
            yield page
            page = self.recommend(next=page.recommendation_id)

    def recommend_batch(self, requests: Sequence[dict[str, Any]]) -> BatchAnswerForm:
        """Several lists in one call."""
        return self._read(
            self._call("POST", "/v1/recommend:batch", {"requests": list(requests)}), BatchAnswerForm
        )

    def send(self, *events: dict[str, Any] | EventForm) -> TakenForm:
        """Events; they are stored when this returns, and may be sent again."""
        form = EventsForm.model_validate({"events": list(events)})
        return self._post("/v1/events", form, TakenForm)

    def user(self, user_id: str) -> PersonForm:
        """What is known of somebody."""
        return self._read(self._call("GET", f"/v1/users/{_quoted(user_id)}"), PersonForm)

    def export_user(self, user_id: str) -> dict[str, Any]:
        """All that is held of somebody."""
        return self._call("GET", f"/v1/users/{_quoted(user_id)}/export").json()

    def delete_user(self, user_id: str) -> None:
        """Delete somebody for good."""
        self._call("DELETE", f"/v1/users/{_quoted(user_id)}")

    def put_list(self, name: str, ids: Sequence[str | int]) -> ListFactsForm:
        """Put a named list."""
        return self._read(self._call("PUT", f"/v1/lists/{_quoted(name)}", {"ids": list(ids)}), ListFactsForm)

    def get_list(self, name: str) -> ListFactsForm:
        """What is known of a named list."""
        return self._read(self._call("GET", f"/v1/lists/{_quoted(name)}"), ListFactsForm)

    def lists(self) -> list[ListFactsForm]:
        """All named lists."""
        return TypeAdapter(list[ListFactsForm]).validate_python(self._call("GET", "/v1/lists").json())

    def delete_list(self, name: str) -> None:
        """Delete a named list."""
        self._call("DELETE", f"/v1/lists/{_quoted(name)}")

    def item(self, item_id: str) -> CatalogueItemForm:
        """An item."""
        return self._read(self._call("GET", f"/v1/items/{_quoted(item_id)}"), CatalogueItemForm)

    def find_items(self, words: str, most: int = 20) -> list[dict[str, str]]:
        """Items by the words of their title."""
        return self._call("GET", "/v1/items", params={"q": words, "most": most}).json()

    def ready(self) -> bool:
        """Does the service answer?"""
        try:
            return self.http.get("/health/ready").is_success
        except httpx.TransportError:
            return False

    def metrics(self) -> str:
        """Figures in Prometheus' format."""
        return self._call("GET", "/metrics").text

    def reload(self, run: str | None = None) -> str:
        """Answer from a newer run; its name."""
        return self._call("POST", "/v1/admin/reload", {"run": run}).json()["run"]

    def _post(self, path: str, form: BaseModel, answer: type[Form]) -> Form:
        return self._read(self._call("POST", path, form.model_dump(mode="json", exclude_unset=True)), answer)

    @staticmethod
    def _read(response: httpx.Response, form: type[Form]) -> Form:
        return form.model_validate_json(response.content)

    def _call(
        self, verb: str, path: str, body: dict[str, Any] | None = None, params: dict[str, Any] | None = None
    ) -> httpx.Response:
        response = self.http.request(verb, path, json=body, params=params)
        if response.is_success:
            return response
        try:
            problem = response.json()
            field = next((one["field"] for one in problem["errors"]), None)
            raise ServiceError(response.status_code, problem["detail"], field)
        except (ValueError, KeyError, TypeError):
            raise ServiceError(response.status_code, response.reason_phrase) from None


def _quoted(part: str) -> str:
    return quote(part, safe="")
