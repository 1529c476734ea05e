"""The classic faults of electors and beats, each a small patch. A suite that does not notice one proves nothing.

``python -m tests.simulation.mutants`` puts each in place and runs simulated worlds until one breaks a rule; the few
that no world can notice name the tests that do, which then run with ``CELERY_LEADER_MUTANT=name``
(see ``tests/conftest.py``). Of the research's M1 to M20, ``NO_PLACE`` says why one is not here.
"""

from __future__ import annotations

from tests.simulation.mutants import beat, election, store  # noqa: F401  # they register
from tests.simulation.mutants.registry import MUTANTS, NO_PLACE, Mutant

__all__ = ["MUTANTS", "NO_PLACE", "Mutant"]
