"""What a service counts, for Prometheus. No label is a person's, an item's or a text."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)


class Metrics:
    """One set of figures a process; `page` adds those of all workers up, where there are several."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.latency = Histogram(
            "prelude_request_seconds", "From a request's body to its answer.", ["route", "method"],
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.answers = Counter(
            "prelude_responses_total", "Answers by status.", ["route", "status"], registry=registry
        )
        self.batches = Histogram(
            "prelude_batch_size",
            "Requests of a packed pass.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.passes = Histogram("prelude_pass_seconds", "A packed pass.", registry=registry, buckets=SECONDS)
        self.lists = Counter("prelude_lists_total", "Lists, personal and cold.", ["path"], registry=registry)
        self.illegal = Counter(
            "prelude_illegal_items_total",
            "Items shown that were not available: must stay 0.",
            registry=registry,
        )
        self.events = Counter("prelude_events_total", "Events stored.", ["type"], registry=registry)
        # how many requests wait, and events that are stored and not yet in the histories of this process
        self.waiting = Gauge(
            "prelude_waiting", "Requests in the line.", registry=registry, multiprocess_mode="livesum"
        )
        self.behind = Gauge("prelude_events_behind", "Events stored and not yet read.", registry=registry,
                            multiprocess_mode="livemax")  # fmt: skip

    def saw(self, size: int, seconds: float) -> None:
        """A packed pass."""
        self.batches.observe(size)
        self.passes.observe(seconds)

    def page(self) -> bytes:
        """The figures in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)
        return generate_latest(together)

    def summary(self) -> list[tuple[str, str]]:
        """What the page says of this process, in words."""
        samples = [sample for family in self.registry.collect() for sample in family.samples]

        def total(name: str, **labels: str) -> float:
            found = (one for one in samples if one.name == name and labels.items() <= one.labels.items())
            return float(sum(one.value for one in found))

        calls, lists = (
            total("prelude_request_seconds_count", route="/v1/recommend"),
            total("prelude_lists_total"),
        )
        passes, asked = total("prelude_batch_size_count"), total("prelude_batch_size_sum")
        return [
            ("lists", f"{lists:,.0f}"),
            (
                "of them cold",
                f"{100 * total('prelude_lists_total', path='cold') / lists:.1f} %" if lists else "none yet",
            ),
            (
                "mean time of a call",
                f"{1000 * total('prelude_request_seconds_sum', route='/v1/recommend') / calls:.1f} ms"
                if calls
                else "none yet",
            ),
            ("requests of a pass, on average", f"{asked / passes:.2f}" if passes else "none yet"),
            ("events stored", f"{total('prelude_events_total'):,.0f}"),
            ("items shown that were not available", f"{total('prelude_illegal_items_total'):,.0f}"),
        ]
