"""What a database keeps of elections.

The names of elections stand here with the key prefix of their deployment (``proj:default``), so that two deployments
can share a database.

A later version adds the history of terms (``Term``: holder, token, from, to, reason) and the processes that take part
(``Candidate``: identity, last seen, version). Both will be written by observers of the electors, best effort, whichever
store holds the record; nothing here will change for them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

from django.db import models
from django.utils.translation import gettext_lazy as _

from celery_leader.django.fields import ExactCharField, UtcDateTimeField
from celery_leader.election.limits import LONGEST, shown, shown_value
from celery_leader.exceptions import ConfigurationError

#: How long an election's name may be, its prefix included.
ELECTION_LENGTH = 255
#: How long an entry's name may be. With the election's it fills what MySQL can index: 3072 bytes, 4 a character.
ENTRY_LENGTH = 500


def table_of(model: type[models.Model]) -> str:
    """Return the name of the model's table."""
    return str(model._meta.db_table)  # noqa: SLF001 - documented, for all its underscore


def row_name(prefix: str, name: str, *, of: str) -> str:
    """Return *name* as rows have it: after the key prefix of the deployment.

    Args:
        prefix: The key prefix; may be empty.
        name: The name without it.
        of: What it names, for the error.

    Raises:
        ConfigurationError: It is longer than a row can keep.
    """
    name = f"{prefix}:{name}" if prefix else name
    if len(name) > ELECTION_LENGTH:
        raise ConfigurationError(
            f"The name {shown_value(name)} of {of}, its prefix included, has {len(name)} characters; a database keeps "
            f"{ELECTION_LENGTH}."
        )
    return name


class ElectionState(str, Enum):
    """What an election's record says about its leader, by the database's clock."""

    LEADING = "leading"  #: renewed within two thirds of the lease
    LATE = "late"  #: not renewed for more than that
    EXPIRED = "expired"  #: not renewed for the whole lease: whoever sees it may take over
    VACANT = "vacant"  #: released


class Election(models.Model):
    """The record of an election; see :class:`celery_leader.election.ElectionRecord`."""

    name = ExactCharField(_("name"), max_length=ELECTION_LENGTH, primary_key=True)
    holder_identity = models.TextField(_("holder"), blank=True, default="")
    lease_duration = models.FloatField(_("lease duration"), default=15.0, help_text=_("Seconds."))
    acquire_time = UtcDateTimeField(_("acquired"), null=True, blank=True, help_text=_("By the holder's clock."))
    renew_time = UtcDateTimeField(_("renewed (holder)"), null=True, blank=True, help_text=_("By the holder's clock."))
    leader_transitions = models.BigIntegerField(_("transitions"), default=0)
    fencing_token = models.BigIntegerField(_("token"), default=0)
    deployment = models.TextField(_("deployment"), blank=True, default="", help_text=_("What the holder belongs to."))
    version = models.CharField(_("version"), max_length=32, help_text=_("Another after each write."))
    renewed_at = UtcDateTimeField(
        _("renewed"), null=True, blank=True, help_text=_("By the database's clock. For display only.")
    )

    class Meta:
        """Names."""

        verbose_name = _("election")
        verbose_name_plural = _("elections")
        default_permissions = ("view",)

    def __str__(self) -> str:
        """Return the election's name."""
        return self.name

    def state_at(self, now: datetime) -> ElectionState:
        """Return what the record says at *now*, a reading of the database's clock."""
        if not self.holder_identity:
            return ElectionState.VACANT
        if self.renewed_at is None or not 0 <= self.lease_duration <= LONGEST:  # no elector wrote that
            return ElectionState.EXPIRED
        age = (now - self.renewed_at) / timedelta(seconds=1)
        if age <= self.lease_duration * 2 / 3:
            return ElectionState.LEADING
        return ElectionState.LATE if age <= self.lease_duration else ElectionState.EXPIRED


class Fence(models.Model):
    """The token of an election's current term, in a row that only takeovers write.

    A transaction that locks it commits before the next term begins, and no renewal ever waits for it.
    """

    election = ExactCharField(_("election"), max_length=ELECTION_LENGTH, primary_key=True)
    token = models.BigIntegerField(_("token"))

    class Meta:
        """Names."""

        verbose_name = _("fence")
        verbose_name_plural = _("fences")
        default_permissions = ()

    def __str__(self) -> str:
        """Return the election's name and the token."""
        return f"{self.election}: {self.token}"


class LedgerTerm(models.Model):
    """The greatest token that ever opened an election's ledger.

    A row of its own: transactions that lock the :class:`Fence` may last, and beat must not wait for them.
    """

    election = ExactCharField(_("election"), max_length=ELECTION_LENGTH, primary_key=True)
    token = models.BigIntegerField(_("token"))

    class Meta:
        """Names."""

        verbose_name = _("term of a ledger")
        verbose_name_plural = _("terms of ledgers")
        default_permissions = ()

    def __str__(self) -> str:
        """Return the election's name and the token."""
        return f"{self.election}: {self.token}"


class DeliveredTick(models.Model):
    """What became of a tick at its consumers: a row of a :class:`celery_leader.backends.OnceStore`."""

    tick = ExactCharField(
        _("tick"), max_length=ELECTION_LENGTH, primary_key=True, help_text=_("The id of its task, after the prefix.")
    )
    owner = models.CharField(_("owner"), max_length=32, help_text=_("The delivery that runs it, or has run it."))
    done = models.BooleanField(_("done"), default=False)
    ends_at = UtcDateTimeField(
        _("ends"), db_index=True, help_text=_("When the claim or the note ends, by the database's clock.")
    )

    class Meta:
        """Names."""

        verbose_name = _("delivered tick")
        verbose_name_plural = _("delivered ticks")
        default_permissions = ()

    def __str__(self) -> str:
        """Return the tick and what became of it."""
        return f"{self.tick}: {'done' if self.done else 'claimed'}"


class PeriodicRun(models.Model):
    """The last claim of a periodic entry; see :class:`celery_leader.ledger.Claim`."""

    election = ExactCharField(_("election"), max_length=ELECTION_LENGTH)
    entry = ExactCharField(_("entry"), max_length=ENTRY_LENGTH)
    due_at = UtcDateTimeField(_("due"))
    token = models.BigIntegerField(_("token"), help_text=_("Of the term that claimed it."))
    task_id = models.TextField(_("task id"))
    run_count = models.BigIntegerField(_("runs"))
    claimed_at = UtcDateTimeField(_("claimed"), help_text=_("By the leader's clock."))
    schedule = models.TextField(_("schedule"), blank=True, default="")
    sent = models.BooleanField(_("sent"), default=False, help_text=_("Whether the message reached the broker."))

    class Meta:
        """Names, and one row an entry."""

        verbose_name = _("periodic run")
        verbose_name_plural = _("periodic runs")
        default_permissions = ("view",)
        constraints = (models.UniqueConstraint(fields=["election", "entry"], name="celery_leader_one_run_an_entry"),)

    def __str__(self) -> str:
        """Return the entry's name and when it was due."""
        due = f"{self.due_at:%Y-%m-%d %H:%M:%S}" if self.due_at else "?"  # what no date can hold is read as None
        return f"{shown(self.entry)} @ {due}"
