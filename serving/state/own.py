"""What a run's own state holds of one person, and how they leave it when they are deleted from the run."""

from __future__ import annotations

from typing import Any

from recsys.artifacts.manifest import sha256_of
from recsys.artifacts.rewrite import write_text_atomically
from recsys.artifacts.sums import SUMS, sums_after
from recsys.run import Run
from serving.state import place
from serving.state.batches import of_person
from serving.state.persons import held

FILE = f"{place.FOLDER}/{place.NAME}"


def held_of(run: Run, user_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of somebody, by table, each named as the run's artifacts are."""
    state = place.own_state(run.home)
    if state is None:
        return {}
    try:
        found = held(state, user_id)
    finally:
        state.close()
    return {f"{FILE}: {name}": rows for name, rows in found.items() if rows}


def facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """First and last time of a table's rows, where they have some."""
    times = [row["time"] for row in rows if "time" in row]
    return {"first": min(times), "last": max(times)} if times else {}


def forget(run: Run) -> None:
    """Forget whom the run's files have no longer (`place.LEAVING`); an exported run is whole afterwards by its own sums."""
    place.finish_leaving(run.home)
    sums = run.path / SUMS
    if sums.is_file() and f"  {FILE}\n" in (text := sums.read_text(encoding="utf-8")):
        place.at_rest(run.home)
        write_text_atomically(run.inside(SUMS), sums_after(text, {FILE: sha256_of(run.path / FILE)}))


def without_batches(run: Run, records: dict[str, dict], user_id: str) -> None:
    """Ids of feedback of theirs go, in place, from weights that say they were trained on it (Online-Full); the state forgets them itself."""
    state = place.own_state(run.home)
    if state is None:
        return
    with state.reading() as connection:
        gone = of_person(connection, user_id)
    state.close()
    for stage, record in records.items():
        if any(part.get("events") in gone for part in record.get("continued", ())):
            parts = [
                part | ({"events": None} if part["events"] in gone else {}) for part in record["continued"]
            ]
            records[stage] = record | {"continued": parts}
