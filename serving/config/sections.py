"""Which sections of a configuration each stage relies on."""

from __future__ import annotations

# Sections that finished stages are made from and later ones read; evaluate, music, online, drift and example are read by none
SECTIONS = ("prepare", "embed", "tokenize", "adapt", "personalize", "combine", "engagement", "align")
_TO_ADAPT = SECTIONS[:4]
UPSTREAM = {
    "prepare": (),
    "embed": SECTIONS[:1],
    "tokenize": SECTIONS[:2],
    "adapt": SECTIONS[:3],
    "personalize": _TO_ADAPT,
    "combine": SECTIONS[:5],
    "evaluate": SECTIONS[:6],
    "engagement": SECTIONS[:1],
    "align": (*_TO_ADAPT, "engagement"),
    "music": SECTIONS,
}  # stage -> the sections that it relies on, beside its own
