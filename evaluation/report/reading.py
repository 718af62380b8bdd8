"""How to read each table and picture: one line, by the beginning of its title."""

from __future__ import annotations

P_VALUES = (
    "A small p-value says that chance alone would seldom make such a difference; it does not say that the difference is large, nor "
    "that it would be found on other data. A large p-value does not show that two rows are equal: look at the interval, and at the "
    "smallest difference that this many users could show (“detectable”)."
)
OTHER = "A row a recommender; hover over a heading, or focus it, for what its figures are."
LINES = (  # the first beginning that fits
    ("All rows, ranked", "From the best list down; two rows whose intervals overlap much are not told apart."),
    ("Hit-rate@", "Compare ranked figures (top, R, N) with each other and drawn ones (sampled, expected) with each other, never across."),
    ("At matched calibration", "Each row at its own fitted temperature, so that being sharp is no merit: nats nearer to 0 are better."),
    ("Against the best", "The best row less each other; p is corrected for having looked for the best among all pairs."),
    ("By ", "A column is a group of users or items, and only its own instances count; wide intervals are small groups."),
    ("What it costs", "Nothing here is about quality: numbers kept, seconds, and time of an answer as a multiple of No Context's."),
    ("Validation, ", "What the default was chosen by, on validation; the test has no say in it."),
    ("(user, query)", "Lists for queries made of the target's own words: an upper end of what words help."),
    ("Playlists", "Rows as judged by predicted engagement and by affinity; no person was asked."),
    ("Against ", "Each row less the named one, paired by user: read the interval first, then p after Holm."),
    ("Effects", "A difference is shown where its interval leaves out zero."),
)  # fmt: skip


def how_to_read(title: str) -> str:
    """The line for a table's title."""
    title = title.removesuffix(", at matched calibration") if title.startswith("Against") else title
    return next((line for beginning, line in LINES if title.startswith(beginning)), OTHER)
