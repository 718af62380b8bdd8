"""`prelude task`: text tasks from data to table on the frozen backbone.

May import: `serving.config`, and the other rooms.
Read first: `tasks.py`.
"""
