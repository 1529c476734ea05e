"""What must hold of periodic tasks at every moment (DESIGN §3.5). Written without a look at how the beat does it."""

from __future__ import annotations

import bisect
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_leader.exceptions import LeadershipLost, RecordNotFound, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_leader.ledger import Claim
    from tests.simulation.node import Node
    from tests.simulation.world import World

#: Rounding, in seconds.
EPSILON = 1e-3


class BeatRules:
    """Watches the ledger and the broker of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._greatest_opened = 0  # since the last loss of data
        self._greatest_ever_opened = 0
        self._latest_due: dict[str, datetime] = {}  # of what was ever claimed, by entry
        self._too_late: set[str] = set()  # ids that only a ledger that lost its data took
        self._refused: set[str] = set()  # ids that whoever claimed them was refused
        self._ids: dict[tuple[str, str], str] = {}  # by entry and due time, for ever
        self._basis: dict[tuple[Node, str], set[str]] = {}  # which ticks a life of a node may send
        self._silent: dict[tuple[Node, str], bool] = {}  # whether its last call was left without an answer
        self._claimed_under: dict[str, str] = {}  # token, by id
        self._dues: dict[str, list[datetime]] = {}  # of what was sent, by entry
        self._unwritten: dict[tuple[str, datetime], str] = {}  # sent while the ledger was silent, by which token
        self._first_known_at: dict[str, float] = {}
        self.last_sent_at: dict[str, float] = {}
        self._taken: dict[str, set[str]] = {}  # ids that the broker took, by entry

    def require(self, holds: bool, rule: str, *details: Any) -> None:
        self._world.rules.require(holds, rule, *details)

    def data_was_lost(self) -> None:
        self._greatest_opened = 0

    # -- the ledger ----------------------------------------------------------------------------------------------

    def was_refused(self, name: str, error: Exception) -> None:
        if isinstance(error, LeadershipLost):
            self._world.witness["stale claim refused" if name == "claim" else "stale call of the ledger refused"] += 1
        elif isinstance(error, RecordNotFound):
            self._world.witness["ledger not as the term opened it"] += 1

    def was_written(
        self, node: Node, name: str, token: int, before: Mapping[str, Claim], after: Mapping[str, Claim]
    ) -> None:
        """Compare what the ledger held with what it holds now."""
        if before != after or name == "open":
            self.require(
                token >= self._greatest_opened,
                f"{name} of token {token} changes a ledger that {self._greatest_opened} opened",
            )
        if name in {"open", "restore"}:
            self._greatest_opened = max(self._greatest_opened, token)
            self._greatest_ever_opened = max(self._greatest_ever_opened, token)
        for entry in before.keys() | after.keys():
            if before.get(entry) is not after.get(entry):
                self._entry_changed(entry, token, before.get(entry), after.get(entry))

    def _entry_changed(self, entry: str, token: int, old: Claim | None, new: Claim | None) -> None:
        self._first_known_at.setdefault(entry, self._world.now)
        if new and new.task_id:
            self._claimed_under.setdefault(new.task_id, str(token))
            self._unwritten.pop((entry, new.tick.due_at), None)
        if old and new:
            self.require(new.tick.due_at >= old.tick.due_at, "{} goes back from {} to {}", entry, old, new)
        if new and new.sent and new.task_id:
            self.require(new.task_id in self._sent(entry), "{} is noted as sent, and was not", new)
        if new:
            latest = self._latest_due[entry] = max(new.tick.due_at, self._latest_due.get(entry, new.tick.due_at))
            if new.task_id and token < self._greatest_ever_opened and new.tick.due_at < latest:
                self._too_late.add(new.task_id)
        if old and old.task_id in self._refused:
            # Refused, and stored when its request came once more, after the row that had kept it out was lost. Who
            # claimed it never knew: it is one of those that became one.
            self._world.witness["refused claim stored after data loss"] += 1
        elif old and old.task_id in self._too_late:
            # Claimed by a term that was over, after the ledger had lost what would have refused it: later ticks than
            # this are known, so it is one of those that became one.
            self._world.witness["claimed too late after data loss"] += 1
        elif old and old.task_id and not old.sent and not (new and new.tick == old.tick):
            self.require(old.task_id in self._sent(entry), "{} gives way to {}, and was never sent", old, new)

    def was_answered(self, node: Node, name: str, claims: Sequence[Claim], answer: Any) -> None:
        """Note what *node* learned from a call: an answer, or the error that was raised."""
        life = node, node.identity
        self._silent[life] = isinstance(answer, (StoreUnavailable, RecordNotFound))
        basis = self._basis.setdefault(life, set())
        if name == "open" and not isinstance(answer, Exception):
            basis |= {claim.task_id for claim in answer.values() if not claim.sent}
        elif name == "claim" and not isinstance(answer, Exception):
            basis |= {claim.task_id for claim, accepted in zip(claims, answer, strict=True) if accepted}
            self._refused |= {claim.task_id for claim in claims}
            self._refused -= basis

    # -- the broker ----------------------------------------------------------------------------------------------

    def may_publish(self, node: Node, entry: str, task_id: str, headers: Mapping[str, str]) -> None:
        due = headers["leader_due_at"]
        known = self._ids.setdefault((entry, due), task_id)
        self.require(known == task_id, f"{entry} due at {due} has the ids {known} and {task_id}")
        life = node, node.identity
        if self._silent.get(life) and node.is_leader():
            self._world.witness["sent while the ledger was silent"] += 1
            if task_id not in self._basis[life]:
                self._unwritten[entry, datetime.fromisoformat(due)] = headers["leader_token"]
            self._basis[life].add(task_id)
        self.require(task_id in self._basis.get(life, ()), f"{node.identity} sends {entry} due at {due} unclaimed")
        trust = node.trust
        self.require(
            trust is not None and str(trust.term.fencing_token) == headers["leader_token"],
            f"{node.identity} sends {entry} due at {due} under {headers['leader_token']}, and trusts in {trust}",
        )

    def was_sent(self, node: Node, entry: str, task_id: str, headers: Mapping[str, str]) -> None:
        """The broker took a message."""
        witness = self._world.witness
        if task_id in self._sent(entry):
            witness["tick sent again"] += 1
            return
        self._sent(entry).add(task_id)
        self.last_sent_at[entry] = self._world.now
        witness["tick sent"] += 1
        if self._claimed_under.get(task_id, headers["leader_token"]) != headers["leader_token"]:
            witness["claimed and unsent tick sent by the next leader"] += 1
        due = datetime.fromisoformat(headers["leader_due_at"])
        if (node.clock.utcnow() - due).total_seconds() > 2 * self._world.entries[entry]:
            witness["missed ticks became one"] += 1
        if self._world.wall_clocks_are_right and not self._world.loses_data:
            self._check_rhythm(entry, due, headers["leader_token"])

    def _check_rhythm(self, entry: str, due: datetime, token: str) -> None:
        """A tick is due no sooner than a period after the one before: no tick comes twice under two names.

        Unless the one before was sent while the ledger was silent, by a leader that could not write it down in its
        time: the next one counts from what it finds there.
        """
        dues = self._dues.setdefault(entry, [])
        place = bisect.bisect(dues, due)
        for other in dues[max(0, place - 1) : place + 1]:
            apart = abs((due - other).total_seconds())
            if self._unwritten.get((entry, other), token) != token:
                self._world.witness["early after what was never written"] += 1
                continue
            self.require(apart >= self._world.entries[entry] - EPSILON, f"{entry} is sent for {other} and for {due}")
        dues.insert(place, due)

    # -- in the end ----------------------------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Return whether each tick that was claimed is known to be sent."""
        return all(claim.sent for claim in self._world.store.ledger._claims.values())

    def check_liveness(self, leader: Node, slack: float) -> None:
        """Every due tick was sent, alone or for all that were missed (L3); *slack* seconds ago at the latest."""
        world = self._world
        for entry, period in world.entries.items():
            claim = world.store.ledger._claims.get(entry)
            self.require(claim is not None, f"nobody knows of {entry}")
            late = (leader.clock.utcnow() - claim.claimed_at).total_seconds() - period
            # Celery's heap keeps the times that were right before a clock was set.
            excused = leader.clock.frozen or world.wall_clocks_step
            self.require(late <= slack or excused, "{} is due since {:.3f} s: {}", entry, late, claim)
            if world.wall_clocks_are_right and not world.loses_data:
                since = self.last_sent_at.get(entry, self._first_known_at[entry])
                self.require(
                    world.now - since <= period + slack, f"{entry} was last sent at {since:.3f}, or never: {claim}"
                )

    def _sent(self, entry: str) -> set[str]:
        return self._taken.setdefault(entry, set())
