"""The worker, put together: a pool of children, a connection, and between them intake, dispatch and settlement.

::

    broker ─▶ Intake ─▶ Dispatcher ─▶ child ─▶ Dispatcher ─▶ Settler ─▶ result store, follow-ups, broker
                 ▲ counts                           │ measured run times
               Supply ◀─────────────────────────────┘

It starts children and connection, works until something asks for the end, and ends in this order: no more messages, what was
not started goes back, what runs may finish, its results are stored and its deliveries settled, children leave, connection.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import Coroutine, Mapping
from typing import Final

import msgspec

from leveret.app.executed import ExecutedTask
from leveret.client.asynchronous import AsyncChannel
from leveret.errors import AppError, LeveretError, WorkerFailed
from leveret.pools.pool import Pool, StartProblem
from leveret.pools.process import ChildProcess, Exit
from leveret.worker.assembly import Parts, assemble
from leveret.worker.attempt import Attempt
from leveret.worker.banner import banner
from leveret.worker.config import WorkerConfig, default_concurrency, executor_of
from leveret.worker.dispatch import Dispatcher
from leveret.worker.intake import Intake
from leveret.worker.logs import set_up_logging
from leveret.worker.ready import AppFacts, StartFailed
from leveret.worker.spawn import ChildOptions, child_command
from leveret.worker.stop import StopRequest

__all__ = ["Worker", "run"]

logger = logging.getLogger("leveret.worker")

IMPORT_PATIENCE_S: Final = 5.0
CONSUMERS_STOP_TIMEOUT_S: Final = 2.0
SETTLE_TIMEOUT_S: Final = 5.0
CHILD_LEAVE_TIMEOUT_S: Final = 3.0


def run(config: WorkerConfig) -> int:
    """Run a worker until a signal ends it; return the exit code.

    Raises:
        AppError: the app cannot be imported.
        BrokerUnavailable: there is no broker to begin with.
        LeveretError: the worker cannot go on.

    """
    set_up_logging(config.loglevel)
    asyncio.run(_run(config))
    return 0


async def _run(config: WorkerConfig) -> None:
    await Worker(config).run()


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._stop = StopRequest()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._first_facts: asyncio.Future[AppFacts] = self._loop.create_future()
        self._dispatcher = Dispatcher(self)
        self._pool: Pool[ExecutedTask] = Pool(
            child_command(ChildOptions(config.app, executor_of(config.pool), config.loglevel)),
            size=config.concurrency or default_concurrency(),
            answers=msgspec.msgpack.Decoder(list[tuple[int, ExecutedTask]]),
            events=self,
        )
        self._numbers = itertools.count(1)
        self._maybe_parts: Parts | None = None
        self._intake: Intake | None = None
        self._is_ready = False
        self._ends_children = False
        self._has_told_of_failed_start = False

    async def run(self) -> None:
        """Start, work until something asks for the end, and end; raises what keeps the worker from going on."""
        self._stop.listen()
        self._loop.set_exception_handler(self._on_bug)
        try:
            await self._unless_stopped(self._start())
            await self._unless_stopped(self._fail())
        finally:
            try:
                if self._maybe_parts is not None:
                    await self._drain(self._maybe_parts)
            finally:
                await self._close()

    # ------------------------------------------------------------------------------------------ start

    async def _start(self) -> None:
        self._pool.start()
        facts = await self._await_facts()
        slots = self._config.concurrency or facts.concurrency or default_concurrency()
        self._pool.resize(slots)
        parts = assemble(facts, self._config, slots=slots, pace=self._dispatcher.pace, events=self)
        self._maybe_parts = parts
        await parts.connection.start()
        gc.freeze()  # what the start has made lives as long as the process: no collection needs to look at it again
        self._is_ready = True
        assert parts.connection.url is not None
        for line in banner(
            hostname=self._config.hostname,
            app=f"{facts.app_name} ({self._config.app})",
            broker=parts.connection.url.safe,
            results=parts.results,
            queues=[queue.name for queue in parts.queues],
            pool=self._config.pool,
            concurrency=slots,
            tasks=facts.tasks,
        ):
            logger.info("%s", line)

    async def _await_facts(self) -> AppFacts:
        """Wait until a child has imported the app, which may take for ever: a call at its module's end waits for a worker."""
        done, _ = await asyncio.wait([self._first_facts], timeout=IMPORT_PATIENCE_S)
        if not done:
            logger.warning(
                "--app=%s is still being imported after %.0f s: does a module of it wait for something, as for a task's result?",
                self._config.app,
                IMPORT_PATIENCE_S,
            )
        return await self._first_facts

    async def _fail(self) -> None:
        await self._failure

    async def _unless_stopped(self, action: Coroutine[None, None, None]) -> None:
        """Await something, but no longer than until a stop is asked for."""
        if self._stop.warm.is_set():
            action.close()
            return
        acting = self._loop.create_task(action)
        stopping = self._loop.create_task(self._stop.warm.wait())
        await asyncio.wait((acting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if acting.done():
            await acting
        else:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)

    # ------------------------------------------------------------------------------------------ the end

    async def _drain(self, parts: Parts) -> None:
        """Take no more, give back what has not started, and let what runs finish, as long as is allowed."""
        self._stop.warm.set()
        if self._intake is not None:
            try:
                async with asyncio.timeout(CONSUMERS_STOP_TIMEOUT_S):
                    await self._intake.stop()
            except (LeveretError, TimeoutError) as error:
                logger.debug("consumers not cancelled: %s", error)  # closing the connection ends them, too
        self._dispatcher.drain()
        if (running := self._dispatcher.held) and not self._stop.cold.is_set():
            logger.info("waiting up to %.0f s for %d running task(s)", parts.facts.shutdown_timeout_s, running)
            await self._until_cold(self._dispatcher.emptied(), parts.facts.shutdown_timeout_s)
        if left := self._dispatcher.held:
            logger.warning("ending %d task(s) that still run; they go back to their queues", left)
            self._ends_children = True
            self._pool.kill()
            await self._dispatcher.emptied()
        await parts.settler.drain(SETTLE_TIMEOUT_S)

    async def _until_cold(self, action: Coroutine[None, None, None], timeout_s: float) -> None:
        acting = self._loop.create_task(action)
        cold = self._loop.create_task(self._stop.cold.wait())
        await asyncio.wait((acting, cold), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (acting, cold):
            task.cancel()

    async def _close(self) -> None:
        self._ends_children = True
        await self._pool.stop(0.0 if self._stop.cold.is_set() else CHILD_LEAVE_TIMEOUT_S)
        if self._maybe_parts is not None:
            await self._maybe_parts.sink.close()
            await self._maybe_parts.connection.stop()
        if self._is_ready:
            logger.info("%s has stopped", self._config.hostname)

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        """End a worker in which something went wrong that nobody foresaw: a service manager starts a sound one."""
        error = context.get("exception")
        if "future" in context and not isinstance(context["future"], asyncio.Task):
            logger.error("an error nobody waited for: %s", error)  # of a call that was given up, mostly
            return
        logger.critical("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
        self._end(WorkerFailed(f"an error in the worker itself: {context.get('message')} ({error})"))

    def _end(self, error: LeveretError) -> None:
        for future in (self._first_facts, self._failure):
            if not future.done():
                future.set_exception(error)
                future.exception()  # it is raised where it is awaited; if nothing awaits it any more, that is no second error

    # ------------------------------------------------------------------------------------------ from the pool

    def child_ready(self, child: ChildProcess[ExecutedTask], payload: bytes) -> None:
        """Learn of the app from the first, and hand tasks to each."""
        if not self._first_facts.done():
            self._first_facts.set_result(msgspec.msgpack.decode(payload, type=AppFacts))
        logger.debug("child %d is ready", child.pid)
        self._dispatcher.child_ready(child)

    def child_answered(self, child: ChildProcess[ExecutedTask], answers: list[tuple[int, ExecutedTask]]) -> None:
        """Pass it on."""
        self._dispatcher.child_answered(child, answers)

    def child_recalled(self, child: ChildProcess[ExecutedTask], numbers: list[int]) -> None:
        """Pass it on."""
        self._dispatcher.child_recalled(child, numbers)

    def child_lost(self, child: ChildProcess[ExecutedTask], exit_: Exit, job_running: int) -> None:
        """Pass it on, and say so unless it is our own doing."""
        if exit_.returncode and not self._ends_children:
            logger.error("child %d died: %s", exit_.pid, exit_)
        self._dispatcher.child_lost(child, exit_, job_running)

    def child_not_started(self, problem: StartProblem, *, retry_in_s: float | None) -> None:
        """Say once why, and end the worker when no child can start."""
        error = _start_error(problem)
        if retry_in_s is None:
            self._end(error)
        elif not self._has_told_of_failed_start and self._first_facts.done():
            self._has_told_of_failed_start = True
            logger.error("a child cannot start and will be tried again, less and less often: %s", error)

    # ------------------------------------------------------------------------------------------ from the dispatcher

    def attempts_handed(self, attempts: list[Attempt]) -> None:
        """Pass it on."""
        self._parts.settler.handed(attempts)

    def attempts_reported(self, reports: list[tuple[Attempt, ExecutedTask]]) -> None:
        """Settle what has ended, and see whether the measured times ask for more or fewer messages."""
        self._parts.settler.reported(reports)
        self._parts.supply.look(self._intake)

    def attempts_unwanted(self, attempts: list[Attempt]) -> None:
        """Give back what was not started."""
        self._parts.settler.give_back(attempts)

    def attempt_crashed(self, attempt: Attempt, exit_: Exit) -> None:
        """Count the crash, unless it was our own doing."""
        if self._ends_children:
            self._parts.settler.give_back([attempt])
        else:
            self._parts.settler.crashed(attempt, exit_)

    # ------------------------------------------------------------------------------------------ from the connection

    async def connection_opened(self, channel: AsyncChannel, generation: int) -> None:
        """Consume, unless the end has begun."""
        if self._stop.warm.is_set():
            return
        parts = self._parts
        intake = Intake(
            channel,
            generation=generation,
            queues=parts.queues,
            next_number=self._numbers.__next__,
            on_attempt=self._dispatcher.add,
        )
        await intake.start(parts.supply.counts())
        self._intake = intake

    def connection_lost(self, generation: int) -> None:
        """Forget what it delivered, but for what runs."""
        self._intake = None
        self._dispatcher.forget(generation)

    @property
    def _parts(self) -> Parts:
        """The parts; nothing that needs them happens before they are there."""
        assert self._maybe_parts is not None
        return self._maybe_parts


def _start_error(problem: StartProblem) -> LeveretError:
    """Return what to tell the user of a child that could not start."""
    if problem.exit is None:
        reason = (problem.payload or b"").decode(errors="replace")
        return WorkerFailed(f"no child process could be started: {reason}")
    if problem.was_ready:
        return WorkerFailed(f"a child process ended as soon as it was ready: {problem.exit}")
    if problem.payload is None:
        return WorkerFailed(f"a child process ended while it imported the app: {problem.exit}; its own output is above")
    failed = msgspec.msgpack.decode(problem.payload, type=StartFailed)
    return AppError(failed.message, traceback=failed.traceback)
