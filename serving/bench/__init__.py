"""`prelude bench`: every hot path against what a user would otherwise pick, in one run on the user's own machine."""
