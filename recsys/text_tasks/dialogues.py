"""Dialogues and essays of people with a profile: Persona-Chat, Personal Reddit, Empathetic Conversation.

- Persona-Chat (Zhang et al. 2018): the common JSON (`personality`, `utterances` with `history` and
  `candidates`, the last of which is the reply) or ParlAI's text (`1 your persona: …`, then
  `n said<TAB>reply`).
- Synthetic-Persona-Chat (Jandaghi et al. 2023): CSV with `user 1 personas`, `user 2 personas`,
  `Best Generated Conversation`.
- Personal Reddit (Staab et al. 2023): JSON lines with `personality` (an object), `question_asked`,
  `response`.
- Empathetic Conversation (Omitaomu et al. 2022) as WASSA 2023 gives it: `articles_adobe_AMT.csv`
  (`article_id`, `text`) and `WASSA23_essay_level_*.tsv` (`article_id`, `essay`, `speaker_id`, demographics,
  personality).

A user is a persona here, and splits are by persona: nobody stands in two. E2P's script shuffles rows instead,
its text says by persona, and we follow the text. A dialogue whose two personas fall into different splits is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from recsys.door.sources import read_table
from recsys.door.tables import DataError, require
from recsys.door.text_files import read_lines
from recsys.door.values import text_array
from recsys.seeds import rng
from recsys.text_tasks.instances import Instance, TextTask, field, placed, read_json

SHARES = (0.8, 0.1, 0.1)  # of the personas: train, validation, test (E2P, appendix F)
REPLY = "Write the next reply in this conversation.\n{turns}"
TURN = re.compile(r"[*\s]*User ([12]):[*\s]*(.*)")
LINE = re.compile(r"(\d+) (.*)", re.DOTALL)
PROFILE_FIELDS = (
    "gender", "age", "education", "race", "income", "personality_conscientiousness", "personality_openness",
    "personality_extraversion", "personality_agreeableness", "personality_stability",
)  # fmt: skip

Turn = tuple[int, str]  # who (0: the other, 1: the person who answers), what


def person_id(persona: str) -> str:
    """A short name for whoever has this persona; spaces and case do not matter."""
    return blake2b(" ".join(persona.lower().split()).encode(), digest_size=6).hexdigest()


def assign_personas(
    pairs: Iterable[tuple[str, str]], seed: int, shares: Sequence[float] = SHARES
) -> dict[str, int]:
    """Role (0 train, 1 validation, 2 test) of each person who appears in `pairs` of speakers ("": nobody).

    People who talk to each other, directly or through others, stay together, so that no dialogue is lost
    between splits; where that would be more than a tenth of all people, each of them is placed alone.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    talks = sorted({(first, second or first) for first, second in pairs})
    names = sorted({name for talk in talks for name in talk})
    place = {name: number for number, name in enumerate(names)}
    ends = np.array([[place[first], place[second]] for first, second in talks])
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    group = connected_components(links, directed=False)[1]
    large = np.bincount(group)[group] > max(2, 0.1 * len(names))
    group = np.where(large, group.max() + 1 + np.arange(len(names)), group)
    units = np.unique(group, return_inverse=True)[1]
    order = rng(seed, "personas").permutation(units.max() + 1)
    # share of people up to each unit, itself included
    before = np.cumsum(np.bincount(units)[order]) / len(names)
    role_of = np.zeros(len(order), int)
    role_of[order] = np.searchsorted(np.cumsum(shares)[:2], before - 1e-9, side="right")
    return {name: int(role_of[unit]) for name, unit in zip(names, units, strict=True)}


def reply_instance(
    identifier: str, persona: str, turns: Sequence[Turn], reply: str, context_turns: int
) -> Instance:
    """The reply to the last `context_turns` turns.
    The persona is not in the input: methods differ in how they see it.
    """
    said = "\n".join(f"{('Other', 'You')[who]}: {text}" for who, text in turns[-context_turns:])
    return Instance(identifier, person_id(persona), REPLY.format(turns=said), reply.strip(), persona=persona)


def by_persona(
    name: str,
    instances: Sequence[tuple[Instance, str]],
    seed: int,
    longest_answer: int = 48,
    shares: Sequence[float] = SHARES,
) -> TextTask:
    """The task of instances given with the other speaker's name ("" where there is none),
    split by persona.
    """
    roles = assign_personas(((item.user, other) for item, other in instances), seed, shares)
    parts: list[list[Instance]] = [[], [], []]
    left_out = 0
    for instance, other in instances:
        role = roles[instance.user]
        if other and roles[other] != role:
            left_out += 1
        else:
            parts[role].append(instance)
    notes = (
        (f"{left_out} replies of dialogues whose two personas are in different splits are left out.",)
        if left_out
        else ()
    )
    train, validation, test = (tuple(part) for part in parts)
    return TextTask(name, "text", train, validation, test, longest_answer, notes)


