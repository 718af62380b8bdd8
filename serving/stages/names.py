"""The stages of a run, in their order."""

STAGES = ("prepare", "embed", "tokenize", "adapt", "personalize", "evaluate")
COMBINED_STAGES = (*STAGES[:-1], "combine", STAGES[-1])  # of runs with products of experts
PLAYLIST_STAGES = ("engagement", "align", "music")  # of runs with labelled lists
