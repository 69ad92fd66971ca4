"""The same parts on Dask workers: a local cluster of processes, or a cluster of the user's.

The only module that knows Dask. Measured reasons for its shape (distributed 2026.8): annotations
for resources are ignored by collections, so parts go through `submit`; a resource that no worker
offers leaves a task pending for ever, so it is looked for first; `retries` does not cover a dead
worker, so attempts are counted here; LocalCluster listens on every interface unless told not to.
"""

import contextlib
import ipaddress
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, wait

from pipeline.config import Runner
from pipeline.errors import ResourceUnavailable, UnmemorizeError
from pipeline.runner.part import Context, Part, Stage
from pipeline.runner.work import Result, failure, is_fatal, run_part

_POLL_S = 0.5
_CONNECT_S = 20


@dataclass
class _Flight:
    part: Part
    future: Future
    started: float


class ClusterExecutor:
    """Runs parts on workers, one a worker thread at a time, so that a death costs few attempts."""

    def __init__(self, settings: Runner) -> None:
        self._settings = settings
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        self._attempts: dict[tuple[str, str], int] = {}

    def __enter__(self) -> "ClusterExecutor":
        if self._settings.scheduler is None:
            self._cluster = _local_cluster(self._settings)
            address = self._cluster.scheduler_address
        else:
            address = self._settings.scheduler
            _warn_if_open(address)
        try:
            self._client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ResourceUnavailable(f"{address}: no Dask scheduler answers there") from error
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
        """Run `parts`; see Executor. Raises ResourceUnavailable before starting any."""
        resources = required_resources(stage, context)
        slots = self._slots(stage.name, resources)
        waiting = list(reversed(parts))
        flights: dict[str, _Flight] = {}
        while waiting or flights:
            while waiting and len(flights) < slots and not stopping():
                flight = self._submit(stage, waiting.pop(), context, resources)
                flights[flight.future.key] = flight
            if not flights:
                return
            for flight in self._finished(flights):
                del flights[flight.future.key]
                result = self._collect(stage, flight)
                if result is None:
                    waiting.append(flight.part)
                else:
                    yield result

    def _submit(
        self, stage: Stage, part: Part, context: Context, resources: Mapping[str, float]
    ) -> _Flight:
        identity = (stage.name, part.name)
        self._attempts[identity] = self._attempts.get(identity, 0) + 1
        future = self._require_client().submit(
            run_part,
            stage,
            part,
            context,
            key=f"{stage.name}-{part.name}-{self._attempts[identity]}-{time.monotonic_ns()}",
            resources=dict(resources) or None,
            pure=False,
            retries=0,
        )
        return _Flight(part, future, time.monotonic())

    def _finished(self, flights: Mapping[str, _Flight]) -> list[_Flight]:
        futures = [flight.future for flight in flights.values()]
        with contextlib.suppress(TimeoutError):
            wait(futures, timeout=_POLL_S, return_when="FIRST_COMPLETED")
        limit = time.monotonic() - self._settings.part_timeout_s
        return [f for f in flights.values() if f.future.done() or f.started < limit]

    def _collect(self, stage: Stage, flight: _Flight) -> Result | None:
        """The result of a flight that ended, or None where it should be tried again."""
        attempts = self._attempts[stage.name, flight.part.name]
        if not flight.future.done():
            self._restart_worker_of(flight.future)
            error: BaseException = TimeoutError(
                f"no result within {self._settings.part_timeout_s:g} s"
            )
        elif flight.future.status == "finished":
            done = flight.future.result()
            flight.future.release()
            return Result(flight.part, done)
        else:
            error = flight.future.exception() or RuntimeError(f"part {flight.future.status}")
        if is_fatal(error):
            raise error
        if attempts < self._settings.attempts and not isinstance(error, UnmemorizeError):
            return None
        return Result(flight.part, failure(error, attempts))

    def _restart_worker_of(self, future: Future) -> None:
        client = self._require_client()
        owners = [name for name, keys in client.processing().items() if future.key in keys]
        future.cancel(force=True)
        if owners:
            client.restart_workers(owners, timeout=60, raise_for_error=False)

    def _slots(self, stage: str, resources: Mapping[str, float]) -> int:
        client = self._require_client()
        client.wait_for_workers(1, timeout=60)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        slots = 0
        for worker in workers:
            offered = worker.get("resources", {})
            shares = [int(offered.get(name, 0) // need) for name, need in resources.items() if need]
            slots += min([worker["nthreads"], *shares])
        if slots == 0:
            wanted = ", ".join(f"{name}: {need:g}" for name, need in resources.items())
            raise ResourceUnavailable(
                f"{stage}: no worker of {len(workers)} offers {wanted}; start one with "
                f'`dask worker --resources "{wanted.replace(": ", "=")}"`'
            )
        return slots

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


def _local_cluster(settings: Runner) -> LocalCluster:
    # a worker that dies takes its part with it: once is an attempt of ours, not of Dask's
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    return LocalCluster(
        n_workers=settings.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0" if settings.dashboard else None,
        worker_dashboard_address=None,
        resources=settings.worker_resources or None,
        memory_limit=0,  # parts are bounded by their configuration; a killed part would be lost
        silence_logs=50,
    )


def _warn_if_open(address: str) -> None:
    host: Any = address.rpartition("//")[2].rpartition(":")[0].strip("[]")
    if address.startswith("tls://") or host in ("localhost", ""):
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
