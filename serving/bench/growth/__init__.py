"""How every stage of a run grows: seconds and peak memory at several sizes of a made world, an exponent, two decades more.

May import: `serving.bench.worlds`, `serving.bench`, `serving.answering`, `serving.state`, `evaluation.report`, `recsys.artifacts`,
`recsys.data`, `recsys/` (`run.py`); what measures starts without torch.
Read first: `stages.py` (what is run), then `measure.py` (a process of its own each), then `table.py`.
"""
