"""The commands: each parses, calls one function, and prints; heavy imports wait inside it.

May import: all of serving, lazily.
Read first: `stages.py`; `serving/cli.py` puts them together.
"""
