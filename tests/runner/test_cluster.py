"""The same parts on real worker processes: equal bytes, dead and hanging workers, resources."""

import itertools
import json
import os
import signal
import time

import psutil
import pytest
from distributed.client import ClosedClientError, FuturesCancelledError
from distributed.comm import CommClosedError
from toy_stages import (
    ON_DEVICE,
    TEXTS,
    TOLERANT,
    WHERE,
    await_file,
    await_true,
    context_of,
    execute,
    listening,
    spawn_command,
    tree,
    tries_of,
    user_cluster,
    write_texts,
)

from pipeline.errors import ResourceUnavailable
from pipeline.runner import cluster
from pipeline.runner.cluster import required_resources
from pipeline.runner.progress import SilentProgress

MORE = TEXTS | {"d": "eight nine\n", "e": "ten\n"}
GPU = {"GPU": 1}


class Listens(SilentProgress):
    """Looks, whenever a part ends, where this process and its workers accept connections."""

    def __init__(self):
        super().__init__()
        self.addresses = set()

    def advance(self, part, *, failed):
        self.addresses |= listening(psutil.Process())


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "dashboard"), [(1, False), (2, True), (3, False)])
def test_workers_give_the_serial_bytes_and_listen_on_loopback_alone(tmp_path, workers, dashboard):
    run = write_texts(tmp_path, MORE)
    execute(run)
    progress = Listens()
    execute(
        tmp_path / "clustered",
        progress=progress,
        runner__workers=workers,
        runner__worker_resources={"slot": 1},  # one worker alone is a cluster, too
        runner__dashboard=dashboard,
    )
    assert tree(tmp_path / "clustered") == tree(run)
    assert progress.addresses == {"127.0.0.1"}
    assert not listening(psutil.Process())


@pytest.mark.slow
def test_workers_that_die_or_hang_cost_their_part_an_attempt(tmp_path):
    bad = {"h": "!hang-once now", "x": "!exit-once now", "y": "!exit"}
    run = write_texts(tmp_path, TEXTS | bad)
    limits = {"runner__attempts": 2, "runner__part_timeout_s": 20}
    summary = execute(run, TOLERANT, runner__workers=2, **limits)
    assert summary.failed == ["count/y"]
    assert [tries_of(run, name) for name in bad] == [2, 2, 2]
    record = json.loads((run / "receipts" / "count" / "y.failed.json").read_text())
    assert record["attempts"] == 2
    assert "died" in record["error"]
    done = {f"counts/{name}.json" for name in (*TEXTS, "h", "x")}
    assert {name for name in tree(run) if name.startswith("counts/")} == done


@pytest.fixture
def waiting(tmp_path):
    """A command with two workers, each in the middle of a part, and two parts to come."""
    run = write_texts(tmp_path, {"a": "!wait", "b": "!wait", "c": "one\n", "d": "two three\n"})
    child = spawn_command(run, runner__workers=2)
    texts = run.parent / "texts"
    await_file(texts / "a.tries")
    await_file(texts / "b.tries")
    yield run, child
    for process in of_session(child.pid):
        process.kill()


def of_session(leader):
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def go(run):
    for name in "ab":
        (run.parent / "texts" / f"{name}.go").touch()


def resumes_as_if_nothing_had_happened(run):
    execute(run)
    execute(run.parent / "serial")
    assert tree(run) == tree(run.parent / "serial")


@pytest.mark.slow
def test_an_interrupt_of_the_whole_group_lets_running_parts_finish(waiting):
    run, child = waiting
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    time.sleep(1)
    assert child.is_alive()
    go(run)
    child.join(60)
    assert child.exitcode == 130
    assert {"receipts/count/a.json", "receipts/count/b.json"} <= set(tree(run))
    assert not {"receipts/count/c.json", "receipts/count/d.json"} & set(tree(run))
    assert (tries_of(run, "a"), tries_of(run, "b")) == (1, 1)
    resumes_as_if_nothing_had_happened(run)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_workers(waiting):
    run, child = waiting
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(child.pid, signal.SIGINT)
    child.join(30)
    assert child.exitcode == 130
    await_true(lambda: not of_session(child.pid), 30)
    assert not (run / "counts").exists()
    go(run)
    resumes_as_if_nothing_had_happened(run)


@pytest.mark.slow
def test_a_killed_command_takes_its_workers_along_and_resumes(waiting):
    run, child = waiting
    child.kill()
    child.join(60)
    await_true(lambda: not of_session(child.pid), 30)
    go(run)
    resumes_as_if_nothing_had_happened(run)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A cluster of the user's: a worker of two threads, and one that offers a GPU."""
    plain = ("--name", "plain", "--nthreads", "2")
    gpu = ("--name", "gpu", "--nthreads", "1", "--resources", "GPU=1")
    with user_cluster(tmp_path_factory.mktemp("dask"), plain, gpu) as (address, _):
        yield address


def where(run):
    return [json.loads(path.read_text()) for path in sorted((run / "where").glob("*.json"))]


@pytest.mark.slow
def test_parts_for_a_gpu_run_on_the_worker_that_offers_it(scheduler, tmp_path):
    run = write_texts(tmp_path, TEXTS)
    execute(run, (WHERE,), runner__scheduler=scheduler, runner__resources={"where": GPU})
    assert [row[0] for row in where(run)] == ["gpu"] * 3
    other = tmp_path / "by-device"
    execute(other, (ON_DEVICE,), runner__scheduler=scheduler, model__device="cuda")
    assert [row[0] for row in where(other)] == ["gpu"] * 3


