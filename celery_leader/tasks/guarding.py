"""What both guards share: how they get hold of a task, however it is declared, and of the message that started it."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from celery import Task
from celery._state import get_current_task
from celery.exceptions import Ignore, Reject
from celery.local import Proxy

from celery_leader.exceptions import ConfigurationError


class GoBack(Reject, Ignore):
    """Returns a message to its queue. It is an Ignore as well, because ``autoretry_for`` must let it pass."""


class TurnedAway(Ignore):
    """Ends a delivery that did not run its task."""


class Guard(ABC):
    """Stands between a message and the code of a task. A subclass holds the options of its decorator."""

    #: The decorator's name.
    decorator: ClassVar[str]
    #: An option of the decorator, as a user writes it.
    example: ClassVar[str]

    @property
    def mark(self) -> str:
        """The attribute that names the guard of a function, and of a delivery that the guard has admitted."""
        return f"__{self.decorator}__"

    @abstractmethod
    def admit(self, task: Task, request: Any, call: Callable[[], Any]) -> Any:
        """Run *task* by *call*, or end the delivery *request* by an exception. Called once a delivery."""

    def called_directly(self, task: Task, call: Callable[[], Any]) -> Any:
        """Run *task*, which was called like a function, or eagerly."""
        return call()


def guarded(target: Any, guard: Guard) -> Any:
    """Return *target*, a function or a task class, under *guard*; for None, the decorator that does this.

    Raises:
        ConfigurationError: *target* is something else, or something that can't be guarded.
    """
    name = guard.decorator
    if target is None:
        return functools.partial(guarded, guard=guard)
    if isinstance(target, (Task, Proxy)):
        raise ConfigurationError(f"@{name} stands above @app.task here; put it below, next to the function.")
    if isinstance(target, type):
        return _guarded_class(target, guard)
    function = _unbound(target)
    if not callable(function):
        raise ConfigurationError(f"@{name} got {target!r}; options are given by name, as in @{name}({guard.example}).")
    if hasattr(function, guard.mark):
        raise ConfigurationError(f"@{name} stands twice on {function.__qualname__}; only one of them could count.")
    return _guarded_function(target, guard)


def guard_on(task: Any, mark: str) -> Any:
    """Return the guard that the attribute *mark* of *task* names, None for a task without one."""
    return getattr(getattr(task, "run", None), mark, None)


def was_delivered(request: Any) -> bool:
    """Return whether a message started *request*; an eager or a direct call did otherwise.

    Only the properties tell: Celery gives them to each message, and to no other call. A message can set every other
    attribute of its request, "is_eager" too, but it can't remove its properties.
    """
    return "properties" in vars(request)


def _guarded_function(target: Any, guard: Guard) -> Any:
    """Return *target*, a function, class method or static method, under *guard*."""
    function = _unbound(target)
    if function is not target:
        return type(target)(_guarded_function(function, guard))
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            f"@{guard.decorator} can't guard {function.__qualname__}, which is a coroutine function: its code would "
            "run after the guard has ended. Write a plain function that runs it (asyncio.run), and guard that."
        )

    @functools.wraps(_with_name(function, guard))
    def run(*args: Any, **kwargs: Any) -> Any:
        call = functools.partial(function, *args, **kwargs)
        task = args[0] if args and isinstance(args[0], Task) else get_current_task()
        if guard_on(task, guard.mark) is not guard:  # called by another task, or by a subclass with a guard of its own
            return call()
        request = task.request
        if not was_delivered(request):
            return guard.called_directly(task, call)
        if vars(request).get(guard.mark) is guard:  # the task was admitted, and now calls itself or its base class
            return call()
        setattr(request, guard.mark, guard)
        return guard.admit(task, request, call)

    setattr(run, guard.mark, guard)
    # Celery checks calls against the signature, and asks for it in a way that does not look through wrappers.
    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # functions take any attribute
    return run


def _unbound(target: Any) -> Any:
    return target.__func__ if isinstance(target, (staticmethod, classmethod)) else target


def _with_name(function: Any, guard: Guard) -> Any:
    """Return *function*, or what it is a partial of: a task is named after a function, and a partial has no name."""
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__name__"):
        raise ConfigurationError(f"@{guard.decorator} can't guard {function!r}: it has no name. Call it in a function.")
    return function


def _guarded_class(cls: Any, guard: Guard) -> Any:
    """Guard what a worker calls of a task class, and of each subclass that defines its own."""
    if not issubclass(cls, Task):
        raise ConfigurationError(
            f"@{guard.decorator} guards functions and task classes; {cls.__qualname__} is neither."
        )
    inherited = vars(cls).get("__init_subclass__")

    def guard_subclass(subclass: Any, /, **options: Any) -> None:
        if inherited:
            inherited.__func__(subclass, **options)
        else:
            super(cls, subclass).__init_subclass__(**options)
        for name in _called_by_workers(subclass):
            if getattr(getattr(subclass, name), guard.mark, None) is None:
                _guard_method(subclass, name, guard)

    for name in _called_by_workers(cls):
        _guard_method(cls, name, guard)
    cls.__init_subclass__ = classmethod(guard_subclass)
    return cls


def _called_by_workers(cls: Any) -> list[str]:
    """Return the methods of *cls* that a worker calls: a ``__call__`` of its own need not call ``run``."""
    return ["run"] if cls.__call__ is Task.__call__ else ["run", "__call__"]


def _guard_method(cls: type, name: str, guard: Guard) -> None:
    setattr(cls, name, _guarded_function(inspect.getattr_static(cls, name), guard))
