"""What `celery beat -S` is given to lead RedBeat."""

from __future__ import annotations

from celery_leader.beat.scheduler import leader_scheduler

LeaderRedBeatScheduler = leader_scheduler("redbeat.RedBeatScheduler")
