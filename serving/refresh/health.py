"""What stands in a run's versions, and whether it pays to code all items anew and train: `prelude status` and `prelude inspect`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recsys.artifacts import versions
from recsys.run import Run

# from here on coding anew pays: a rule of thumb, in whose favour speaks that such items share nodes with what they are not like
MOST_SHARE = 0.2  # newcomers among all items
MOST_BESIDE = 0.2  # of the newcomers: they found no room below their node
LEAST_ROOM = 0.05  # free semantic IDs
LEAST = 50  # newcomers; fewer say nothing


def versions_told(run: Run) -> Iterator[str]:
    """Which version serves, what it is of, and which else there are. Nothing for a run that was never refreshed."""
    there = versions.numbers(run.home)
    if not there:
        return
    now = versions.pointer(run.home)
    for number in there:
        facts = versions.facts(versions.folder_of(run.home, number))
        counts = ", ".join(f"{n:,} {name}" for name, n in facts["changes"].items() if n) or "the same items"
        serves = "serves now" if number == now.serves else f"prelude refresh RUN --back-to {number}"
        yield f"version {number} (on {facts['parent'] or 'the run as it was trained'}): {counts}; {facts['items']:,} items served; {serves}"
    if now.serves == 0:
        yield "the run as it was trained serves now"


def ids_told(run: Run) -> Iterator[str]:
    """The semantic IDs of what came since the training, and whether coding anew pays. Nothing for a run as it was trained."""
    now = versions.pointer(run.home)
    if now.serves == 0:
        return
    facts = versions.facts(versions.folder_of(run.home, now.serves))
    table = run.read_json("tokenize", "semantic_ids.json")
    coded, beside = facts["since_training"]["coded"], facts["since_training"]["beside_their_node"]
    ids = math.prod(table["sizes"])
    served, trained = facts["table_items"], table["n_items"]
    share, room = (served - trained) / served, 1 - served / ids
    yield (
        f"since the training: {served - trained:,} new items ({share:.1%} of all), {beside:,} of {coded:,} coded beside their node, which "
        f"was full; {room:.1%} of the semantic IDs are free"
    )
    why = []
    if share > MOST_SHARE:
        why.append(f"more than {MOST_SHARE:.0%} of the items came since")
    if coded >= LEAST and beside / coded > MOST_BESIDE:
        why.append(f"more than {MOST_BESIDE:.0%} of the new items found no room below their node")
    if room < LEAST_ROOM:
        why.append(f"less than {LEAST_ROOM:.0%} of the semantic IDs are free")
    if why:
        yield f"coding anew pays: {'; '.join(why)}. prelude tokenize and what follows, on a run of today's items"
    else:
        yield "coding anew does not pay yet"
