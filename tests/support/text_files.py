"""Small files in the formats of the text tasks, as their publishers write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

# -- worlds: small files in the published formats ----------------------------------------------------------------------


def write_movielens(folder: Path, n_users: int = 6, length: int = 20) -> Path:
    """Every user likes one genre (5 stars) and dislikes the other (1 star)."""
    folder.mkdir(exist_ok=True)
    movies = [(m, f"Film {m} (1990)", ("Comedy", "War")[m % 2]) for m in range(1, 31)]
    pd.DataFrame(movies, columns=["movieId", "title", "genres"]).to_csv(folder / "movies.csv", index=False)
    draw, rows = np.random.default_rng(0), []
    for user in range(1, n_users + 1):
        for place, movie in enumerate(draw.permutation(30)[:length] + 1):
            rows.append((user, movie, 5.0 if movie % 2 == user % 2 else 1.0, 1000 * user + 10 * place))
    pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"]).to_csv(
        folder / "ratings.csv", index=False
    )
    tags = [(1, 1, "funny", 1005)]
    pd.DataFrame(tags, columns=["userId", "movieId", "tag", "timestamp"]).to_csv(
        folder / "tags.csv", index=False
    )
    return folder


def write_lastfm(folder: Path, n_users: int = 6, length: int = 12) -> Path:
    """Every user gives one tag of their own and sometimes a second."""
    folder.mkdir(exist_ok=True)
    names = ["rock", "pop", "jazz"]
    artists = "id\tname\turl\tpictureURL\n" + "".join(f"{a}\tArtist {a}\tu\tp\n" for a in range(1, 31))
    (folder / "artists.dat").write_text(artists)
    tags = "tagID\ttagValue\n" + "".join(f"{number}\t{name}\n" for number, name in enumerate(names, 1))
    (folder / "tags.dat").write_bytes(tags.encode("latin-1"))
    rows = []
    for user in range(1, n_users + 1):
        for place in range(length):
            tag, artist = user % 3 + 1, (user + 2 * place) % 30 + 1
            rows.append((user, artist, tag, 1, place % 12 + 1, 2008 + place // 12))
            if place % 6 == 2:
                rows.append((user, artist, tag % 3 + 1, 1, place % 12 + 1, 2008 + place // 12))
    pd.DataFrame(rows, columns=["userID", "artistID", "tagID", "day", "month", "year"]).to_csv(
        folder / "user_taggedartists.dat", sep="\t", index=False
    )
    return folder


def write_persona_csv(folder: Path, n: int = 40) -> Path:
    """Dialogues between persona 2i and persona 2i + 1: a pair that no other dialogue shares."""
    folder.mkdir(exist_ok=True)
    rows = []
    for talk in range(n):
        first, second = (f"I have {k} cats.\nMy town is T{k}." for k in (2 * talk, 2 * talk + 1))
        turns = "User 1: Hi!\nUser 2: Hello, who are you?\nUser 1: I have cats.\nUser 2: How many\ncats?"
        rows.append((first, second, turns))
    columns = ["user 1 personas", "user 2 personas", "Best Generated Conversation"]
    path = folder / "Synthetic-Persona-Chat_test.csv"
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path
