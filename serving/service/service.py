"""A service in one process: the state, the model's line, and what HTTP asks of them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from recsys.artifacts.paths import RunError
from serving.service.answers import Answered, Ask, answer_all
from serving.service.batches import Batches
from serving.service.forms import EventsForm, RecommendationForm, RecommendForm, TakenForm
from serving.service.metrics import Metrics
from serving.service.problems import Problem
from serving.service.served import Served
from serving.service.settings import ServiceConfig
from serving.state import lists, persons, shown
from serving.state.events import Event, add_new, last_event
from serving.state.store import State

Found = TypeVar("Found")
# what of the request before may be given beside `next`
BESIDE_NEXT = {"next", "n"}


class Service:
    """One run and one state."""

    def __init__(self, run: Path, state_url: str, settings: ServiceConfig):
        """Load `run` and open the state. Raises `RunError`, `StateError`, `ValueError`."""
        self.settings, self.metrics = settings, Metrics()
        self.state, self.run = State(state_url), run
        self._reloads = threading.Lock()
        self.batches = Batches(self._load, settings, self.metrics.saw)
        # whoever comes first does not wait for what is loaded when it is first asked for
        self.warm: Future = self.batches.do(answer_somebody)

    def close(self) -> None:
        """Answer what waits, and close."""
        self.batches.close()
        self.state.close()

    @property
    def served(self) -> Served:
        return self.batches.served

    async def wait(self, future: Future) -> Any:
        """A future's answer. Raises `TimeoutError` after `timeout_s`."""
        return await asyncio.wait_for(asyncio.wrap_future(future), self.settings.timeout_s)

    # -- lists -----------------------------------------------------------------------------------------------

    async def recommend(self, forms: list[RecommendForm]) -> list[RecommendationForm | Exception]:
        """A list or an error for each request; kept before it is told."""
        is_kept = False
        while not is_kept:  # again where somebody was deleted meanwhile: a list may be made of what they had
            asked = [await self._ask(form) for form in forms]
            answers = await asyncio.gather(
                *(self._one(ask) if isinstance(ask, Ask) else _raise(ask) for ask in asked),
                return_exceptions=True,
            )
            for one in answers:
                if isinstance(one, BaseException) and not isinstance(one, Exception):
                    raise one
            is_kept = await self._keep([one for one in answers if isinstance(one, Answered)])
        return [self._told(one) if isinstance(one, Answered) else one for one in answers]  # type: ignore[misc]

    async def _keep(self, answers: list[Answered]) -> bool:
        """Keep lists; False: somebody was deleted since they were made, and none is."""
        if not self.settings.keep_shown or not answers:
            return True

        def write(connection: sa.Connection) -> bool:
            if lists.gone_after(connection, min(one.change for one in answers)):
                return False
            shown.keep(connection, [one.shown for one in answers])
            return True

        return await self.wait(self.state.submit(write))

    async def _ask(self, form: RecommendForm) -> Ask | Exception:
        if form.next is None:
            arm, options = self.settings.arms_of(None if form.user_id is None else str(form.user_id))
            options = {name: value for name, value in options.items() if name not in form.model_fields_set}
            return Ask(form.model_copy(update=options), arm)
        if beside := form.model_fields_set - BESIDE_NEXT:
            return Problem(422, "beside next only n may be given", sorted(beside)[0])
        before = await asyncio.to_thread(shown.find, self.state, form.next)
        if before is None:
            return Problem(404, "no list of that recommendation_id is kept", "next")
        asked = {name: value for name, value in before.asked.items() if name in RecommendForm.model_fields}
        again = RecommendForm.model_validate(asked | ({"n": form.n} if "n" in form.model_fields_set else {}))
        return Ask(again, before.arm, before)

    async def _one(self, ask: Ask) -> Answered:
        return await self.wait(self.batches.ask(ask))

    def _told(self, answered: Answered) -> RecommendationForm:
        self.metrics.lists.labels("cold" if answered.is_cold else "warm").inc()
        self.metrics.illegal.inc(answered.illegal)
        one = answered.shown
        items = [
            {"item_id": item.item_id, "title": title, "score": item.score, "probability": item.probability}
            for item, title in zip(one.items, answered.titles, strict=True)
        ]
        return RecommendationForm.model_validate(
            {
                "recommendation_id": one.id,
                "method": one.method,
                "path": one.path,
                "why": answered.why,
                "arm": one.arm,
                "items": items,
                "ignored": answered.ignored,
            }
        )

    # -- events ----------------------------------------------------------------------------------------------

    async def take(self, form: EventsForm) -> TakenForm:
        """Store events; they are on the disk when this returns. Raises what `Served.event` and the state do."""
        served = self.served

        def checked() -> list[Event]:
            return [served.event(f"events.{place}", given) for place, given in enumerate(form.events)]

        # without a clock the state is asked what came last, and nobody else waits meanwhile
        events = checked() if served.is_clock else await asyncio.to_thread(checked)
        if self.settings.learn:
            served.mine |= {event.event_id for event in events}
        fresh: list[Event] = await self.wait(self.state.submit(partial(add_new, new=events)))
        for event in fresh:
            self.metrics.events.labels(event.type).inc()
        unknown = sum(served.data.catalogue.number(event.item_id) is None for event in events)
        known = len({event.event_id for event in events}) - len(fresh)
        return TakenForm(stored=len(fresh), known=known, unknown_items=unknown)

    def behind(self) -> int:
        """Events that are stored and that this process has not read yet."""
        return max(last_event(self.state) - self.served.seq, 0)

    # -- runs and people -------------------------------------------------------------------------------------

    async def reload(self, name: str | None, tell: bool = True) -> str:
        """Answer from the run `name` beside the one that is served (None: the same, read again), once it is loaded and has answered.

        Raises `Problem` where it cannot be; then nothing has changed.
        """
        path = self.run if name is None else self.run.parent / name
        try:
            served = await asyncio.to_thread(self._warm, path)
        except (RunError, ValueError, KeyError, OSError) as error:
            raise Problem(
                409, f"the run cannot be served ({type(error).__name__}); the one before goes on", "run"
            ) from error
        await self.wait(self.batches.swap(served))
        self.run = path
        if tell:

            def say(connection: sa.Connection) -> None:
                served.said.add(lists.say(connection, "run", path.name))

            await self.wait(self.state.submit(say))
        return path.name

    def _load(self, name: str) -> Served:
        path = self.run.parent / name if name else self.run
        served = Served(path, self.state, self.settings)
        self.run = path
        return served

    def _warm(self, path: Path) -> Served:
        """A run that has answered somebody."""
        with self._reloads:
            served = Served(path, self.state, self.settings)
            answer_somebody(served)
            served.succeed(self.served)
            return served

    def held(self, user_id: str) -> dict[str, Any]:
        """All that the state holds of somebody."""
        return persons.held(self.state, user_id)

    async def forget(self, user_id: str) -> bool:
        """Delete somebody from the state and from the run; whether there was anything."""
        from serving import user_state

        run = self.served.methods.run
        in_run = await self.wait(self.batches.do(lambda served: served.data.user_index(user_id) is not None
                                                 or served.recommender.live.histories.user_index(user_id) is not None))  # fmt: skip
        rows = await asyncio.to_thread(persons.forget_person, self.state, user_id)
        if in_run:
            try:
                await asyncio.to_thread(user_state.delete, run, user_id)
            except RunError:
                raise
            except ValueError:  # the run does not hold them: they were known by their events alone
                in_run = False
        if rows or in_run:
            await self.wait(self.state.submit(partial(lists.say, kind="gone", name="")))
            await self.reload(None, tell=False)
        return bool(rows) or in_run


def answer_somebody(served: Served) -> None:
    """Answer nobody and somebody, the best and a draw, so that all of it is loaded. Raises what one of them raises."""
    known = next((str(user_id) for user_id in served.data.user_ids if user_id), None)
    asks = [Ask(RecommendForm(user_id=who, n=1, temperature=t)) for who in {None, known} for t in (0.0, 1.0)]
    for answer in answer_all(served, asks):
        if isinstance(answer, Exception):
            raise answer


async def _raise(error: Exception) -> Answered:
    raise error


__all__ = ["Event", "Service"]
