"""Elections in the admin: to look at, not to change."""

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
    from django.utils.functional import _StrPromise
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

_NOTHING = "–"


class ReadOnlyAdmin(ModelAdmin):
    """A model whose rows its own program writes. They are read where the project keeps its elections."""

    list_per_page = 100
    show_full_result_count = False

    class Media:
        """The style of badges and holders: in a file, because of content security policies."""

        css = {"all": ["celery_leader/admin.css"]}  # noqa: RUF012

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, str] | None = None) -> HttpResponse:
        """Show the list; say so when its rows are old, because elections are kept elsewhere."""
        if database_alias() is None:
            messages.warning(
                request,
                _(
                    "Elections are kept in another store than the database (CELERY_LEADER_BACKEND): rows here are old. "
                    "“celery -A … leader status” shows who leads."
                ),
            )
        return super().changelist_view(request, extra_context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: elections make themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: a change by hand is a change behind the leader's back."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Return False: whose record is deleted may still lead."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read the database that ``CELERY_LEADER_BACKEND`` names, and its clock."""
        alias = database_alias()
        rows: QuerySet[Any] = super().get_queryset(request).annotate(database_now=DatabaseNow())
        return rows.using(alias) if alias else rows


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

    @admin.display(description=_("holder"), ordering="holder_identity", empty_value=_NOTHING)
    def holder(self, row: Election) -> SafeString | None:
        """Return who leads, the host in bold: ``celery@**web-1**  4121``."""
        if not row.holder_identity:
            return None
        holder = shown(row.holder_identity)
        node, host, process = split_identity(holder)
        return format_html(
            '<span class="celery-leader-holder" title="{}">{}<strong>{}</strong> <small>{}</small></span>',
            holder,
            node,
            host,
            process,
        )

    @admin.display(description=_("renewed"), ordering="renewed_at", empty_value=_NOTHING)
    def renewed(self, row: Any) -> SafeString | None:
        """Return how long ago the record was written, by the database's clock."""
        return _ago(row.renewed_at, row.database_now)

    @admin.display(description=_("acquired"), empty_value=_NOTHING)
    def acquired(self, row: Any) -> SafeString | None:
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
        """Return the id of the message."""
        return shown(row.task_id)

    @admin.display(description=_("schedule"))
    def fingerprint(self, row: PeriodicRun) -> str:
        """Return what tells the entry's schedule from others."""
        return shown(row.schedule)

    @admin.display(description=_("due"), ordering="due_at")
    def due(self, row: Any) -> SafeString | None:
        """Return how long ago it was due."""
        return _ago(row.due_at, row.database_now)

    @admin.display(description=_("claimed"), ordering="claimed_at")
    def claimed(self, row: Any) -> SafeString | None:
        """Return how long ago it was claimed."""
        return _ago(row.claimed_at, row.database_now)


def split_identity(identity: str) -> tuple[str, str, str]:
    """Return an identity's parts: what stands before its host, the host, and the process id.

    An identity of another form than ``name@host/pid/nonce`` is all host.
    """
    parts = re.fullmatch(r"([^/@]*@)([^/@]+)/(\d+)/[^/]*", identity)
    return parts.groups() if parts else ("", identity, "")  # type: ignore[return-value]


def _ago(moment: datetime | None, now: datetime) -> SafeString | None:
    if moment is None:
        return None
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        moment.isoformat(),
        f"{moment:%Y-%m-%d %H:%M:%S.%f}",
        _age(now - moment),
    )


def _age(age: timedelta) -> str:
    """Return *age* in the largest unit of which it has two: "95 s ago", "3 h ago"."""
    seconds = age / timedelta(seconds=1)
    if seconds <= -1:
        return _in_units(-seconds, _SOON)
    return _in_units(max(seconds, 0), _AGO)


def _in_units(seconds: float, units: tuple[tuple[int, _StrPromise], ...]) -> str:
    size, text = next((size, text) for size, text in units if seconds >= 2 * size or size == 1)
    return str(text) % {"number": int(seconds // size)}


_AGO = (
    (86400, _("%(number)d d ago")),
    (3600, _("%(number)d h ago")),
    (60, _("%(number)d min ago")),
    (1, _("%(number)d s ago")),
)
_SOON = (
    (86400, _("in %(number)d d")),
    (3600, _("in %(number)d h")),
    (60, _("in %(number)d min")),
    (1, _("in %(number)d s")),
)
