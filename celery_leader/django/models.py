"""What a database keeps of elections.

The name of an election begins with the key prefix of its deployment (``proj:default``), so that two deployments can
share a database.
"""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.utils.translation import gettext_lazy as _

from celery_leader.django.fields import ExactCharField, UtcDateTimeField
from celery_leader.election import ElectionState, state_of
from celery_leader.election.limits import shown, shown_value
from celery_leader.exceptions import ConfigurationError

#: The longest name of an election, with its prefix.
ELECTION_LENGTH = 255
#: The longest name of an entry. Together with the election's it fills an index of MySQL: 3072 bytes, 4 a character.
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


class Election(models.Model):
    """The record of an election; see :class:`celery_leader.election.ElectionRecord`."""

    name = ExactCharField(_("name"), max_length=ELECTION_LENGTH, primary_key=True)
    holder_identity = models.TextField(_("holder"), blank=True, default="")
    lease_duration = models.FloatField(_("lease duration"), default=15.0, help_text=_("Seconds."))
    acquire_time = UtcDateTimeField(_("acquired"), null=True, blank=True, help_text=_("By the holder's clock."))
    renew_time = UtcDateTimeField(_("renewed (holder)"), null=True, blank=True, help_text=_("By the holder's clock."))
    leader_transitions = models.BigIntegerField(_("transitions"), default=0)
    fencing_token = models.BigIntegerField(_("token"), default=0)
    deployment = models.TextField(_("deployment"), blank=True, default="", help_text=_("The holder's app and broker."))
    version = models.CharField(_("version"), max_length=32, help_text=_("Changes with each write."))
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
        age = None if self.renewed_at is None else (now - self.renewed_at).total_seconds()
        return state_of(self.holder_identity, self.lease_duration, age)


class ElectionToken(models.Model):
    """A token of an election, in a row of its own."""

    election = ExactCharField(_("election"), max_length=ELECTION_LENGTH, primary_key=True)
    token = models.BigIntegerField(_("token"))

    class Meta:
        """Columns for the models below."""

        abstract = True
        default_permissions = ()

    def __str__(self) -> str:
        """Return the election's name and the token."""
        return f"{self.election}: {self.token}"


class Fence(ElectionToken):
    """The token of an election's current term. Only takeovers write it.

    A transaction that locks it commits before the next term begins. No renewal ever waits for it.
    """

    class Meta(ElectionToken.Meta):
        """Names."""

        verbose_name = _("fence")
        verbose_name_plural = _("fences")


class LedgerTerm(ElectionToken):
    """The greatest token that ever opened an election's ledger.

    It is not the :class:`Fence`: a transaction may lock that for long, and a beat must not wait for it.
    """

    class Meta(ElectionToken.Meta):
        """Names."""

        verbose_name = _("term of a ledger")
        verbose_name_plural = _("terms of ledgers")


class DeliveredTick(models.Model):
    """What the consumers made of a tick: a row of a :class:`celery_leader.backends.OnceStore`."""

    tick = ExactCharField(
        _("tick"), max_length=ELECTION_LENGTH, primary_key=True, help_text=_("The id of its task, after the prefix.")
    )
    owner = models.CharField(_("owner"), max_length=32, help_text=_("The delivery that runs it or has run it."))
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
        """Return the tick, and whether it is done."""
        return f"{self.tick}: {'done' if self.done else 'claimed'}"


class PeriodicRun(models.Model):
    """The last claim of a periodic entry; see :class:`celery_leader.ledger.Claim`."""

    election = ExactCharField(_("election"), max_length=ELECTION_LENGTH)
    entry = ExactCharField(_("entry"), max_length=ENTRY_LENGTH)
    due_at = UtcDateTimeField(_("due"))
    token = models.BigIntegerField(_("token"), help_text=_("The token of the term that claimed it."))
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
        due = f"{self.due_at:%Y-%m-%d %H:%M:%S}" if self.due_at else "?"  # None stands for a time that no date can hold
        return f"{shown(self.entry)} @ {due}"
