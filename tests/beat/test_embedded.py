"""The beat inside a worker."""

from __future__ import annotations

from celery import Celery

from celery_leader.beat.embedded import EmbeddedBeat
from celery_leader.leadership.campaign import Campaign
from celery_leader.settings import LeaderSettings


def test_a_worker_does_not_consume_what_its_beat_sends_elsewhere() -> None:
    """Celery 5.5 adds each queue that is sent to by name to those that the process consumes from."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update(leader_backend="memory://", leader_beat=True, task_queues=None)
    campaign = Campaign(LeaderSettings.from_app(app), ["default"], nodename="w@h", app_name="proj")
    EmbeddedBeat(app, campaign)
    app.send_task("t", queue="elsewhere")
    assert list(app.amqp.queues.consume_from) == ["celery"]
    app.amqp.queues.select_add("asked for")  # as `control add_consumer` does
    assert set(app.amqp.queues.consume_from) == {"celery", "asked for"}