# -- Synthetic-Persona-Chat ----------------------------------------------------------------------------------


def load_synthetic_persona_chat(path: Path, seed: int, context_turns: int) -> TextTask:
    """Synthetic-Persona-Chat: one CSV, or a folder of them (the published splits share no persona; ours are
    made anew).
    """
    paths = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path} holds no .csv; give the file or the folder of Synthetic-Persona-Chat")
    found: list[tuple[Instance, str]] = []
    without = 0
    for file in paths:
        table = read_table(file)
        names = [
            require(table, name, name)
            for name in ("user 1 personas", "user 2 personas", "Best Generated Conversation")
        ]
        for number, (first, second, talk) in enumerate(
            zip(*(table.raw(name) for name in names), strict=True)
        ):
            name = f"{file.stem}-{number}"
            if not first.strip() or not second.strip():
                raise DataError(f"{table.place(number)}: a speaker has no persona; fill it or delete the row")
            turns = _turns(talk)
            without += len(turns) < 2
            found += _replies(name, (first, second), turns, context_turns)
    if not found:
        raise DataError(
            f"{path}: no conversation has turns that start with 'User 1:' and 'User 2:'; mend the file"
        )
    task = by_persona("synthetic-persona-chat", found, seed)
    notes = (*task.notes, f"{without} conversations without marked turns are left out.")
    return replace(task, notes=notes if without else task.notes)


def _turns(talk: str) -> list[Turn]:
    """(speaker, text) of each turn; a line without a speaker continues the turn before it.

    A few of the published conversations mark no speakers, or are empty: they have no turns.
    """
    turns: list[Turn] = []
    for line in talk.splitlines():
        match = TURN.match(line.strip())
        if match:
            turns.append((int(match[1]) - 1, match[2].strip()))
        elif turns and line.strip():
            turns[-1] = (turns[-1][0], f"{turns[-1][1]} {line.strip()}")
    return turns


def _replies(name: str, personas: Sequence[str], turns: Sequence[Turn], context_turns: int):
    """Every reply that has a turn of the other speaker right before it, with the other speaker's name."""
    for place in range(1, len(turns)):
        who, text = turns[place]
        if turns[place - 1][0] == who or not text:
            continue
        seen = [(int(speaker == who), said) for speaker, said in turns[:place]]
        instance = reply_instance(f"{name}-{place}", personas[who], seen, text, context_turns)
        yield instance, person_id(personas[1 - who])


# -- Persona-Chat --------------------------------------------------------------------------------------------


def load_persona_chat(path: Path, seed: int, context_turns: int) -> TextTask:
    """Persona-Chat as the common JSON, or as ParlAI's text; the split is by persona whatever the file says.

    The partner's persona is in neither form (ParlAI's has it in the `both` variant, where it is read), so
    only the answering person's persona decides the split there.
    """
    dialogues = _json_dialogues(path) if path.suffix == ".json" else _parlai_dialogues(path)
    found = []
    for number, (persona, other, replies, where) in enumerate(dialogues):
        for place, (turns, reply) in enumerate(replies):
            with placed(where):
                name = f"{path.stem}-{number}-{place}"
                instance = reply_instance(name, persona, turns, reply, context_turns)
            found.append((instance, person_id(other) if other else ""))
    return by_persona("persona-chat", found, seed)


def _json_dialogues(path: Path):
    data = read_json(path)
    splits = data if isinstance(data, dict) else {"data": data}
    for split, entries in splits.items():
        if not isinstance(entries, list):
            raise DataError(
                f"{path}: '{split}' is not a list of dialogues; download personachat_self_original.json"
            )
        for number, entry in enumerate(entries, 1):
            where = f"{path} {split} dialogue {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("personality"), list):
                raise DataError(f"{where}: no list 'personality'; download the file again")
            persona = " ".join(str(line) for line in entry["personality"])
            if not persona.strip() or not isinstance(entry.get("utterances"), list):
                raise DataError(
                    f"{where}: an empty 'personality' or no list 'utterances'; delete the dialogue"
                )
            yield persona, "", [_json_reply(turn, where) for turn in entry["utterances"]], where


