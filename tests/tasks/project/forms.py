"""Every form in which a guarded task can be declared. Each task writes its name down when its code runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from celery import Celery, Task, shared_task
from pydantic import BaseModel

from celery_leader import leader_only, once_per_tick


class Model(BaseModel):
    """An argument of the task that pydantic declares."""

    number: int


#: Whom shared tasks tell that they ran: they belong to all apps.
_told: dict[str, Callable[[str], Any]] = {}


@leader_only
def shared() -> Any:
    """Run in any app."""
    return _told["shared"]("shared")


class Mixin:
    """Brings a run of its own, before that of a guarded class."""

    def run(self, *args: Any) -> Any:
        """Note that it ran."""
        return self.ran(self.name)  # type: ignore[attr-defined]


def functions(app: Celery, ran: Callable[[str], Any]) -> None:
    """Declare tasks that are functions."""

    @app.task(name="function", shared=False)
    @leader_only
    def function() -> Any:
        return ran("function")

    @app.task(name="at_once", shared=False, lazy=False)
    @leader_only
    def at_once() -> Any:
        return ran("at_once")

    @app.task(name="bound", shared=False, bind=True)
    @leader_only
    def bound(self: Task) -> Any:
        return ran(self.name)

    _told["shared"] = ran
    shared_task(name="shared")(shared)

    @app.task(name="retrying", shared=False, autoretry_for=(Exception,))
    @leader_only
    def retrying() -> Any:
        return ran("retrying")

    @app.task(name="modelled", shared=False, pydantic=True)
    @leader_only
    def modelled(model: Model | None = None) -> Any:
        return ran("modelled")

    @app.task(name="once_above", shared=False)
    @once_per_tick
    @leader_only
    def once_above() -> Any:
        return ran("once_above")

    @app.task(name="once_below", shared=False)
    @leader_only
    @once_per_tick
    def once_below() -> Any:
        return ran("once_below")

    app.task(name="partly", shared=False)(leader_only(functools.partial(ran, "partly")))
    app.task(name="option_of_a_class", shared=False, cls=Task)(leader_only(functools.partial(ran, "option_of_a_class")))

    class Holder:
        @staticmethod
        @leader_only
        def inside() -> Any:
            return ran("static_inside")

        @leader_only
        @staticmethod
        def outside() -> Any:
            return ran("static_outside")

    app.task(name="static_inside", shared=False)(Holder.inside)
    app.task(name="static_outside", shared=False)(Holder.outside)


def bases(app: Celery, ran: Callable[[str], Any]) -> None:
    """Declare functions whose tasks have a class of their own."""

    class Calling(Task):
        """As applications write it that need a context: it lays a direct call over the message's."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    class Running(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

    @leader_only
    class Guarding(Task):
        """Guards all that it is the base of."""

    for base in (Calling, Running):
        name = f"base_{base.__name__.lower()}"
        app.task(name=name, shared=False, base=base)(leader_only(functools.partial(ran, name)))

    @app.task(name="base_guarding", shared=False, base=Guarding)
    def base_guarding() -> Any:
        return ran("base_guarding")

    @app.task(name="base_guarding_bound", shared=False, base=Guarding, bind=True)
    def base_guarding_bound(self: Task) -> Any:
        return ran(self.name)


def classes(app: Celery, ran: Callable[[str], Any]) -> None:
    """Declare tasks that are classes, registered by themselves or by an object."""

    class Base(Task):
        def run(self) -> Any:
            return ran(self.name)

    @leader_only
    class Plain(Task):
        name = "class_plain"

        def run(self) -> Any:
            return ran(self.name)

    @leader_only
    class Inherited(Base):
        name = "class_inherited"

    class Method(Task):
        name = "class_method"

        @leader_only
        def run(self) -> Any:
            return ran(self.name)

    @leader_only
    class Static(Task):
        name = "class_static"

        @staticmethod
        def run() -> Any:
            return ran("class_static")

    @leader_only
    class Retrying(Base):
        name = "class_retrying"
        autoretry_for = (Exception,)

    @leader_only
    @once_per_tick
    class OnceBelow(Base):
        name = "class_once_below"

    @once_per_tick
    @leader_only
    class OnceAbove(Base):
        name = "class_once_above"

    for cls in (Plain, Inherited, Method, Static):
        app.register_task(cls())
    for cls in (Retrying, OnceBelow, OnceAbove):
        app.register_task(cls)
    subclasses(app, ran, Plain)
    callables(app, ran, Plain)


def subclasses(app: Celery, ran: Callable[[str], Any], plain: type[Task]) -> None:
    """Declare subclasses of *plain*, which is guarded."""

    class Sub(plain):
        name = "class_sub"

    class Overriding(plain):
        name = "class_sub_overriding"

        def run(self) -> Any:
            return ran(self.name)

    class Super(plain):
        name = "class_sub_super"

        def run(self) -> Any:
            return super().run()

    class Mixed(Mixin, plain):
        name = "class_sub_mixed"

    Mixed.ran = staticmethod(ran)

    @leader_only
    class Again(plain):
        name = "class_sub_again"

    for cls in (Sub, Overriding, Super, Mixed, Again):
        app.register_task(cls())


def callables(app: Celery, ran: Callable[[str], Any], plain: type[Task]) -> None:
    """Declare classes with a ``__call__`` of their own, which workers call instead of ``run``."""

    @leader_only
    class Calling(Task):
        name = "class_calling"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        def run(self) -> Any:
            return ran(self.name)

    @leader_only
    class CallingAlone(Task):
        """Never calls run."""

        name = "class_calling_alone"

        def __call__(self) -> Any:
            return ran(self.name)

        def run(self) -> None: ...

    class SubCalling(plain):
        name = "class_sub_calling"

        def __call__(self) -> Any:
            return ran(self.name)

    for cls in (Calling, CallingAlone, SubCalling):
        app.register_task(cls())


def declare(app: Celery, ran: Callable[[str], Any]) -> None:
    """Declare all forms, but those that are found by autodiscovery."""
    functions(app, ran)
    bases(app, ran)
    classes(app, ran)


#: The name of each.
FORMS = [
    "function", "at_once", "bound", "shared", "retrying", "modelled", "once_above", "once_below", "partly",
    "option_of_a_class", "static_inside", "static_outside", "base_calling", "base_running", "base_guarding",
    "base_guarding_bound", "class_plain", "class_inherited", "class_method", "class_static", "class_sub",
    "class_sub_overriding", "class_sub_super", "class_sub_mixed", "class_sub_again", "class_calling",
    "class_calling_alone", "class_sub_calling", "class_retrying", "class_once_below", "class_once_above",
]  # fmt: skip
