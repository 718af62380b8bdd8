"""Methods that a run answers with beside its generative ones, and what tables call them; apart, so that it is known without
loading torch.
"""

UNTRAINED = {
    "popularity": "Popularity",
    "recency": "Recency",
    "item_knn": "Item-kNN",
    "embedding_retrieval": "Embedding Retrieval",
    "sasrec": "SASRec",
    "no_context": "No Context",
}


def untrained(has_sasrec: bool) -> dict[str, str]:
    """Those of one run: SASRec answers where `embed.sasrec` is given."""
    return {key: name for key, name in UNTRAINED.items() if has_sasrec or key != "sasrec"}
