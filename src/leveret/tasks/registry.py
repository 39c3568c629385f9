"""The tasks of one app, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from leveret.errors import DuplicateTask, NotRegistered

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping of task name to task that only grows, and never forgets one for another."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._tasks: dict[str, T] = {}
        self._places: dict[str, str] = {}

    def add(self, name: str, task: T, *, place: str) -> None:
        """Add a task; ``place`` is where its function stands, as ``file:line``.

        Raises:
            DuplicateTask: the name is taken.

        """
        if name in self._tasks:
            raise DuplicateTask(
                f"app {self._app_name!r} has a task named {name!r} already, from {self._places[name]}; "
                f"the one at {place} needs another: @app.task(name=...)"
            )
        self._tasks[name] = task
        self._places[name] = place

    def find(self, name: str) -> T:
        """Return the task of that name.

        Raises:
            NotRegistered: there is none; the message names the nearest.

        """
        task = self._tasks.get(name)
        if task is None:
            near = difflib.get_close_matches(name, self._tasks, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "is the module that defines it imported where the app is?"
            raise NotRegistered(f"app {self._app_name!r} has no task named {name!r}; {hint}")
        return task

    def __getitem__(self, name: str) -> T:
        """Return the task of that name, as a mapping does; ``find`` has the better error."""
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order they were added."""
        return iter(self._tasks)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._tasks)
