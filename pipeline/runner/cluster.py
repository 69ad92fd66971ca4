"""The same parts on Dask workers: a local cluster of processes, or a cluster of the user's.

The only module that knows Dask. Measured reasons for its shape (distributed 2026.8): annotations
for resources are ignored by collections, so parts go through `submit`; a resource that no worker
offers leaves a task pending for ever, so it is looked for first; `retries` does not cover a dead
worker, and Dask by itself tries such a task on three more, so each part is bound to one worker and
attempts are counted here; LocalCluster listens on every interface unless told not to.
"""

import contextlib
import gc
import ipaddress
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Future, LocalCluster, get_worker, wait
from distributed.client import ClosedClientError

from pipeline.config import Runner
from pipeline.errors import ResourceUnavailable, UnmemorizeError
from pipeline.runner.part import Context, Part, Stage
from pipeline.runner.sharing import await_seen
from pipeline.runner.work import Done, Result, failure, is_fatal, run_part

_POLL_S = 0.5
_CONNECT_S = 20.0
_RESTART_S = 60.0


@dataclass(frozen=True)
class _Flight:
    part: Part
    future: Future
    worker: str
    started: float


class ClusterExecutor:
    """Runs parts on workers, each on one that is named: a death costs that part one attempt."""

    def __init__(self, settings: Runner) -> None:
        self._settings = settings
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        self._attempts: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "ClusterExecutor":
        if self._settings.scheduler is None:
            with _interrupts_held_back():
                self._cluster = _local_cluster(self._settings)
            address = self._cluster.scheduler_address
        else:
            address = self._settings.scheduler
            _warn_if_open(address)
        self._client = _connect(address)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def run(
        self, stage: Stage, parts: Sequence[Part], context: Context, stopping: Callable[[], bool]
    ) -> Iterator[Result]:
        """Run `parts`; see Executor.

        Raises ResourceUnavailable where no worker offers what they need, or the scheduler is gone.
        """
        try:
            yield from self._run(stage, list(reversed(parts)), context, stopping)
        except (CancelledError, ClosedClientError, OSError) as error:
            raise ResourceUnavailable(
                f"{self._settings.scheduler or 'local cluster'}: the Dask scheduler is gone; "
                "start it and run again"
            ) from error

    def _run(
        self, stage: Stage, waiting: list[Part], context: Context, stopping: Callable[[], bool]
    ) -> Iterator[Result]:
        resources = required_resources(stage, context)
        if waiting:
            self._require_worker(stage, resources)
        flights: list[_Flight] = []
        while waiting or flights:
            free = self._offering(resources) - {flight.worker for flight in flights}
            while waiting and free and not stopping():
                flights.append(self._submit(stage, waiting.pop(), context, resources, free.pop()))
            if not flights and stopping():
                return
            if not flights:
                self._require_worker(stage, resources, patience_s=_RESTART_S)
            for flight in self._landed(flights):
                flights.remove(flight)
                result = self._collect(stage, flight, context)
                if result is None:
                    waiting.append(flight.part)
                else:
                    yield result

    def _submit(
        self,
        stage: Stage,
        part: Part,
        context: Context,
        resources: Mapping[str, float],
        worker: str,
    ) -> _Flight:
        identity = (stage.name, part.name)
        self._attempts[identity] = self._attempts.get(identity, 0) + 1
        future = self._require_client().submit(
            _run_shared,
            stage,
            part,
            context,
            key=f"{stage.name}-{part.name}-{self._attempts[identity]}-{time.monotonic_ns()}",
            resources=dict(resources) or None,
            workers=[worker],  # so Dask runs it nowhere else when the worker dies
            pure=False,
            retries=0,
        )
        return _Flight(part, future, worker, time.monotonic())

    def _landed(self, flights: Sequence[_Flight]) -> list[_Flight]:
        """The flights that ended, whose worker died, or whose time is over."""
        if flights:
            with self._require_client().as_current(), contextlib.suppress(TimeoutError):
                wait([f.future for f in flights], timeout=_POLL_S, return_when="FIRST_COMPLETED")
        alive = self._workers()
        return [f for f in flights if f.future.done() or f.worker not in alive or self._late(f)]

    def _late(self, flight: _Flight) -> bool:
        return time.monotonic() - flight.started > self._settings.part_timeout_s

    def _collect(self, stage: Stage, flight: _Flight, context: Context) -> Result | None:
        """The result of a flight that ended, or None where it should be tried again."""
        done = self._outcome(flight)
        if isinstance(done, Done):
            missing = await_seen(context.path(name) for name in done.outputs)
            if missing is not None:
                raise _not_shared(f"worker {flight.worker} wrote {missing}, which is not here")
            return Result(flight.part, done)
        if is_fatal(done) or isinstance(done, ResourceUnavailable):
            raise done
        attempts = self._attempts[stage.name, flight.part.name]
        if attempts < self._settings.attempts and not isinstance(done, UnmemorizeError):
            return None
        return Result(flight.part, failure(done, attempts))

    def _outcome(self, flight: _Flight) -> Done | BaseException:
        future = flight.future
        if future.status == "finished":
            try:
                return future.result(timeout=_RESTART_S)
            except TimeoutError:  # the worker died before it could be asked for the result
                future.cancel(force=True)
        elif future.done():
            return future.exception() or RuntimeError(f"the part was {future.status}")
        future.cancel(force=True)
        if self._late(flight):
            self._restart(flight.worker)
            return TimeoutError(f"no result within {self._settings.part_timeout_s:g} s")
        return RuntimeError(f"worker {flight.worker} died")

    def _restart(self, worker: str) -> None:
        client = self._require_client()
        try:
            client.restart_workers([worker], timeout=_RESTART_S, raise_for_error=False)
        except ValueError:  # no nanny restarts it: what hangs there hangs, and gets no more parts
            client.retire_workers([worker])

    def _require_worker(
        self, stage: Stage, resources: Mapping[str, float], patience_s: float = 0.0
    ) -> None:
        """Raise ResourceUnavailable where no worker offers `resources` within `patience_s`.

        A cluster without a single worker has a little more time: it may just have been started.
        """
        with contextlib.suppress(TimeoutError):
            self._require_client().wait_for_workers(1, timeout=_CONNECT_S)
        deadline = time.monotonic() + patience_s
        while not self._offering(resources):
            if time.monotonic() >= deadline:
                raise ResourceUnavailable(self._lacking(stage, resources))
            time.sleep(_POLL_S)

    def _lacking(self, stage: Stage, resources: Mapping[str, float]) -> str:
        where = self._settings.scheduler
        if not resources:
            return f"{stage.name}: {where or 'the local cluster'} has no workers"
        wanted = ", ".join(f"{name}: {need:g}" for name, need in resources.items())
        given = " ".join(f"{name}={need:g}" for name, need in resources.items())
        mend = (
            f'start one with `dask worker {where} --resources "{given}"`'
            if where
            else f"say what each has with --set 'runner.worker_resources={{{wanted}}}'"
        )
        return f"{stage.name}: no worker offers {wanted}; {mend}"

    def _offering(self, resources: Mapping[str, float]) -> set[str]:
        """Addresses of the workers that take parts and offer `resources`."""
        return {
            address
            for address, worker in self._workers().items()
            if worker["status"] == "running"
            and all(worker["resources"].get(name, 0) >= need for name, need in resources.items())
        }

    def _workers(self) -> Mapping[str, Mapping[str, Any]]:
        about: Mapping[str, Any] = self._require_client().scheduler_info(n_workers=-1)
        if "workers" not in about:  # what a client says that tries to connect again
            raise ConnectionError("no answer")
        workers: Mapping[str, Mapping[str, Any]] = about["workers"]
        return workers

    def _require_client(self) -> Client:
        if self._client is None:
            raise RuntimeError("ClusterExecutor is used inside `with`")
        return self._client


