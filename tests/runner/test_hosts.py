"""A whole deduplication on several hosts, one of which fails on its way.

The hosts are network namespaces with addresses of their own: scheduler, driver and three workers
see each other by these alone, and share a file system.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Network, network_of, why_not
from shard_builder import ShardBuilder, jpeg, picture
from toy_stages import await_true

OWN = {"run.json", ".lock", "digests.json", "metrics.jsonl"}  # times, paths, the scheduler
WORKERS = ("w1", "w2", "w3")
SETTINGS = {  # cells, in several parts
    "pairs.exact_up_to": "10",
    "pairs.cells": "8",
    "pairs.probes": "4",
    "pairs.rows_per_part": "6",
    "runner.min_free_gb": "0",
}
PORT = 8786
PATIENCE_S = 3.0
IMPATIENT = f"""
from pipeline.cli import main
from pipeline.runner import sharing
sharing.PATIENCE_S = {PATIENCE_S}
main()
"""


@pytest.fixture(scope="module", autouse=True)
def _hosts():
    if os.name != "posix" or (reason := why_not()):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Six shards of eight pictures: each picture twice, compressed otherwise, and an exact copy."""
    folder = tmp_path_factory.mktemp("hosts") / "shards"
    for number in range(6):
        builder = ShardBuilder(folder / f"{number:05d}.tar")
        for i in range(4):
            builder.add(f"{number}x{i}", jpeg(picture(10 * number + i)), f"picture {i}")
            builder.add(f"{number}y{i}", jpeg(picture(10 * number + i), 60), f"picture {i}")
        builder.add(f"{number}copy", jpeg(picture(0)), "a copy").write()
    return folder


@pytest.fixture(scope="module")
def serial(shards) -> dict[str, str]:
    """Every file of an undisturbed run in one process."""
    out = shards.parent / "serial"
    done = subprocess.run(_dedup(shards, out), capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    files = tree(out)
    assert {"cells/lite0/vectors.npy", "duplicates.parquet"} < set(files)
    assert len([name for name in files if name.startswith("pairs/lite0/")]) >= 4
    return files


def tree(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in OWN
    }


@dataclass
class Cluster:
    """A Dask scheduler and workers, each on a host of its own, started as a user does."""

    network: Network
    folder: Path
    processes: list[subprocess.Popen]
    stranger: str = ""  # a host that has a folder `alone` of its own
    alone: Path | None = None

    @property
    def scheduler(self) -> str:
        return f"tcp://{self.network.address['head']}:{PORT}"

    def start(self, host: str, *command: str, **environment: str) -> subprocess.Popen:
        log = (self.folder / f"{host}.log").open("ab")
        alone = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'mount -t tmpfs none {self.alone} && exec "$@"',
            "sh",
        ]
        process = subprocess.Popen(
            self.network.command(
                host, *(alone if host == self.stranger else []), sys.executable, "-m", *command
            ),
            env=_environment() | environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def start_workers(self, *options: str, failures: Mapping[str, str] | None = None) -> None:
        """One on each host; back when all are there."""
        for host in WORKERS:
            self.start(
                host,
                "distributed.cli.dask_worker",
                self.scheduler,
                *("--nthreads", "1", "--no-dashboard"),
                *("--local-directory", str(self.folder / host)),
                *("--preload", str(Path(__file__).with_name("witness.py")), *options),
                WITNESS_LOG=str(self.folder / f"{host}.parts"),
                FAILURES=json.dumps(failures or {}),
                PATIENCE_S=str(PATIENCE_S),
            )
        await_true(lambda: all((self.folder / f"{host}.parts").exists() for host in WORKERS), 120)

    def dedup(self, shards: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
        """`unmemorize dedup` on the driver's host."""
        out = self.folder / "run"
        command = _dedup(shards, out, "--scheduler", self.scheduler)
        done = subprocess.run(
            self.network.command("driver", *command),
            capture_output=True,
            text=True,
            env=_environment(),
            timeout=300,
        )
        return done, out

    def parts(self, host: str, state: str) -> list[str]:
        """The parts of which a host's worker says that they are in a state."""
        lines = (self.folder / f"{host}.parts").read_text().splitlines()
        return [part_of(line) for line in lines if line.endswith(f" {state}")]

    def failed(self, stage: str) -> tuple[str, str]:
        """The host that failed in a stage, and the part that it was at."""
        host, key = (self.folder / f"{stage}.failed").read_text().split()
        return host, part_of(key)

    def close(self) -> None:
        for name in self.network.address:
            self.network.kill(name)
        for process in self.processes:
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    with network_of("head", "driver", *WORKERS) as network:
        made = Cluster(network, tmp_path, [])
        try:
            made.start(
                "head",
                "distributed.cli.dask_scheduler",
                *("--host", network.address["head"], "--port", str(PORT), "--no-dashboard"),
                DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="8s",  # of a host that is silent: 5 minutes
            )
            yield made
        finally:
            made.close()


def part_of(key: str) -> str:
    """The part that a Dask key is for, without attempt and time."""
    return re.sub(r"-\d+-\d+( \w+)?$", "", key)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _dedup(shards: Path, out: Path, *options: str) -> list[str]:
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return [
        sys.executable,
        "-m",
        "pipeline",
        "dedup",
        str(shards),
        "--out",
        str(out),
        "--threads",
        "1",
        *sets,
        *options,
    ]


@pytest.mark.slow
def test_hosts_that_fail_midway_change_no_byte(cluster, shards, serial):
    failures = {"embed": "killed", "pairs-lite0": "unplugged"}
    cluster.start_workers("--nanny", failures=failures)
    done, out = cluster.dedup(shards)
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(out) == serial
    finished = {host: set(cluster.parts(host, "memory")) for host in WORKERS}
    killed, lost = cluster.failed("embed")
    unplugged, unheard = cluster.failed("pairs-lite0")
    (left,) = set(WORKERS) - {killed, unplugged}
    assert finished[unplugged] and finished[left]  # two addresses at least did the work
    assert lost not in finished[killed] and lost in finished[unplugged] | finished[left]
    assert unheard in finished[left]
    receipts = [path for path in out.glob("receipts/*/*.json")]
    assert len(set().union(*finished.values())) == len(receipts)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["run", "shards"])
def test_a_host_that_does_not_share_a_folder_is_named_before_rows_are_lost(cluster, shards, folder):
    """It has an empty folder of that name, as a disk of its own would be."""
    cluster.stranger = "w2"
    cluster.alone = cluster.folder / "run" if folder == "run" else shards
    cluster.alone.mkdir(exist_ok=True)
    cluster.start_workers("--no-nanny")
    done, out = cluster.dedup(shards)
    assert done.returncode == 3
    said = " ".join(done.stderr.split())
    address = cluster.network.address["w2"]
    verb = "wrote" if folder == "run" else "does not see"
    assert re.search(rf"unmemorize: worker tcp://{address}:\d+ {verb} {cluster.alone}/", said)
    assert said.endswith("every worker must see the shards and the run folder under the same paths")
    assert "Traceback" not in said
    for receipt in out.glob("receipts/*/*.json"):
        outputs = json.loads(receipt.read_text()).get("outputs", {})
        assert all((out / name).is_file() for name in outputs)
