"""The protocol of an election: the standard library only, no Celery, no store."""

from __future__ import annotations

from celery_leader.election.candidacy import Candidacy
from celery_leader.election.clock import Clock, SystemClock
from celery_leader.election.config import ElectionConfig, new_identity
from celery_leader.election.election_state import ElectionState, state_of
from celery_leader.election.elector import LeaderElector
from celery_leader.election.lock import Lock, StoredRecord
from celery_leader.election.observers import Observer
from celery_leader.election.record import ElectionRecord
from celery_leader.election.term import StopReason, Term, Trust
from celery_leader.election.thread import ElectorThread

__all__ = [
    "Candidacy",
    "Clock",
    "ElectionConfig",
    "ElectionRecord",
    "ElectionState",
    "ElectorThread",
    "LeaderElector",
    "Lock",
    "Observer",
    "StopReason",
    "StoredRecord",
    "SystemClock",
    "Term",
    "Trust",
    "new_identity",
    "state_of",
]