def required_resources(stage: Stage, context: Context) -> dict[str, float]:
    """What a worker must offer: the configured resources, or a GPU for parts on a CUDA device."""
    configured = context.config.runner.resources.get(stage.name)
    if configured is not None:
        return configured
    on_gpu = stage.on_device and context.config.model.device.startswith("cuda")
    return {"GPU": 1.0} if on_gpu else {}


def _run_shared(stage: Stage, part: Part, context: Context) -> Done:
    """`run_part` on a worker; raises ResourceUnavailable where it does not see what the driver saw.

    Not a matter of this part: such a worker would spoil all that it is given.
    """
    missing = await_seen(map(context.path, (".", *part.inputs)))
    if missing is not None:
        raise _not_shared(f"worker {get_worker().address} does not see {missing}")
    return run_part(stage, part, context)


def _not_shared(what: str) -> ResourceUnavailable:
    return ResourceUnavailable(
        f"{what}; every worker must see the shards and the run folder under the same paths"
    )


def _connect(address: str) -> Client:
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    # what is left of a client stops its thread when it is collected, and locks up where that
    # happens while another one starts
    gc.collect()
    raise ResourceUnavailable(f"{address}: no Dask scheduler answers there")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Threads and processes started meanwhile get no SIGINT, ever; this thread gets it afterwards.

    A terminal sends it to workers, too, and a worker that dies of it takes its running part along.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _local_cluster(settings: Runner) -> LocalCluster:
    return LocalCluster(
        n_workers=settings.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0" if settings.dashboard else None,
        # its status page is served in either case, by default at a port that may be taken
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        worker_dashboard_address=None,
        resources=settings.worker_resources or None,
        memory_limit=0,  # parts are bounded by their configuration; a killed part would be lost
        silence_logs=50,
    )


def _warn_if_open(address: str) -> None:
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    if address.startswith("tls://") or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        warnings.warn(
            f"{address}: whoever reaches a Dask scheduler runs code on its workers; use tls:// or "
            "a network of your own",
            stacklevel=2,
        )
