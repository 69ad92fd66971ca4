"""Embedding beside clip-retrieval: `python -m tests.bench.clip_retrieval [--device cuda]`.

Both read the same shards of photographs or drawings with the same open_clip ViT-B/32, whose weights
are drawn at random and saved once: speed does not depend on them. Whole commands are timed on two
sizes, and the rate is of what the larger has more, so that no start-up counts. clip-retrieval gets
as many processes for decoding as there are cores; ours as many threads a part.

Vectors are compared by their cosine, and once more after the mean over the set is taken off: those
of an untrained network all point nearly one way, so that the plain cosine sees little.
"""

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

from tests.bench.peers import WORK, environment, python_of
from tests.bench.pictures import distinct_clipart, read_pictures, small_jpeg, write_set
from tests.bench.processes import watch
from tests.bench.systems import own_environment

_MODEL = "ViT-B-32"
_ENCODER = "clip"
_BF16 = f"embed.encoders.{_ENCODER}.dtype=bfloat16"
_TEXT = [f"captions.encoder={_ENCODER}", "stages=[scan, ids, embed, captions]"]
Vectors = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Run:
    """One embedding: seconds of the whole command, the most memory, image vectors by key."""

    seconds: float
    peak: int
    vectors: Vectors


def checkpoint(work: Path) -> Path:
    """The weights that both load."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    path = work.resolve() / "open_clip-ViT-B-32-random.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        state = open_clip.create_model(_MODEL).state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def ours(shards: Path, out: Path, weights: Path, settings: Sequence[str]) -> Run | str:
    """The scan and embed stages, by a configuration."""
    config = {
        "stages": ["scan", "ids", "embed"],
        "dataset": {"shards": [str(shards)]},
        "embed": {
            "encoders": {_ENCODER: {"kind": "open_clip", "model": _MODEL, "weights": str(weights)}}
        },
        "pairs": {"min_similarity": {_ENCODER: 0.9}},
        "match": {"encoders": [_ENCODER]},
    }
    out.mkdir(parents=True)
    file = out / "embed.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipeline", "run", str(file), "--out", str(out / "run")]
    options = [word for setting in settings for word in ("--set", setting)]
    done = watch([*command, *options], own_environment())
    if done.status:
        return done.why
    return Run(done.seconds, done.peak, _vectors(out / "run" / "embeddings" / _ENCODER))


def theirs(
    python: Path, shards: Path, out: Path, weights: Path, options: Mapping[str, object]
) -> Run | str:
    """`clip-retrieval inference`."""
    count = len(list(shards.glob("*.tar")))
    given = {
        "input_dataset": f"{shards}/{{00000..{count - 1:05d}}}.tar",
        "input_format": "webdataset",
        "output_folder": out,
        "enable_metadata": True,
        "clip_model": f"open_clip:{_MODEL}/{weights}",
        **options,
    }
    command = [python, "-m", "clip_retrieval.cli", "inference"]
    words = [f"--{name}={value}" for name, value in given.items()]
    done = watch([*map(str, command), *words], environment())
    if done.status or not (out / "img_emb").is_dir():
        return done.why
    return Run(done.seconds, done.peak, _vectors(out))


def _vectors(folder: Path) -> Vectors:
    found: Vectors = {}
    for path in sorted((folder / "img_emb").glob("*.npy")):
        name = path.name.replace("img_emb_", "metadata_").replace(".npy", ".parquet")
        rows = pq.read_table(folder / "metadata" / name, columns=["image_path"])
        block = np.load(path, allow_pickle=False).astype(np.float64)
        keys = [Path(key).name.split(".")[0] for key in rows["image_path"].to_pylist()]
        found |= dict(zip(keys, block, strict=True))
    return found


def least_cosines(one: Vectors, two: Vectors) -> tuple[float, float]:
    """The least cosine over the keys of both, of the vectors and of them without their mean."""
    keys = sorted(one.keys() & two.keys())
    a, b = (np.stack([vectors[key] for key in keys]) for vectors in (one, two))
    return _least(a, b), _least(a - a.mean(axis=0), b - a.mean(axis=0))


def _least(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the table and give its figures."""
    given = _parse(arguments)
    console = Console(width=140)
    given.work.mkdir(parents=True, exist_ok=True)
    weights = checkpoint(given.work)
    python = python_of("clip-retrieval", given.work)
    if python is None:
        console.print("clip-retrieval: left out: not installed; see `make bench-peers`")
    found = read_pictures(given.photos) if given.photos else distinct_clipart(given.work)
    base = [f"runner.threads_per_part={given.threads}", f"embed.batch_size={given.batch}"]
    base += [f"model.device={given.device}", *given.set]
    bf16, text = [*base, *given.bf16], [*base, *given.bf16, *given.text]
    prepro = {"batch_size": given.batch, "num_prepro_workers": given.threads}
    images = prepro | {"enable_text": False}
    systems: list[tuple[str, Any]] = [
        ("unmemorize, fp32, images", base),
        ("unmemorize, bf16, images", bf16),
        ("unmemorize, bf16, images and captions", text),
    ]
    if python is not None:
        systems += [
            ("clip-retrieval 2.45, images", images),
            ("clip-retrieval 2.45, images and captions", prepro | {"enable_text": True}),
        ]
    record: list[dict[str, Any]] = []
    reference: Vectors = {}
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        root = Path(folder)
        shards = {n: _shards(root / f"set-{n}", found, n) for n in (given.small, given.count)}
        for number, (label, options) in enumerate(systems):
            runs: list[Run] = []
            for n, place in shards.items():
                out = root / f"out-{number}-{n}"
                if isinstance(options, dict):
                    run = theirs(python, place, out, weights, options)
                else:
                    run = ours(place, out, weights, options)
                if isinstance(run, str):
                    console.print(f"{label}: left out: {run}", markup=False)
                    break
                runs.append(run)
            else:
                reference = reference or runs[1].vectors
                record.append(_row(label, runs, given, reference))
    _print(record, console, given)
    return record


