"""Elections in the admin, which shows them and changes nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from celery_leader.django.checks import database_alias
from celery_leader.django.fields import DatabaseNow
from celery_leader.django.models import Election, PeriodicRun
from celery_leader.election import ElectionState
from celery_leader.election.limits import shown

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

# Never by colour alone: each has a sign and a word.
_BADGES = {
    ElectionState.LEADING: ("●", _("Leading")),
    ElectionState.LATE: ("◐", _("Late")),
    ElectionState.EXPIRED: ("✕", _("Expired")),
    ElectionState.VACANT: ("○", _("Vacant")),
}

#: Shown where there is no value. Django's own ``empty_value`` counts in lists alone.
_NOTHING = "–"


class ReadOnlyAdmin(ModelAdmin):
    """The admin of a model whose rows only electors and beats write, in the database that keeps the elections."""

    list_per_page = 100
    show_full_result_count = False

    class Media:
        """The style of badges and holders. It is in a file: content security policies forbid inline styles."""

        css = {"all": ["celery_leader/admin.css"]}  # noqa: RUF012

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, str] | None = None) -> HttpResponse:
        """Show the list, and warn when its rows are old because elections are kept in another store."""
        if database_alias() is None:
            messages.warning(
                request,
                _(
                    "CELERY_LEADER_BACKEND keeps elections in another store than the database: rows here are old. "
                    "“celery -A … leader status” shows who leads."
                ),
            )
        return super().changelist_view(request, extra_context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only electors create elections."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: the leader would not expect a change by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: the holder of a deleted record may still lead."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read the database that ``CELERY_LEADER_BACKEND`` names, and its clock."""
        here = super().get_queryset(request).using(database_alias())  # None is the default database
        rows: QuerySet[Any] = here.annotate(database_now=DatabaseNow())
        return rows


@admin.register(Election)
class ElectionAdmin(ReadOnlyAdmin):
    """Who leads what."""

    list_display = ("name", "state", "holder", "fencing_token", "renewed", "leader_transitions")
    search_fields = ("name", "holder_identity")
    ordering = ("name",)
    fields = (
        "name",
        "state",
        "holder",
        "fencing_token",
        "leader_transitions",
        "lease",
        "renewed",
        "acquired",
    )
    readonly_fields = ("state", "holder", "lease", "renewed", "acquired")

    @admin.display(description=_("state"))
    def state(self, row: Any) -> SafeString:
        """Return the state as a badge."""
        state = row.state_at(row.database_now)
        icon, word = _BADGES[state]
        return format_html(
            '<span class="celery-leader-state celery-leader-{}"><span aria-hidden="true">{}</span> {}</span>',
            state.value,
            icon,
            word,
        )

    @admin.display(description=_("holder"), ordering="holder_identity")
    def holder(self, row: Election) -> str:
        """Return the holder, with its host in bold: ``celery@**web-1**  4121``."""
        if not row.holder_identity:
            return _NOTHING
        holder = shown(row.holder_identity)
        node, host, process = split_identity(holder)
        return format_html(
            '<span class="celery-leader-holder" title="{}">{}<strong>{}</strong> <small>{}</small></span>',
            holder,
            node,
            host,
            process,
        )

    @admin.display(description=_("renewed"), ordering="renewed_at")
    def renewed(self, row: Any) -> str:
        """Return how long ago the record was written, by the database's clock."""
        return _ago(row.renewed_at, row.database_now)

    @admin.display(description=_("acquired"))
    def acquired(self, row: Any) -> str:
        """Return how long ago the term began, by its holder's clock."""
        return _ago(row.acquire_time, row.database_now)

    @admin.display(description=_("lease duration"))
    def lease(self, row: Election) -> str:
        """Return how long the lease lasts."""
        return str(_("%(number)s s")) % {"number": f"{row.lease_duration:g}"}


@admin.register(PeriodicRun)
class PeriodicRunAdmin(ReadOnlyAdmin):
    """The last claimed run of each periodic entry."""

    list_display = ("name", "election", "due", "sent", "run_count", "id_of_task")
    list_filter = ("election", "sent")
    search_fields = ("entry", "task_id")
    ordering = ("election", "entry")
    fields = ("name", "election", "due", "claimed", "sent", "run_count", "id_of_task", "token", "fingerprint")
    readonly_fields = ("name", "due", "claimed", "id_of_task", "fingerprint")

    @admin.display(description=_("entry"), ordering="entry")
    def name(self, row: PeriodicRun) -> str:
        """Return the entry's name."""
        return shown(row.entry)

    @admin.display(description=_("task id"))
    def id_of_task(self, row: PeriodicRun) -> str:
        """Return the id of the run's task."""
        return shown(row.task_id)

    @admin.display(description=_("schedule"))
    def fingerprint(self, row: PeriodicRun) -> str:
        """Return the fingerprint of the entry's schedule."""
        return shown(row.schedule)

    @admin.display(description=_("due"), ordering="due_at")
    def due(self, row: Any) -> str:
        """Return how long ago the run was due."""
        return _ago(row.due_at, row.database_now)

    @admin.display(description=_("claimed"), ordering="claimed_at")
    def claimed(self, row: Any) -> str:
        """Return how long ago the run was claimed."""
        return _ago(row.claimed_at, row.database_now)


def split_identity(identity: str) -> tuple[str, str, str]:
    """Return the parts of an identity ``name@host/pid/nonce``: ``name@``, the host and the process id.

    An identity of another form is returned as the host.
    """
    parts = re.fullmatch(r"([^/@]*@)([^/@]+)/(\d+)/[^/]*", identity)
    return parts.groups() if parts else ("", identity, "")  # type: ignore[return-value]


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return _NOTHING
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        moment.isoformat(),
        f"{moment:%Y-%m-%d %H:%M:%S.%f}",
        _age(now - moment),
    )


def _age(age: timedelta) -> str:
    """Return *age* in the largest unit of which it has two: "95 s ago", "3 h ago"; "in 95 s" when it is negative."""
    seconds = age / timedelta(seconds=1)
    size, past, future = next(unit for unit in _UNITS if abs(seconds) >= 2 * unit[0] or unit[0] == 1)
    return str(future if seconds <= -1 else past) % {"number": int(abs(seconds) // size)}


_UNITS = (
    (86400, _("%(number)d d ago"), _("in %(number)d d")),
    (3600, _("%(number)d h ago"), _("in %(number)d h")),
    (60, _("%(number)d min ago"), _("in %(number)d min")),
    (1, _("%(number)d s ago"), _("in %(number)d s")),
)
