"""Tasks that may start, in the order in which they should: by tenant, by kind and class, by key.

A tenant's groups are tasks of one kind and priority class; a group's lanes are tasks of one key. Tasks stand
in their lane by age; a lane stands in its group under its oldest task; a group stands in its tenant's order
under the rank of that task: its age, to which each class below the highest adds the ageing time. The rank of
a task never changes, so nothing is ever sorted again, and a task is overtaken only by what was submitted
within the ageing times that lie between the classes. A lane that a limit on its key blocks stands nowhere
until it may go on.

Everything here is derived from tasks, limits, buckets and the clock."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from coterie.core.kinds import kind
from coterie.core.limits import Gauges, Profile
from coterie.core.nouns import Priority, Task, TaskId
from coterie.core.ordered import Ordered

ORDER_BITS = 44
STRICT_MS = 1 << 50  # between classes when there is no ageing: longer than any wait
NOWHERE = -1


def age_key(task: Task) -> int:
    """Smaller is older. A task ages from its submission, or from the start time that was asked for."""
    return max(task.created_at_ms, task.not_before_ms) << ORDER_BITS | task.order


def class_of(task: Task) -> int:
    return min(max(task.priority, Priority.LOW), Priority.CRITICAL)


def profile_of(task: Task) -> Profile:
    return Profile(task.tenant, task.agent, task.type, task.key)


class Lane:
    """Queued tasks of one group and one key."""

    __slots__ = ("filed", "group", "profile", "serial", "tasks", "until_ms")

    def __init__(self, group: Group, profile: Profile, serial: int) -> None:
        self.group, self.profile, self.serial = group, profile, serial
        self.tasks: Ordered[TaskId] = Ordered()  # by age_key
        self.filed = NOWHERE  # the key under which it stands in its group
        self.until_ms = 0  # when a rate limit on its key lets it go on


class Group:
    """Queued tasks of one tenant, class, agent and kind."""

    __slots__ = ("filed", "identity", "lanes", "priority", "profile", "ready")

    def __init__(self, identity: Hashable, profile: Profile, priority: int) -> None:
        self.identity, self.profile, self.priority = identity, profile, priority
        self.lanes: dict[str, Lane] = {}
        self.ready: Ordered[Lane] = Ordered()  # by the age_key of their oldest task
        self.filed = NOWHERE  # the rank under which it stands in its tenant's order


class WorkQueue:
    """Look-ups for the plan. `advance` says what time it is, before anything else is done at that time."""

    def __init__(self, gauges: Gauges) -> None:
        self.tenants: dict[str, Ordered[Group]] = {}  # by rank; never empty
        self._gauges = gauges
        self._groups: dict[Hashable, Group] = {}
        self._keyed: dict[str, list[Lane]] = {}
        self._wakes: Ordered[Lane] = Ordered()  # lanes that a rate limit blocks, by when it will not
        self._serial = 0
        self._now_ms = 0
        self._class_ms = STRICT_MS
        self.size = 0

    def __len__(self) -> int:
        return self.size

    # --- tasks

    def add(self, task: Task) -> None:
        lane = self._lane(task)
        lane.tasks.add(age_key(task), task.task_id)
        self.size += 1
        self._refile(lane)

    def remove(self, task: Task) -> None:
        lane = self._groups[_identity(task)].lanes[task.key]
        lane.tasks.remove(age_key(task))
        self.size -= 1
        self._refile(lane)
        if not lane.tasks:
            self._drop(lane)

    def _lane(self, task: Task) -> Lane:
        identity = _identity(task)
        group = self._groups.get(identity)
        if group is None:
            profile = profile_of(task)._replace(key="")
            group = self._groups[identity] = Group(identity, profile, class_of(task))
        lane = group.lanes.get(task.key)
        if lane is None:
            self._serial += 1
            lane = group.lanes[task.key] = Lane(group, profile_of(task), self._serial)
            if task.key:
                self._keyed.setdefault(task.key, []).append(lane)
        return lane

    def _drop(self, lane: Lane) -> None:
        group, key = lane.group, lane.profile.key
        del group.lanes[key]
        if key:
            self._keyed[key].remove(lane)
            if not self._keyed[key]:
                del self._keyed[key]
        if not group.lanes:
            del self._groups[group.identity]

    # --- where lanes and groups stand

    def _refile(self, lane: Lane) -> None:
        blocked = bool(lane.tasks) and bool(lane.profile.key) and self._blocked(lane)
        if not lane.tasks:
            self._wake_at(lane, 0)
        filed = NOWHERE if blocked else lane.tasks.first_key(NOWHERE)
        if filed == lane.filed:
            return
        ready = lane.group.ready
        if lane.filed != NOWHERE:
            ready.remove(lane.filed)
        lane.filed = filed
        if filed != NOWHERE:
            ready.add(filed, lane)
        self._refile_group(lane.group)

    def _blocked(self, lane: Lane) -> bool:
        blocker = self._gauges.key_blocker(lane.profile, self._now_ms)
        self._wake_at(lane, blocker.until_ms if blocker is not None else 0)
        return blocker is not None

    def _wake_at(self, lane: Lane, until_ms: int) -> None:
        if until_ms == lane.until_ms:
            return
        if lane.until_ms:
            self._wakes.remove(lane.until_ms << ORDER_BITS | lane.serial)
        lane.until_ms = until_ms
        if until_ms:
            self._wakes.add(until_ms << ORDER_BITS | lane.serial, lane)

    def _refile_group(self, group: Group) -> None:
        first = group.ready.first_key(NOWHERE)
        filed = NOWHERE if first == NOWHERE else first + self.penalty(group)
        if filed == group.filed:
            return
        tenant = group.profile.tenant
        order = self.tenants.get(tenant) or self.tenants.setdefault(tenant, Ordered())
        if group.filed != NOWHERE:
            order.remove(group.filed)
        group.filed = filed
        if filed != NOWHERE:
            order.add(filed, group)
        if not order:
            del self.tenants[tenant]

    def penalty(self, group: Group) -> int:
        """What the class of a group adds to the age keys of its tasks."""
        return (Priority.CRITICAL - group.priority) * self._class_ms << ORDER_BITS

    # --- what moves them

    def advance(self, now_ms: int) -> None:
        """The clock has moved: rate limits let go."""
        self._now_ms = now_ms
        while self._wakes.first_key(now_ms + 1 << ORDER_BITS) < now_ms + 1 << ORDER_BITS:
            entry = self._wakes.first()
            assert entry is not None
            self._refile(entry[1])

    def recheck(self, key: str) -> None:
        """What runs under limits on that key, or their buckets, changed."""
        for lane in self._keyed.get(key, ()):
            self._refile(lane)

    def recheck_all(self) -> None:
        """The limits changed."""
        for key in list(self._keyed):
            self.recheck(key)

    def set_ageing(self, ageing_ms: int) -> None:
        """Waiting that long is worth one class; 0: nothing is."""
        class_ms = ageing_ms if ageing_ms > 0 else STRICT_MS
        if class_ms == self._class_ms:
            return
        filed = [group for group in self._groups.values() if group.filed != NOWHERE]
        self._class_ms = class_ms
        for group in filed:
            self.tenants[group.profile.tenant].remove(group.filed)
        for group in filed:
            group.filed = group.ready.first_key(NOWHERE) + self.penalty(group)
            self.tenants[group.profile.tenant].add(group.filed, group)

    # --- questions

    def wakes_at_ms(self) -> int:
        """When a rate limit on a key next lets go; 0: none does."""
        return self._wakes.first_key(0) >> ORDER_BITS

    def groups(self) -> Iterator[Group]:
        """Groups with tasks that no limit on their key blocks, a tenant's in the order of their turns."""
        for order in self.tenants.values():
            yield from order.values()

    @property
    def group_count(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    def holds(self, group: Group) -> bool:
        """The group has tasks in the queue."""
        return self._groups.get(group.identity) is group

    def is_first(self, task: Task) -> bool:
        """Whether no older one of its kind, class and tenant may start now, nor one of its key waits."""
        group = self._groups.get(_identity(task))
        lane = group.lanes.get(task.key) if group is not None else None
        if group is None or lane is None:
            return True
        age = age_key(task)
        return lane.tasks.first_key(age) >= age and group.ready.first_key(age) >= age

    def rank(self, task: Task) -> int:
        """The rank of a queued task among its tenant's; of one that has left the queue, what it was there."""
        identity = _identity(task)
        group = self._groups.get(identity) or Group(identity, profile_of(task), class_of(task))
        return age_key(task) + self.penalty(group)

    def image(self) -> object:
        """Everything that counts, to compare with one built anew."""
        orders = {
            tenant: [
                (rank, group.identity, [(key, lane.profile.key) for key, lane in group.ready.items()])
                for rank, group in order.items()
            ]
            for tenant, order in self.tenants.items()
        }
        lanes = {
            (group.identity, key): (list(lane.tasks.items()), lane.filed, lane.until_ms)
            for group in self._groups.values()
            for key, lane in group.lanes.items()
        }
        return orders, lanes, {key: len(lanes) for key, lanes in self._keyed.items()}, self.size


def _identity(task: Task) -> Hashable:
    return task.tenant, class_of(task), task.agent, kind(task)
