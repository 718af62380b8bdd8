"""The words of the tables, each explained once: for `prelude explain`, and for what the page shows where a word first stands."""

from __future__ import annotations

import re

# term -> what it means, in a sentence or two that need no other page
TERMS: dict[str, str] = {
    "hit-rate@n": "The share of test requests whose list of n items holds the target, the item that came next. .25 is one request in four.",
    "ranked": "Of the row's n best items, in order: what a shop window would show. Every row has such a list.",
    "expected": "1 − (1 − p)^n, the chance that n independent draws hold the target, from its exact probability p: what sampling gives, without "
    "the noise of the draws. It rewards a row that is sure, also where its order is no better than another's.",
    "sampled": "The share of requests whose n independent draws at temperature 1 held the target. The same as expected, with the draws' noise.",
    "distinct": "The share of requests whose n items, drawn one after the other and none twice, held the target.",
    "nats": "Natural logarithm of a probability. As a row's entropy: how spread out it draws, 0 is always the same item. As nats a target: the "
    "mean log-probability of what came next; nearer to 0 is better, and +.69 doubles the target's probability.",
    "No Context": "The language model after Stage 1 with nothing personal but the recent items in its prompt: the baseline of every table.",
    "Static Prefix": "The same method as E2P, given one learned constant for everybody: what a prefix is worth that is about nobody.",
    "E2P": "Embedding to Prefix: a person's own vector, projected into a soft token in front of the prompt.",
    "E2P-Random": "The trained E2P, each person given the vector of somebody else. If it does as well as E2P, nothing is personal.",
    "prefix": "Vectors in front of the prompt that no text spells, and that say who is asking (soft tokens).",
    "prompt": "What the model reads of a request: context, recent items, the query.",
    "tokens": "How many tokens of personal context a row's prompt has beyond the items and the query that all rows see; each costs time.",
    "t": "Temperature, chosen on validation: below 1 a row draws more of what it thinks likely, above 1 less.",
    "matched": "At the one temperature at which each row's validation targets are likeliest. A row that gains by being sharp alone gains nothing here.",
    "z": "Sampled less expected hit-rate in standard errors. Beyond about 4 sampler and scorer disagree, and the row is red.",
    "interval": "95 % interval over users: computed on such samples of users again and again, it holds the true value 19 times in 20.",
    "p": "How often chance alone would make so large a difference (paired two-sided t-test over users). It is no size of anything.",
    "Holm": "p after Holm's correction for the number of tests that were made beside it; below .05 is called shown.",
    "detectable": "The smallest difference that so many users would show with 80 % chance. Less may be there, unseen.",
    "difference": "The row less the one that it is compared with, paired by user: averages over users of the differences.",
    "relative": "The difference in percent of the row that it is compared with.",
    "bootstrap": "The difference's 95 % interval again, from users and training seeds drawn with replacement.",
    "recall@k": "The share of requests whose target is among the first k of the ranked list.",
    "NDCG@k": "As recall@k, but a target counts 1 / log2(1 + its place): 1 at the top, .39 at the fifth place.",
    "row": "A recommender, or the mean of several trainings of one (replicas).",
    "product": "A generator and retrievers multiplied: every item's probability is weighted by all of them, the weights learned on validation.",
    "experts": "The retrievers of a product. Experts alone is the product without a generator.",
    "softmax": "A retriever's scores made into probabilities, with a temperature from validation, so that it can be drawn from and compared.",
    "Popularity": "The items that most people had in training: the same list for everybody, less what they have had.",
    "stored per user": "Numbers that are kept for each user (4 bytes each), beside the history and the vector that is made of it.",
    "seconds to admit": "From a new user's events to the first answer that a method can make for them, training of their own included.",
    "latency": "Time of one list of ten items for one request, alone, on the machine that evaluated (median of a few).",
    "latency ratio": "A row's time for a list of thirty draws over No Context's, in turn.",
    "precision@k": "The share of the first k items whose words fit the query.",
    "semantic ID": "A few codes that stand for an item; the model writes them one after the other.",
    "target": "The item that the person had next, held out of everything that was learned.",
}
ALIASES = {
    "n": "hit-rate@n", "hits": "hit-rate@n", "hit rate": "hit-rate@n", "top": "ranked", "ndcg": "NDCG@k", "recall": "recall@k",
    "95 %": "interval", "±": "interval", "temperature": "t", "p, holm": "Holm", "p of nats": "p", "own vector": "E2P",
    "another's vector": "E2P-Random", "soft token": "prefix", "entropy": "nats", "exp. at t": "expected", "ms": "latency",
    "shared": "stored per user", "nats a target": "nats", "drawn": "expected", "value": "hit-rate@n", "context tokens": "tokens",
}  # fmt: skip
PATTERNS = (
    (r"(top|hits@) ?\d+|ranked@\d+", "ranked"),
    (r"r@\d+|recall@\d+", "recall@k"),
    (r"n@\d+|ndcg@\d+", "NDCG@k"),
    (r"precision@\d+", "precision@k"),
    (r"hit-?rate@\d+", "hit-rate@n"),
    (r"distinct ?\d*( of \d+)?", "distinct"),
    (r"95 %.*|.*interval", "interval"),
)
# explained below the picture, whoever reads: the words of the sentences and of the picture
FIRST_SCREEN = ("hit-rate@n", "interval", "p", "E2P", "prefix", "No Context", "tokens", "nats", "t")


def term_of(word: str) -> str | None:
    """The term that a heading or a word stands for; None for one that has no entry.

    >>> term_of("R@10"), term_of("no context"), term_of("Title")
    ('recall@k', 'No Context', None)
    """
    low = " ".join(word.lower().split())
    exact = {term.lower(): term for term in TERMS}
    if low in exact:
        return exact[low]
    if low in ALIASES:
        return ALIASES[low]
    return next((term for pattern, term in PATTERNS if re.fullmatch(pattern, low)), None)


def explain(word: str) -> tuple[str, str]:
    """The term and what it means. Raises `ValueError` naming those that there are."""
    term = term_of(word)
    if term is None:
        raise ValueError(f"there is no entry for {word!r}; there are {', '.join(TERMS)}")
    return term, TERMS[term]