def _row(
    label: str, runs: Sequence[Run], given: argparse.Namespace, reference: Vectors
) -> dict[str, Any]:
    small, large = runs
    plain, centred = least_cosines(reference, large.vectors)
    return {
        "system": label,
        "device": given.device,
        "samples": given.count,
        "seconds": large.seconds,
        "peak_bytes": large.peak,
        "rate": (given.count - given.small) / (large.seconds - small.seconds),
        "embedded": len(large.vectors),
        "least_cosine": plain,
        "least_centred_cosine": centred,
    }


def _print(record: Sequence[dict[str, Any]], console: Console, given: argparse.Namespace) -> None:
    headers = ("system", "whole s", "samples/s", "GiB", "least cosine to ours in fp32", "centred")
    table = Table(*headers, title=f"{given.count:,} samples, {_MODEL}, {given.device}")
    for row in record:
        table.add_row(
            *(row["system"], f"{row['seconds']:.1f}", f"{row['rate']:.1f}"),
            f"{row['peak_bytes'] / 2**30:.2f}",
            *(f"{row['least_cosine']:.5f}", f"{row['least_centred_cosine']:.5f}"),
        )
    console.print(table)


def _shards(folder: Path, found: dict[str, bytes], count: int) -> Path:
    keys = itertools.islice(itertools.cycle(sorted(found)), count)
    contents = [small_jpeg(found[key]) for key in keys]
    write_set(folder, contents, "jpg", [(row, "original") for row in range(count)], [])
    return folder / "shards"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--small", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", action="append", default=[], help="of ours, in every row")
    parser.add_argument("--bf16", nargs="*", default=[_BF16], help="settings")
    parser.add_argument("--text", nargs="*", default=_TEXT, help="settings")
    parser.add_argument("--photos", type=Path, help="a folder of pictures, or of tars of them")
    parser.add_argument("--work", type=Path, default=WORK)
    given = parser.parse_args(arguments)
    if not 0 < given.small < given.count:
        parser.error("--small must be below --count")
    return given


if __name__ == "__main__":
    main()
