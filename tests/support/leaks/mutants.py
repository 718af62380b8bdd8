"""All planted leaks, in the order of the places that they are planted in."""

from __future__ import annotations

from tests.support.leaks import of_data, of_embed, of_generator
from tests.support.leaks.mutant import MUTANTS

__all__ = ["MUTANTS", "of_data", "of_embed", "of_generator"]
