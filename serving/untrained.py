"""Methods that every run can answer with, and what tables call them; apart, so that it is known without loading torch."""

UNTRAINED = {
    "popularity": "Popularity",
    "recency": "Recency",
    "embedding_retrieval": "Embedding Retrieval",
    "no_context": "No Context",
}
