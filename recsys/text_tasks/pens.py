"""PENS (Ao et al. 2021): personalized news headlines, from the published TSV files.

`news.tsv` has `News ID, Category, Topic, Headline, News body`; `train.tsv` and `valid.tsv` have `UserID,
ClicknewsID` (separated by spaces), `exposure_time` (of each click, separated by #TAB#), `pos`, `start`;
`personalized_test.tsv` has `userid, clicknewsID, posnewID` (separated by commas) and `rewrite_titles`
(separated by ;;), the headlines that the users wrote themselves.

A training instance is a news article that the user clicked, with the editor's headline, as in E2P's script
(its first three of an impression); a click of the history that is not before the impression's start is left
out. In the test the clicks have an order and no time.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from pathlib import Path

from recsys.door.sources import read_table
from recsys.door.tables import DataError, Table, require
from recsys.door.values import text_array
from recsys.text_tasks.instances import Instance, Record, TextTask, placed

CLICKS_AN_IMPRESSION = 3  # E2P, appendix F
CLOCK = "%m/%d/%Y %I:%M:%S %p"
News = dict[str, tuple[str, str]]  # id -> headline, body


def load_pens(folder: Path, records: int, body_chars: int = 2000) -> TextTask:
    """PENS from its folder; histories keep the last `records` clicks,
    articles their first `body_chars` characters.
    """
    news = _news(folder / "news.tsv", body_chars)
    train = _impressions(folder / "train.tsv", news, records)
    validation = _impressions(folder / "valid.tsv", news, records)
    test = _rewritten(folder / "personalized_test.tsv", news, records)
    return TextTask("pens", "text", tuple(train), tuple(validation), tuple(test), longest_answer=32)


def _news(path: Path, body_chars: int) -> News:
    table = read_table(path, "\t", quoting=False)
    ids, headlines, bodies = (
        text_array(table, require(table, name, name)).to_pylist()
        for name in ("News ID", "Headline", "News body")
    )
    for number, (news_id, headline) in enumerate(zip(ids, headlines, strict=True)):
        if not news_id or not headline:
            raise table.error(number, "a news article needs a News ID and a Headline; delete the row")
    return {
        news_id: (headline, (body or "")[:body_chars])
        for news_id, headline, body in zip(ids, headlines, bodies, strict=True)
    }


def _impressions(path: Path, news: News, records: int) -> list[Instance]:
    table = read_table(path, "\t", quoting=False)
    names = ("UserID", "ClicknewsID", "exposure_time", "pos", "start")
    columns = {name: text_array(table, require(table, name, name)).to_pylist() for name in names}
    found = []
    for number in range(table.n_rows):
        user, clicks, shown, wanted, start = (columns[name][number] for name in names)
        if not user or not wanted or not start:
            raise table.error(number, "an impression needs UserID, pos and start; mend or delete the row")
        at = _clock(start, table, number)
        clicked, times = (clicks or "").split(), (shown or "").split("#TAB#") if shown else []
        if len(clicked) != len(times):
            raise table.error(
                number,
                f"{len(clicked)} clicks, but {len(times)} exposure times; each click needs its own",
            )
        history = sorted(
            (
                Record(_headline(news, news_id, table, number)[0], when)
                for news_id, when in zip(
                    clicked, (_clock(text, table, number) for text in times), strict=True
                )
                if when < at
            ),
            key=lambda record: record.time,
        )
        for news_id in wanted.split()[:CLICKS_AN_IMPRESSION]:
            headline, body = _headline(news, news_id, table, number)
            found.append(
                _ask(f"{path.stem}-{number}-{news_id}", user, body, headline, at, history[-records:])
            )
    return found


def _rewritten(path: Path, news: News, records: int) -> list[Instance]:
    table = read_table(path, "\t", quoting=False)
    names = ("userid", "clicknewsID", "posnewID", "rewrite_titles")
    columns = {name: text_array(table, require(table, name, name)).to_pylist() for name in names}
    found = []
    for number in range(table.n_rows):
        user, clicks, wanted, titles = (columns[name][number] for name in names)
        ids, written = (wanted or "").split(","), (titles or "").split(";;")
        if not user or len(ids) != len(written):
            raise table.error(
                number, f"{len(ids)} articles, but {len(written)} rewritten titles; each article needs one"
            )
        history = [
            Record(_headline(news, news_id.strip(), table, number)[0], order)
            for order, news_id in enumerate((clicks or "").split(","))
            if news_id.strip()
        ]
        for news_id, title in zip(ids, written, strict=True):
            _, body = _headline(news, news_id.strip(), table, number)
            if title.strip():
                name = f"test-{number}-{news_id.strip()}"
                with placed(table.place(number)):
                    found.append(_ask(name, user, body, title.strip(), None, history[-records:]))
    return found


def _ask(
    name: str, user: str, body: str, headline: str, at: int | None, history: Sequence[Record]
) -> Instance:
    asked = f"Write the headline of this article for this reader, and nothing else.\nArticle: {body}"
    return Instance(name, user, asked, headline, at, history=tuple(history))


def _headline(news: News, news_id: str, table: Table, number: int) -> tuple[str, str]:
    if news_id not in news:
        raise table.error(number, f"news {news_id} is not in news.tsv; the two files must be of one release")
    return news[news_id]


def _clock(text: str, table: Table, number: int) -> int:
    try:
        return calendar.timegm(time.strptime(text.strip(), CLOCK))
    except ValueError:
        raise DataError(
            f"{table.place(number)}: time {text!r} is not month/day/year hour:minute:second AM or PM"
        ) from None
