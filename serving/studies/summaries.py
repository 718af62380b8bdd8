"""`prelude summarize`: a summary of each user, written by a language model, for PAG, Prompt Context and P2P.

    prelude summarize runs/mine --out summaries.parquet
    prelude run --run runs/mine --set 'personalize.methods=[{key: pag, summaries: summaries.parquet}]'

A summary is one for all of a user's instances, so it is written from the events that Stage 1 and the graph
may learn from, before any instance of Stage 2, validation or test; a held-out user's is written from what
precedes their first test event.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm.backbone.load import BackboneConfig
from llm.text_tasks.model import TextModel, load_text_model
from recsys.artifacts.rewrite import write_text_atomically
from recsys.data.dataset import Dataset
from recsys.data.splits import FIT, TEST
from recsys.progress import Progress
from recsys.run import Run

BATCH = 8  # users a call of the model
ASKED = "In one short sentence, describe the taste of someone who enjoyed these, latest first: {titles}."


def summarize(run: Path, out: Path, model: str = "smollm2", titles: int = 12, tokens: int = 40) -> str:
    """Write `out` (Parquet: user_id, timestamp, summary); returns what to print.

    A killed call goes on where it was.

    The model is told a user's last `titles` titles and writes at most `tokens` tokens, greedily. Raises
    `ValueError` for a place that cannot be written.
    """
    if titles < 1 or tokens < 1:
        raise ValueError(f"--titles {titles} --tokens {tokens}: both must be at least 1")
    if not out.parent.is_dir():
        raise ValueError(f"{out} cannot be written: there is no folder {out.parent}")
    data = Dataset.load(Run.open(run))
    known = known_titles(data, titles)
    told = {user: text for user, (text, _) in known.items()}
    done_path = out.with_name(f".{out.name}.partial.json")
    settings = {"run": str(run), "model": model, "titles": titles, "tokens": tokens}
    done: dict[str, str] = {}
    if done_path.exists():
        kept = json.loads(done_path.read_text())
        done = kept["summaries"] if kept["settings"] == settings else {}
    users = [user for user in told if user not in done]
    started, written = time.monotonic(), load_text_model(BackboneConfig(name=model)) if users else None
    bar = Progress(total=len(told), initial=len(done), desc="summaries", unit="user")
    for start in range(0, len(users), BATCH):
        some = users[start : start + BATCH]
        assert written is not None
        done |= dict(zip(some, write(written, [told[user] for user in some], tokens), strict=True))
        write_text_atomically(done_path, json.dumps({"settings": settings, "summaries": done}))
        bar.update(len(some))
    bar.close()
    temporary = out.with_name(f".{out.name}.tmp")
    moments = [known[user][1] for user in done]
    table = pa.table({"user_id": list(done), "timestamp": moments, "summary": list(done.values())})
    pq.write_table(table, temporary)
    temporary.replace(out)
    done_path.unlink(missing_ok=True)
    seconds = (time.monotonic() - started) / max(len(users), 1)
    return f"summarize: {len(done)} users in {out} ({seconds:.2f} s a user)"


def known_titles(data: Dataset, count: int) -> dict[str, tuple[str, int]]:
    """Raw user id -> their last titles, latest first, from what may be known of them,
    and the moment after the last of these.

    Users without any are left out.
    """
    told: dict[str, tuple[str, int]] = {}
    for user, user_id in enumerate(data.user_ids.tolist()):
        events = np.arange(data.offsets[user], data.offsets[user + 1])
        roles = data.roles[events]
        if (roles == FIT).any():
            events = events[roles == FIT]
        elif (roles == TEST).any():  # held out as a person: all before the first test event
            events = events[: int(np.flatnonzero(roles == TEST)[0])]
        if len(events) and user_id:
            text = "; ".join(data.catalogue.titles[item] for item in data.items[events][::-1][:count])
            told[user_id] = text, int(data.times[events[-1]]) + 1
    return told


def write(model: TextModel, titles: list[str], longest: int) -> list[str]:
    """One summary for each user's titles, greedily, on one line."""
    prompts = [model.prompt(ASKED.format(titles=text)) for text in titles]
    return [" ".join(text.split()) for text in model.generate(prompts, longest=longest)]