@pytest.mark.slow
def test_a_worker_of_several_threads_runs_one_part_at_a_time(scheduler, tmp_path):
    run = write_texts(tmp_path, MORE)
    execute(run, (WHERE,), runner__scheduler=scheduler)
    rows = where(run)
    assert {row[0] for row in rows} == {"plain", "gpu"}
    for (_, one, _, end), (_, other, start, _) in itertools.pairwise(sorted(rows, key=by_process)):
        assert one != other or end <= start


def by_process(row):
    return row[1], row[2]


@pytest.mark.slow
def test_a_resource_that_no_worker_offers_is_missed_at_once(scheduler, tmp_path):
    run = write_texts(tmp_path, TEXTS)
    started = time.monotonic()
    with pytest.raises(ResourceUnavailable) as missed:
        execute(run, runner__scheduler=scheduler, runner__resources={"count": {"TPU": 2}})
    assert time.monotonic() - started < 5
    mend = f'start one with `dask worker {scheduler} --resources "TPU=2"`'
    assert str(missed.value) == f"count: no worker offers TPU: 2; {mend}"
    assert missed.value.exit_code == 3
    assert tree(run) == {}


@pytest.mark.slow
def test_a_users_cluster_gives_the_serial_bytes(scheduler, tmp_path):
    run = write_texts(tmp_path, MORE)
    execute(run)
    execute(tmp_path / "clustered", runner__scheduler=scheduler)
    assert tree(tmp_path / "clustered") == tree(run)


@pytest.mark.slow
def test_a_poison_part_costs_a_users_cluster_one_worker_an_attempt(scheduler, tmp_path):
    # Dask alone would give it to three more workers, each time
    run = write_texts(tmp_path, TEXTS | {"y": "!exit"})
    summary = execute(run, TOLERANT, runner__scheduler=scheduler, runner__attempts=1)
    assert summary.failed == ["count/y"]
    assert tries_of(run, "y") == 1
    assert json.loads((run / "total.json").read_text()) == 7


@pytest.mark.slow
def test_without_nannies_a_hanging_worker_is_left_and_a_lost_scheduler_is_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "_CONNECT_S", 5.0)
    run = write_texts(tmp_path, TEXTS | {"h": "!hang"})
    lone = ("--no-nanny", "--nthreads", "1")
    with user_cluster(tmp_path, lone, lone) as (address, scheduler):
        execute(tmp_path / "warm", (WHERE,), runner__scheduler=address)  # slow imports are done
        limits = {"runner__attempts": 1, "runner__part_timeout_s": 6}
        summary = execute(run, TOLERANT, runner__scheduler=address, **limits)
        assert summary.failed == ["count/h"]
        record = json.loads((run / "receipts" / "count" / "h.failed.json").read_text())
        assert record["error"] == "TimeoutError: no result within 6 s"
        assert json.loads((run / "total.json").read_text()) == 7

        class Kills(SilentProgress):
            def advance(self, part, *, failed):
                scheduler.kill()

        with pytest.raises(ResourceUnavailable, match="the Dask scheduler is gone") as lost:
            execute(tmp_path / "lost", progress=Kills(), runner__scheduler=address)
        assert "\n" not in str(lost.value)


@pytest.mark.parametrize(
    "error", [FuturesCancelledError([]), ClosedClientError(), CommClosedError(), ConnectionError()]
)
def test_whatever_a_client_says_of_a_lost_scheduler_it_is_named(tmp_path, monkeypatch, error):
    def lose(*_):
        raise error

    context = context_of(tmp_path, runner__scheduler="tcp://127.0.0.1:9")
    executor = cluster.ClusterExecutor(context.config.runner)
    monkeypatch.setattr(executor, "_run", lose)
    with pytest.raises(ResourceUnavailable, match="the Dask scheduler is gone"):
        list(executor.run(WHERE, [], context, lambda: False))


@pytest.mark.slow
def test_a_cluster_without_workers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_S", 2.0)
    run = write_texts(tmp_path, TEXTS)
    with user_cluster(tmp_path) as (address, _), pytest.raises(ResourceUnavailable) as missed:
        execute(run, runner__scheduler=address)
    assert str(missed.value) == f"count: {address} has no workers"


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "tcp://127.0.0.1:nan", "nonsense://127.0.0.1:1", "127.0.0.1"]
)
def test_an_address_where_nobody_answers_is_named(tmp_path, monkeypatch, address):
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    run = write_texts(tmp_path, TEXTS)
    started = time.monotonic()
    with pytest.raises(ResourceUnavailable) as missed:
        execute(run, runner__scheduler=address)
    assert time.monotonic() - started < 5
    assert str(missed.value) == f"{address}: no Dask scheduler answers there"


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "10.0.0.1:8786", "tcp://head-node:8786", "tcp://[fe80::1]:1"]
)
def test_an_open_scheduler_is_warned_of(address):
    with pytest.warns(UserWarning, match="runs code on its workers; use tls://"):
        cluster._warn_if_open(address)


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786", "tls://10.0.0.1:8786"],
)
def test_a_closed_scheduler_is_not(address, recwarn):
    cluster._warn_if_open(address)
    assert not recwarn


def test_what_a_stage_asks_of_a_worker(tmp_path):
    assert required_resources(WHERE, context_of(tmp_path / "run", model__device="cuda")) == {}
    assert (
        required_resources(ON_DEVICE, context_of(tmp_path / "run", model__device="cuda:1")) == GPU
    )
    assert required_resources(ON_DEVICE, context_of(tmp_path / "run", model__device="cpu")) == {}
    asked = context_of(
        tmp_path / "run", model__device="cuda", runner__resources={"device": {"A": 2}}
    )
    assert required_resources(ON_DEVICE, asked) == {"A": 2}
