"""`prelude bench`: every hot path against what one would otherwise pick, in turn, on your machine.

May import: all rooms.
Read first: `case.py` (what a case is), then `suite.py`.
"""
