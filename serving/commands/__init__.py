"""The commands: each parses, calls one function, and prints; heavy imports wait inside it.

A command is a plain function, and `serving/cli.py` lists it by name; of a group of commands it lists the Typer app.
May import: `serving` but `serving.cli`, `evaluation`, `semantic_ids`, `recsys`; at the top only what starts without torch and pandas.
Read first: `stages.py`.
"""
