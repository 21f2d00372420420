"""A task for programs without asyncio, and the thread in which the client works for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from coterie.client import job as asynchronous_job
from coterie.client.errors import ClusterClosed
from coterie.client.models import Event, TaskInfo
from coterie.client.routes import Route
from coterie.client.units import Duration

Result = TypeVar("Result")
Item = TypeVar("Item")


class LoopThread:
    """An event loop in a thread, to which other threads hand coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # Reentrant: to hand something in may let the collector end an iterator, which hands in its own end.
        self._handing_in = threading.RLock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="coterie-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine run on the loop; an interrupt here cancels it there. Raises ClusterClosed
        when the loop has ended, or ends meanwhile."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a callback of the sync client must not call the Cluster: it would wait for itself"
            )
        with self._handing_in:
            if self._closed:
                work.close()
                raise ClusterClosed("this Cluster is closed: use it inside `with Cluster(...) as c:`")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            if not self._closed:
                raise
            raise ClusterClosed("the Cluster was closed during the call") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Ends the loop and its thread; whoever waits for a result is told ClusterClosed."""
        self._refuse()
        with contextlib.suppress(RuntimeError):  # It has ended by itself.
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _refuse(self) -> None:
        """Whatever was handed in before is on the loop by now, ahead of what comes after this call."""
        with self._handing_in:
            self._closed = True

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._refuse()
            try:
                self._loop.run_until_complete(_end_tasks())
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            finally:
                asyncio.set_event_loop(None)
                self._loop.close()


async def _end_tasks() -> None:
    """Cancels all other tasks of the loop until none is left: threads wait for their ends."""
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Job:
    """A task in the cluster; the blocking twin of `coterie.client.Job`."""

    def __init__(self, job: asynchronous_job.Job, thread: LoopThread) -> None:
        self._job = job
        self._thread = thread
        self.id = job.id
        self.name = job.name
        self.request_id = job.request_id

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def task(self) -> TaskInfo | None:
        """The task as last seen by this handle, without a call."""
        return self._job.task

    def get(
        self,
        *,
        include_steps: bool = False,
        include_payload: bool = False,
        stale: bool = False,
        timeout: Duration | None = None,
    ) -> TaskInfo:
        """See `coterie.client.Job.get`."""
        work = self._job.get(
            include_steps=include_steps, include_payload=include_payload, stale=stale, timeout=timeout
        )
        return self._thread.run(work)

    def wait(self, *, failover: bool = True, timeout: Duration | None = None) -> Any:
        """See `coterie.client.Job.wait`."""
        return self._thread.run(self._job.wait(failover=failover, timeout=timeout))

    def result(self) -> Any:
        """See `coterie.client.Job.result`."""
        return self._thread.run(self._job.result())

    def watch(self, *, resume_token: str = "") -> Iterator[Event]:
        """See `coterie.client.Job.watch`."""
        return iterate(self._thread, self._job.watch(resume_token=resume_token))

    def stream(self, *, tokens: bool = True, resume_token: str = "") -> Iterator[Event]:
        """See `coterie.client.Job.stream`."""
        return iterate(self._thread, self._job.stream(tokens=tokens, resume_token=resume_token))

    def explain(self, *, strategy: str = "") -> Route:
        """See `coterie.client.Job.explain`."""
        return self._thread.run(self._job.explain(strategy=strategy))

    def cancel(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.cancel`."""
        return self._thread.run(self._job.cancel(reason, request_id=request_id))

    def pause(self, reason: str = "", *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.pause`."""
        return self._thread.run(self._job.pause(reason, request_id=request_id))

    def resume(self, *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.resume`."""
        return self._thread.run(self._job.resume(request_id=request_id))

    def signal(self, signal: str, payload: Any = None, *, request_id: str = "") -> TaskInfo:
        """See `coterie.client.Job.signal`."""
        return self._thread.run(self._job.signal(signal, payload, request_id=request_id))

    def retry(self, *, discard_steps: bool = False, request_id: str = "") -> Job:
        """See `coterie.client.Job.retry`."""
        job = self._thread.run(self._job.retry(discard_steps=discard_steps, request_id=request_id))
        return Job(job, self._thread)


def iterate(thread: LoopThread, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
    async def following() -> tuple[bool, Item | None]:
        async for item in items:
            return True, item
        return False, None

    async def close() -> None:
        await items.aclose()

    try:
        while True:
            more, item = thread.run(following())
            if not more:
                return
            assert item is not None
            yield item
    finally:
        # The loop may have ended first, or may itself be collecting this generator: it then closes `items`.
        with contextlib.suppress(ClusterClosed, RuntimeError):
            thread.run(close())
