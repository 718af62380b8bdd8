"""Commands on runs as a whole: comparing them, auditing their lists, comparing IDs.

A command is a plain function, and `serving/cli.py` lists it by name.
May import: `serving` but `serving.cli`, `evaluation`, `semantic_ids`, `recsys`; at the top only what starts without torch and pandas.
Read first: `compare.py`.
"""
