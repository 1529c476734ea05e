"""Celery signals of leadership, sent in each process that takes part in an election.

Receivers run on a thread of their own, one call after another. A receiver that blocks delays the calls behind it, and
never the election.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

#: This process leads. Arguments: ``term`` (:class:`~celery_leader.election.Term`); the sender is the election's name.
leader_started = Signal(name="leader_started", providing_args={"term"})

#: This process leads no more. Arguments: ``term``, ``reason`` (:class:`~celery_leader.election.StopReason`).
leader_stopped = Signal(name="leader_stopped", providing_args={"term", "reason"})

#: The observed leader changed. Arguments: ``identity``, empty when nobody leads.
leader_changed = Signal(name="leader_changed", providing_args={"identity"})
