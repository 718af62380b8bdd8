"""How much may be asked for at once: one set of limits for Python, the command line and `prelude playlists`.

Each `wrong_…` returns what is wrong with a value, as the end of a sentence, or None; the caller names the option.
"""

from __future__ import annotations

import math
import numbers

MOST_ITEMS = 1000  # n: a list in sequence reads the prompt anew for each of them
MOST_IDS = 100_000  # ids in a history, and in a list of what is excluded or allowed
MOST_QUERY = 100_000  # characters of a query: a prompt reads its first `prompts.query_tokens` tokens, the rest is only cut
# Draws add noise of size 1 to scores that are divided by the temperature, in 32 bits: scores differ by about 10 nats, so below
# this the noise is lost in rounding (and below 1e-38 the scores are infinite, and lists were short without a word)
LEAST_TEMPERATURE = 1e-5


def check_options(n: int, temperature: float, strength: float, seed: int = 0, **switches: object) -> None:
    """Raises `ValueError` naming the option that means nothing, and what was expected.

    `switches`: options that are true, false, or not given (None).
    """
    wrong = (
        ("n", n, wrong_n(n)),
        ("temperature", temperature, wrong_temperature(temperature)),
        ("strength", strength, wrong_strength(strength)),
        ("seed", seed, None if is_whole(seed) else "expected a whole number"),
    )
    for name, value, why in wrong:
        if why is not None:
            raise ValueError(f"{name} is {value!r}; {why}")
    for name, switch in switches.items():
        if type(switch).__name__ not in (
            "bool",
            "bool_",
            "NoneType",
        ):  # also numpy's, which is not imported here
            raise ValueError(f"{name} is {switch!r}; expected True or False")


def wrong_n(n: object) -> str | None:
    """Of how many items are asked for."""
    if not isinstance(n, numbers.Integral) or isinstance(n, bool):
        return "expected a whole number of items"
    if int(n) < 1:
        return "ask for at least one item"
    return f"at most {MOST_ITEMS}" if int(n) > MOST_ITEMS else None


def wrong_temperature(temperature: object) -> str | None:
    """Of a temperature."""
    if not is_number(temperature) or not 0 <= temperature < math.inf:  # type: ignore[operator]  # NaN is in no range
        return "expected 0 (best first) or a positive number (draws)"
    if 0 < temperature < LEAST_TEMPERATURE:  # type: ignore[operator]
        return f"below {LEAST_TEMPERATURE:g} rounding decides and no draw; set 0, which gives the best items first"
    return None


def wrong_strength(strength: object) -> str | None:
    """Of how much of a method is used."""
    fine = is_number(strength) and 0 <= strength <= 1  # type: ignore[operator]
    return None if fine else "expected 0 (nothing personal in front) to 1 (as trained)"


def wrong_length(ids: int) -> str | None:
    """Of how many ids a list has."""
    return f"at most {MOST_IDS:,}" if ids > MOST_IDS else None


def wrong_query(characters: int) -> str | None:
    """Of how long a query is."""
    return f"at most {MOST_QUERY:,}" if characters > MOST_QUERY else None


def is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
