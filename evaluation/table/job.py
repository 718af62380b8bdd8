"""The evaluation job: every row on the same instances, resumable, and one `Results` at the end.

The unit is an instance: a request (user, moment, the history strictly before it) and its target item. Rows
answer through the Recommender protocol alone, so what is measured is what is served (with `whole_catalogue`:
its distribution, where serving walks the trie).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from evaluation.table.comparisons import Measured
from evaluation.table.config import EvaluateConfig
from evaluation.table.instances import Question, check_instances, sample_instances
from evaluation.table.measuring import Checkpoint, Columns, Plan, digest, measure
from evaluation.table.results import Results, assemble
from evaluation.table.rows import COSTS, Row
from recsys.progress import Progress
from recsys.recommender import ProbabilisticRecommender, Request

Chunk = tuple[int, int, int]  # number of the row, of its replica, and of the first instance
# measures chunks in other processes, each with `chunk_measurer`; yields them as they are finished
Elsewhere = Callable[[Sequence[Chunk]], Iterator[Chunk]]
# is given names of rows, what was measured of each, and the instances (`evaluation.table.kept`)
Keep = Callable[[Sequence[str], Sequence[Measured], Question], None]


def evaluate_rows(
    config: EvaluateConfig,
    rows: Sequence[Row],
    question: Question,
    checkpoint: Path,
    protocol: dict,
    primary: tuple[str, str] = ("E2P", "Static Prefix"),
    baseline: str = "No Context",
    quiet: bool = False,
    groups: Mapping[str, Sequence[str]] | None = None,
    elsewhere: Elsewhere | None = None,
    keep: Keep | None = None,
) -> Results:
    """Measure `rows` on the R test instances of `question`.

    Finished chunks are kept in the folder `checkpoint`; a killed evaluation continues there and ends in the
    same results. (The recommenders' weights are not seen here: the stage's fingerprint covers those.)
    `protocol` is copied into the results; an entry `users_in_data` gives how many users the split began
    with, so that those without a held-out item are counted. `groups` gives each instance a label [R] per
    grouping, as in {"users": ["warm", "ood", …]}: the rows are also reported within each group. `elsewhere`
    has other processes fill the checkpoint; the results are the same. `keep` is given what was measured of
    each row and the instances it was measured on. Raises ValueError for instances that no method could
    answer rightly.
    """
    check_instances(question)
    _check_rows(rows, baseline)
    _check_groups(groups or {}, len(question))
    chosen = sample_instances(question.users, config.max_instances, config.seed)
    asked = question.only(chosen)
    store = Checkpoint(checkpoint, _inputs(config, rows, asked))
    if elsewhere is not None:
        _measure_elsewhere(elsewhere, config, rows, len(asked), store, quiet)
    measured = _measure_all(config, rows, asked, store, quiet=quiet or elsewhere is not None)
    if keep is not None:
        keep([row.name for row in rows], measured, asked)
    facts = protocol | _facts(config, question.users, chosen, protocol, primary, baseline)
    labels = {name: [some[at] for at in chosen] for name, some in (groups or {}).items()}
    return assemble(config, rows, measured, asked.users, facts, primary, baseline, labels)


def chunk_measurer(
    config: EvaluateConfig, rows: Sequence[Row], question: Question, checkpoint: Path
) -> Callable[[Chunk], None]:
    """What a process beside that of `evaluate_rows` does, given the same arguments:
    measures a chunk into the checkpoint.

    Raises `ValueError` if the checkpoint is of other rows or instances.
    """
    asked = question.only(sample_instances(question.users, config.max_instances, config.seed))
    store = Checkpoint.join(checkpoint, _inputs(config, rows, asked))

    @lru_cache(maxsize=1)
    def requests_from(start: int) -> list[Request]:
        return list(asked.requests[start : start + config.batch_size])

    def do(chunk: Chunk) -> None:
        number, index, start = chunk
        part = slice(start, min(start + config.batch_size, len(asked)))
        row, plan = rows[number], _plan(config, rows[number], index)
        columns = measure(row.replicas[index], requests_from(start), asked.targets[part], plan)
        store.save(number, index, start, columns)

    return do


def _check_rows(rows: Sequence[Row], baseline: str) -> None:
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"row names must differ, got {names}")
    if baseline not in names:
        raise ValueError(
            f"there is no row '{baseline}' to compare with; the rows are {', '.join(names) or 'none'}"
        )
    for row in rows:
        kinds = {isinstance(replica, ProbabilisticRecommender) for replica in row.replicas}
        if len(kinds) != 1:
            raise ValueError(f"row '{row.name}' needs replicas, all of one kind (with or without draws)")
        if unknown := sorted(row.costs.keys() - set(COSTS)):
            raise ValueError(f"row '{row.name}' has a cost '{unknown[0]}'; costs are {', '.join(COSTS)}")


def _check_groups(groups: Mapping[str, Sequence[str]], count: int) -> None:
    for grouping, labels in groups.items():
        if len(labels) != count:
            raise ValueError(
                f"grouping '{grouping}' needs one label per instance: {len(labels)} labels, {count} instances"
            )


def _measure_elsewhere(
    elsewhere: Elsewhere,
    config: EvaluateConfig,
    rows: Sequence[Row],
    count: int,
    store: Checkpoint,
    quiet: bool,
) -> None:
    sizes = {
        (number, index, part.start): part.stop - part.start
        for part in _parts(
            count, config.batch_size
        )  # rows of one chunk in turn, as they share what they read
        for number, row in enumerate(rows)
        for index in range(len(row.replicas))
    }
    left = [chunk for chunk, size in sizes.items() if store.load(*chunk, size) is None]
    total, done = sum(sizes.values()), sum(sizes.values()) - sum(sizes[chunk] for chunk in left)
    with Progress(total=total, initial=done, unit="request", disable=quiet, mininterval=1.0) as bar:
        for chunk in elsewhere(left):
            bar.update(sizes[chunk])


def _measure_all(
    config: EvaluateConfig,
    rows: Sequence[Row],
    asked: Question,
    store: Checkpoint,
    quiet: bool,
) -> list[Measured]:
    total = sum(len(row.replicas) for row in rows) * len(asked)
    bar = Progress(total=total, unit="request", disable=quiet, mininterval=1.0, smoothing=0.05)
    chunks: list[list[list[Columns]]] = [[[] for _ in row.replicas] for row in rows]
    # a chunk's requests are made once and every row is asked about them, so that rows may share what they read of them
    for part in _parts(len(asked), config.batch_size):
        some: list[Request] = []
        for number, row in enumerate(rows):
            bar.set_description(row.name, refresh=False)
            for index, replica in enumerate(row.replicas):
                chunk = store.load(number, index, part.start, part.stop - part.start)
                if chunk is None:
                    some = some or list(asked.requests[part])
                    chunk = measure(replica, some, asked.targets[part], _plan(config, row, index))
                    store.save(number, index, part.start, chunk)
                chunks[number][index].append(chunk)
                bar.update(part.stop - part.start)
    bar.close()
    return [_stack([_joined(replica) for replica in row]) for row in chunks]


def _joined(chunks: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _plan(config: EvaluateConfig, row: Row, index: int) -> Plan:
    lists = config.beam_columns and (config.beam_replicas == 0 or index < config.beam_replicas)
    return Plan(
        row=row.name,
        replica=index,
        n=config.n_candidates,
        cuts=config.top_k,
        temperature=config.temperature,
        chosen_temperature=row.temperature,
        matched_temperature=row.matched,
        draw_seeds=config.draw_seeds,
        lists=lists,
    )


def _parts(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _stack(replicas: list[Columns]) -> Measured:
    """Figures [R, K], where K counts the replicas that have the figure (the list columns may be on the first
    only).
    """
    return {
        name: np.stack([columns[name] for columns in replicas if name in columns], axis=1)
        for name in replicas[0]
    }


def _inputs(config: EvaluateConfig, rows: Sequence[Row], asked: Question) -> str:
    def parts() -> Iterator[str | np.ndarray]:
        yield config.model_dump_json()
        yield from (f"{row.name}|{len(row.replicas)}|{row.temperature}|{row.matched}" for row in rows)
        for one in asked.requests:
            allowed = "" if one.allow is None else len(one.allow)
            yield f"{one.request_id}|{one.user}|{one.time}|{one.query}|{len(one.history)}|{len(one.exclude)}|{allowed}"
            yield from (one.history, one.history_times, one.exclude)
            yield from () if one.allow is None else (one.allow,)
        yield asked.targets

    return digest(parts())


def _facts(
    config: EvaluateConfig,
    users: np.ndarray,
    chosen: np.ndarray,
    protocol: dict,
    primary: tuple[str, str],
    baseline: str,
) -> dict:
    """What the job itself can say about how the figures were made."""
    with_target, measured = len(np.unique(users)), len(np.unique(users[chosen]))
    in_data = protocol.get("users_in_data")
    return {
        "n_instances": len(chosen),
        "n_instances_available": len(users),
        "is_sample": len(chosen) < len(users),
        "sample_seed": config.seed,
        "n_users": measured,
        "n_users_with_target": with_target,
        "users_without_held_out_item": None if in_data is None else int(in_data) - with_target,
        "n_candidates": config.n_candidates,
        "top_k": list(config.top_k),
        "temperature": config.temperature,
        "draw_seeds": list(config.draw_seeds),
        "alpha": config.alpha,
        "power": config.power,
        "bootstrap_samples": config.bootstrap_samples,
        "list_columns_on": _list_columns(config),
        "baseline": baseline,
        "primary_comparison": list(primary),
        "unit": "users: a user's instances and replicas are averaged first; all intervals are over users",
    }


def _list_columns(config: EvaluateConfig) -> str:
    if not config.beam_columns:
        return "deterministic rows only"
    return (
        f"the first {config.beam_replicas} replica(s) of each row" if config.beam_replicas else "all replicas"
    )
