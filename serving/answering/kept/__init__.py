"""What feedback has left in a run's state, as methods read it; and what earlier versions kept, taken over.

May import: `serving.state`, `recsys`.
Read first: `trained_rows.py`.
"""