def _json_reply(turn: Any, where: str) -> tuple[list[Turn], str]:
    """The other speaks first and last, so counted from the end every second turn is the other's."""
    if not isinstance(turn, dict) or not turn.get("history") or not turn.get("candidates"):
        raise DataError(f"{where}: an utterance needs 'history' and 'candidates'; download the file again")
    history = [str(text) for text in turn["history"]]
    return [(1 - (len(history) - place) % 2, text) for place, text in enumerate(history)], str(
        turn["candidates"][-1]
    )


def _parlai_dialogues(path: Path):
    own: list[str] = []
    others: list[str] = []
    turns: list[Turn] = []
    replies: list[tuple[list[Turn], str]] = []
    where = f"{path}:1"
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        match = LINE.match(line)
        if not match:
            raise DataError(f"{path}:{number}: a line starts with its number in the dialogue; mend the line")
        if match[1] == "1" and replies:
            yield " ".join(own), " ".join(others), replies, where
            own, others, turns, replies, where = [], [], [], [], f"{path}:{number}"
        text = match[2]
        if text.startswith("your persona:"):
            own.append(text.removeprefix("your persona:").strip())
        elif text.startswith("partner's persona:"):
            others.append(text.removeprefix("partner's persona:").strip())
        else:
            said, tab, rest = text.partition("\t")
            reply = rest.split("\t")[0].strip()
            if not tab or not reply or not own:
                raise DataError(
                    f"{path}:{number}: expected persona lines and then 'said<TAB>reply'; mend the line"
                )
            turns.append((0, said.strip()))
            replies.append((list(turns), reply))
            turns.append((1, reply))
    if replies:
        yield " ".join(own), " ".join(others), replies, where


# -- profiles without a history (P2P's open-ended tasks) -----------------------------------------------------


def load_personal_reddit(path: Path, seed: int) -> TextTask:
    """Personal Reddit: the profile is the object `personality`;
    a person answers `question_asked` with `response`.
    """
    table = read_table(path)
    found = []
    columns = {name: table.raw(require(table, name, name)) for name in ("personality", "question_asked")}
    answers = table.raw(require(table, "response", "response"))
    for number in range(table.n_rows):
        where, profile = table.place(number), columns["personality"][number]
        if not isinstance(profile, dict) or not profile:
            raise DataError(f"{where}: 'personality' is not an object of attributes; download the file again")
        persona = ". ".join(f"{name.replace('_', ' ')}: {value}" for name, value in profile.items())
        row = {"question_asked": columns["question_asked"][number], "response": answers[number]}
        asked, said = field(row, "question_asked", where), field(row, "response", where)
        text = f"Answer this Reddit post as this person would.\nPost: {asked}"
        found.append((Instance(f"{path.stem}-{number}", person_id(persona), text, said, persona=persona), ""))
    return by_persona("personal-reddit", found, seed, longest_answer=200)


def load_empathetic(folder: Path, seed: int) -> TextTask:
    """Empathetic Conversation: the essay of a person with this profile on a news article;
    the user is `speaker_id`.
    """
    articles = read_table(folder / "articles_adobe_AMT.csv")
    numbers = text_array(articles, require(articles, "article_id", "article_id")).to_pylist()
    texts = dict(
        zip(numbers, text_array(articles, require(articles, "text", "text")).to_pylist(), strict=True)
    )
    paths = sorted(folder.glob("*essay_level*.tsv"))
    if not paths:
        raise DataError(f"{folder} has no WASSA23_essay_level_*.tsv; unpack the essays there")
    found = []
    for path in paths:
        table = read_table(path)
        columns = {
            name: text_array(table, require(table, name, name)).to_pylist()
            for name in ("article_id", "essay", "speaker_id")
        }
        known = {
            name: text_array(table, name).to_pylist() for name in PROFILE_FIELDS if name in table.columns
        }
        for number in range(table.n_rows):
            where = table.place(number)
            article, essay, speaker = (
                columns[name][number] for name in ("article_id", "essay", "speaker_id")
            )
            if not texts.get(article):
                raise DataError(f"{where}: article_id {article} is not in articles_adobe_AMT.csv; add it")
            if not essay or not speaker:
                raise DataError(f"{where}: no essay or no speaker_id; delete the row")
            persona = _profile({name: values[number] for name, values in known.items()})
            text = (
                "Write what you think and feel after reading this article, in 300 to 800 characters.\n"
                f"Article: {texts[article]}"
            )
            found.append((Instance(f"{path.stem}-{number}", speaker, text, essay, persona=persona), ""))
    return by_persona("empathetic-conversation", found, seed, longest_answer=200)


def _profile(values: dict[str, str | None]) -> str:
    told = {name: value for name, value in values.items() if value and value != "unknown"}
    return ". ".join(f"{name.replace('_', ' ')}: {value}" for name, value in told.items())
