"""What another policy would have earned, told from lists that one policy drew; and arms compared at any number of looks.

May import: `evaluation/` (its modules, not its folders), `recsys`.
Read first: `estimators.py`.
"""
