"""Many at once: one thread has the model; what waits together, for a stated time at most, is answered in one packed pass."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from serving.service.answers import Answered, Ask, answer_all
from serving.service.learning import learn
from serving.service.served import Served
from serving.service.settings import ServiceConfig
from serving.state.store import StateError

IDLE_S = 0.5  # after which a process with nothing to do hears what others have changed
LOG = logging.getLogger("prelude.service")


class TooMany(RuntimeError):
    """More requests wait than may."""


class Batches:
    """The line in front of the model.

    Everything that touches the loaded run is done in this object's thread, so that what a model keeps between
    calls (the prompts that it read last, a product's scores, soft tokens of a pass) is one thread's.
    """

    def __init__(
        self,
        load: Callable[[str], Served],
        settings: ServiceConfig,
        seen: Callable[[int, float], None] = lambda size, seconds: None,
    ):
        """`load(name)` makes what is served: the run that it began with (""), or one beside it; `seen(requests, seconds)` hears of
        each pass.
        """
        self._load, self._settings, self._seen = load, settings, seen
        self.served = load("")
        self._line: queue.Queue[tuple[Ask | Callable[[Served], Any], Future] | None]
        self._line = queue.Queue(settings.most_waiting)
        self._callers = (
            settings.most_together
        )  # who asked at once: those of the last pass, and who waited when it ended
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Is there the thread that has the model?"""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many requests are in the line."""
        return self._line.qsize()

    def ask(self, ask: Ask) -> Future:
        """A request into the line; its future is an `Answered` or an error. Raises `TooMany`."""
        return self._put(ask)

    def do(self, work: Callable[[Served], Any]) -> Future:
        """Something else with the run, in its turn. Raises `TooMany`."""
        return self._put(work)

    def swap(self, served: Served) -> Future:
        """Answer from another run from the next pass on; what is asked meanwhile is answered by the one before."""

        def change(_: Served) -> None:
            served.catch_up()
            self.served = served

        return self._put(change)

    def close(self) -> None:
        """Answer what waits, and end."""
        self._line.put(None)
        self._thread.join()

    # -- inside ----------------------------------------------------------------------------------------------

    def _put(self, work: Any) -> Future:
        done: Future = Future()
        try:
            self._line.put_nowait((work, done))
        except queue.Full:
            raise TooMany("too many requests wait; come again") from None
        return done

    def _run(self) -> None:
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)  # of the thread that asks for it
        while True:
            try:
                first = self._line.get(timeout=0.0 if self.served.to_learn else IDLE_S)
            except queue.Empty:
                self._idle()
                continue
            if first is None:
                return
            some, ended = self._gather(first)
            asks = [(work, done) for work, done in some if isinstance(work, Ask) and not done.cancelled()]
            try:
                self._catch_up()
                failed = None
            except Exception as error:  # the state cannot be read now: nobody is answered by half of it
                failed = error
            if asks:
                self._answer(asks, failed)
            for work, done in some:
                if not isinstance(work, Ask) and done.set_running_or_notify_cancel():
                    _finish(done, work, self.served, failed)
            self._callers = len(some) + self._line.qsize()
            if ended:
                return

    def _catch_up(self) -> None:
        self.served.catch_up()
        if self.served.outdated is not None:
            self._again(self.served.outdated)

    def _idle(self) -> None:
        """Nobody waits: hear what has changed, and let rows of P_u learn."""
        try:
            self._catch_up()
            learn(self.served)
        except StateError:
            pass  # whoever asks next is told so
        except Exception as error:  # a training failed: lists go on
            LOG.error("not learned from events: %s", type(error).__name__, exc_info=error)

    def _again(self, name: str) -> None:
        try:
            served = self._load(name or self.served.path.name)
            served.succeed(self.served)
            self.served = served
        except Exception as error:
            if not name:  # somebody is gone: nothing is answered by what still knows them
                raise
            LOG.error("the run %s cannot be served (%s); the one before goes on", name, type(error).__name__)
            self.served.outdated = "" if self.served.gone else None
            if self.served.gone:
                self._again("")

    def _gather(self, first: tuple) -> tuple[list[tuple], bool]:
        """What waits, and what comes soon: whoever has just been answered may ask again, whoever asks alone waits for nobody."""
        some, until = [first], time.monotonic() + self._settings.longest_wait_s
        while len(some) < self._settings.most_together:
            left = until - time.monotonic() if len(some) < self._callers else 0.0
            try:
                more = self._line.get(timeout=max(left, 0.0))
            except queue.Empty:
                break
            if more is None:
                return some, True
            some.append(more)
        return some, False

    def _answer(self, asks: list[tuple[Ask, Future]], failed: Exception | None) -> None:
        started = time.monotonic()
        answers: list[Answered | Exception]
        try:
            answers = [failed] * len(asks) if failed else answer_all(self.served, [ask for ask, _ in asks])
        except Exception as error:
            answers = [error] * len(asks)
        self._seen(len(asks), time.monotonic() - started)
        for (_, done), answer in zip(asks, answers, strict=True):
            if not done.set_running_or_notify_cancel():
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)


def _finish(done: Future, work: Callable[[Served], Any], served: Served, failed: Exception | None) -> None:
    try:
        if failed is not None:
            raise failed
        done.set_result(work(served))
    except Exception as error:
        done.set_exception(error)
