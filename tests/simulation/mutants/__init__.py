"""The classic faults of electors and beats, each a small patch. A suite that does not notice one proves nothing.

``python -m tests.simulation.mutants`` puts each in place and runs simulated worlds until one breaks a rule; the few
that no world can notice name the tests that do, which then run with ``CELERY_LEADER_MUTANT=name``
(see ``tests/conftest.py``). Not here is what our design leaves no place for: M10 (nothing is deleted, and a hint that
comes early only costs a look), M15 (no row count of MySQL decides anything) and M7 (an identity that comes twice is
harmless where wall clocks are right, as tokens differ then: worlds with ``faults.shared_identity`` hold that).
"""

from __future__ import annotations

from tests.simulation.mutants import beat, election  # noqa: F401  # they register
from tests.simulation.mutants.registry import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant"]
