"""An index on disk: index.faiss, and index.json that says what it is and vouches for its bytes.

FAISS reads a file with damaged vectors without complaint, and then every answer is wrong. So `load`
refuses bytes whose sha256 is not the recorded one, an index that is not what index.json says, one
made by another encoder, and one in which stored vectors do not find themselves. The sha256 is no
signature: whoever can rewrite both files decides what is in them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexes.checks import unit
from indexes.errors import IndexCorrupt, VectorError
from indexes.exact import FAISS_METRIC
from indexes.metrics import Metric
from indexes.nearest import NearestIndex, inner_index

INDEX_FILE, ABOUT_FILE = "index.faiss", "index.json"
SELF_RECALL = 0.99
"""Share of sampled rows that must find themselves; compressed vectors may miss a few."""

_ABOUT_KEYS = {
    "factory": str,
    "d": int,
    "metric": str,
    "ntotal": int,
    "nprobe": int | None,
    "fingerprint": str,
    "sha256": str,
    "faiss_version": str,
}
_ABOUT_BYTES = 1 << 16


def save(index: NearestIndex, folder: str | Path) -> None:
    """Write index.faiss and then index.json into `folder`, each whole or not at all.

    Equal indexes give equal bytes. Raises OSError where there is no room.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = _replace(folder / INDEX_FILE, lambda path: _write_faiss(index, path))
    about = {
        "factory": index.factory,
        "d": index.d,
        "metric": index.metric,
        "ntotal": index.ntotal,
        "nprobe": index.nprobe,
        "fingerprint": index.fingerprint,
        "sha256": digest,
        "faiss_version": faiss.__version__,
    }
    text = json.dumps(about, indent=2) + "\n"
    _replace(folder / ABOUT_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def load(
    folder: str | Path, *, fingerprint: str | None = None, self_queries: int = 1000
) -> NearestIndex:
    """Read what `save` wrote; IndexCorrupt names the first thing that is not as it should be.

    `fingerprint`, where given, is the encoder that the queries will come from. Up to
    `self_queries` stored vectors are searched for; one that finds an exact copy counts as found.
    """
    folder = Path(folder)
    about = _read_about(folder / ABOUT_FILE)
    if fingerprint is not None and fingerprint != about["fingerprint"]:
        raise IndexCorrupt(
            f"{folder}: made by encoder {about['fingerprint']!r}, expected {fingerprint!r}; "
            "search with that encoder or build the index again"
        )
    path = folder / INDEX_FILE
    digest = _sha256(path)
    if digest != about["sha256"]:
        raise _corrupt(path, f"sha256 is {digest}, index.json says {about['sha256']}")
    index = _as_described(path, _read_faiss(path, about["metric"]), about)
    _check_self_recall(path, index, self_queries)
    return index


def _read_about(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            about = json.loads(file.read(_ABOUT_BYTES))
    except FileNotFoundError:
        raise _corrupt(path, "not there, although an index is complete only with it") from None
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"not JSON ({error})") from None
    if not isinstance(about, dict):
        raise _corrupt(path, "not a JSON object")
    for key, kind in _ABOUT_KEYS.items():
        if key not in about or not isinstance(about[key], kind) or isinstance(about[key], bool):
            raise _corrupt(path, f"{key} is {about.get(key)!r}, expected {kind}")
    if about["metric"] not in ("cosine", "l2", "hamming"):
        raise _corrupt(path, f"metric is {about['metric']!r}, expected cosine, l2 or hamming")
    return about


def _as_described(path: Path, faiss_index: Any, about: dict[str, Any]) -> NearestIndex:
    try:
        inner = inner_index(faiss_index)
    except VectorError as error:
        raise _corrupt(path, str(error)) from None
    ids = faiss.vector_to_array(faiss_index.id_map)
    if len(ids) != faiss_index.ntotal or len(ids) != inner.ntotal or np.any(np.diff(ids) <= 0):
        raise _corrupt(path, f"{len(ids)} ids for {inner.ntotal} vectors, expected one each")
    metric: Metric = about["metric"]
    if metric != "hamming" and inner.metric_type != FAISS_METRIC[metric]:
        raise _corrupt(path, f"not made for the metric {metric!r}")
    index = NearestIndex(faiss_index, ids, metric, about["factory"], about["fingerprint"])
    for key in ("d", "ntotal", "nprobe"):
        found = getattr(index, key)
        if found != about[key]:
            raise _corrupt(path, f"{key} is {found}, index.json says {about[key]}")
    return index


def _check_self_recall(path: Path, index: NearestIndex, self_queries: int) -> None:
    n = min(self_queries, index.ntotal)
    if n == 0:
        return
    chosen = np.sort(np.random.default_rng(0).choice(index.ids, n, replace=False))
    try:
        vectors = index.vectors(chosen)
        scores, _ = index.search(unit(vectors) if index.metric == "cosine" else vectors, 1)
    except (VectorError, RuntimeError) as error:
        raise _corrupt(path, f"stored vectors: {_last_line(error)}") from None
    recall = np.mean(scores[:, 0] == (1 if index.metric == "cosine" else 0))
    if recall < SELF_RECALL:
        raise _corrupt(path, f"{recall:.1%} of {n} stored vectors find themselves")


def _read_faiss(path: Path, metric: Metric) -> Any:
    read = faiss.read_index_binary if metric == "hamming" else faiss.read_index
    try:
        with _limits(path.stat().st_size):
            return read(str(path))
    except RuntimeError as error:
        raise _corrupt(path, _last_line(error)) from None


@contextmanager
def _limits(size: int) -> Iterator[None]:
    """Let no length field make FAISS allocate, or loop for, more than the file could hold."""
    before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_loop_limit(size)
    faiss.set_deserialization_vector_byte_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_loop_limit(before[0])
        faiss.set_deserialization_vector_byte_limit(before[1])


def _write_faiss(index: NearestIndex, path: Path) -> None:
    write = faiss.write_index_binary if index.metric == "hamming" else faiss.write_index
    try:
        write(index.faiss_index, str(path))
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {_last_line(error)}") from error


def _replace(path: Path, write: Callable[[Path], Any]) -> str:
    """Write beside `path`, flush to disk, rename; give back the sha256 of what was written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        digest = _sha256(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return digest


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _corrupt(path, "not there") from None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _corrupt(path: Path, what: str) -> IndexCorrupt:
    return IndexCorrupt(f"{path}: {what}; build the index again")
