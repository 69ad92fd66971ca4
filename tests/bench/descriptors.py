"""Sets of descriptors for the join: real ones of crops, and synthetic ones of the same spectrum.

A set is vectors.npy, fp16 (n, d), with planted.npy, int64 (m, 2): rows that are copies by
construction. Both kinds are of the encoder that `dedup` joins by default.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import indexes
from pipeline.calibration.edits import EDITS
from pipeline.calibration.sample import LONGEST_SIDE
from pipeline.config import joined_encoders, make_config
from pipeline.encoders import Encoder, build_encoder, metric_of
from pipeline.io.images import decode

DIMENSIONS = 512
_COPIED = 10  # one in ten is a copy of another
_BLOCK = 50_000
_BATCH = 32
_EDITED = 60
_LEAST_CROPS = 20  # of one picture
_AREA = 0.05, 0.4  # of a crop, as a share of the picture

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Default:
    """The descriptor of the default configuration, and the least cosine of its pairs."""

    name: str
    threshold: float

    def build(self) -> Encoder:
        """The encoder."""
        return build_encoder(make_config({}).embed.encoders[self.name])


def default_descriptor() -> Default:
    """What `dedup` compares by cosine unless told otherwise."""
    config = make_config({})
    specs = config.embed.encoders
    name = next(n for n in joined_encoders(config) if metric_of(specs[n]) == "cosine")
    return Default(name, config.pairs.min_similarity[name])


def spectrum(path: Path, pictures: Sequence[bytes]) -> tuple[Vectors, Vectors]:
    """Descriptors (n, d) of pictures, and differences (m, d) between edits and originals.

    They are turned so that d = 512, or fewer where the encoder has fewer, hold most of the norm.
    Read from the npz file at `path` if it is there, else written to it.
    """
    if not path.is_file():
        real, differences = _spectrum(pictures)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, real=real, differences=differences)
    with np.load(path, allow_pickle=False) as stored:
        return stored["real"], stored["differences"]


def _spectrum(pictures: Sequence[bytes]) -> tuple[Vectors, Vectors]:
    encoder = default_descriptor().build()
    small = [_small(content) for content in pictures]
    rng = np.random.default_rng(0)
    edited = [
        edit(small[i], rng, small[-1 - i])
        for i in range(min(_EDITED, len(small)))
        for name, edit in EDITS.items()
        if name != "exact"
    ]
    vectors = _encoded(encoder, [*small, *edited])
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    vectors = indexes.unit((vectors @ axes[:, ::-1][:, :DIMENSIONS]).astype(np.float32))
    originals = np.repeat(vectors[: min(_EDITED, len(small))], len(EDITS) - 1, axis=0)
    return vectors[: len(small)], vectors[len(small) :] - originals


def write_synthetic(folder: Path, n: int, real: Vectors, differences: Vectors) -> Path:
    """n vectors with the mean and covariance of `real`, in blocks; a tenth are near-duplicates.

    A near-duplicate lies in the last tenth of its block and differs from a vector of the others as
    a real edit does.
    """
    d = real.shape[1]
    mean = real.mean(axis=0)
    root = np.linalg.cholesky(np.cov((real - mean).T) + 1e-7 * np.eye(d)).astype(np.float32)
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    out = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (n, d))
    planted = [np.zeros((0, 2), np.int64)]
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        block = indexes.unit(mean + rng.standard_normal((size, d), np.float32) @ root.T)
        first = size - size // _COPIED
        copies = np.arange(first, size)
        source = rng.integers(0, first, len(copies))
        block[copies] = block[source] + differences[rng.integers(0, len(differences), len(copies))]
        out[start : start + size] = indexes.unit(block)
        planted.append(start + np.stack([source, copies], axis=1))
    out.flush()
    np.save(folder / "planted.npy", np.concatenate(planted))
    return folder


def write_crops(folder: Path, n: int, pictures: Sequence[bytes], threads: int) -> Path:
    """Descriptors of n crops of pictures, twenty or more of each; every tenth edits the one before.

    Crops of one picture overlap or not, so that cosines lie on both sides of any threshold.
    """
    pictures = pictures[: max(1, n // _LEAST_CROPS)]
    if (folder / "planted.npy").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shares = np.array_split(np.arange(n), len(pictures))
    tasks = [
        (number, content, len(share))
        for number, (content, share) in enumerate(zip(pictures, shares, strict=True))
        if len(share)
    ]
    with ProcessPoolExecutor(threads, get_context("spawn"), initializer=_one_thread) as pool:
        blocks = list(pool.map(_crops, tasks, chunksize=4))
    np.save(folder / "vectors.npy", np.concatenate(blocks))
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    copies = [start + _copies(len(block)) for start, block in zip(starts, blocks, strict=False)]
    rows = np.concatenate(copies)
    np.save(folder / "planted.npy", np.stack([rows - 1, rows], axis=1))
    return folder


def _copies(count: int) -> npt.NDArray[np.int64]:
    return np.arange(_COPIED - 1, count, _COPIED)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _crops(task: tuple[int, bytes, int]) -> npt.NDArray[np.float16]:
    number, content, count = task
    picture = _small(content)
    rng = np.random.default_rng(number)
    edits = [edit for name, edit in EDITS.items() if name not in ("exact", "overlay")]
    copies = set(_copies(count).tolist())

    def crops() -> Iterator[Image.Image]:
        last = picture
        for place in range(count):
            edit = edits[int(rng.integers(len(edits)))]
            last = edit(last, rng, picture) if place in copies else _crop(picture, rng)
            yield last

    vectors = _encoded(default_descriptor().build(), list(crops()))
    return vectors.astype(np.float16)


def _crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = np.sqrt(rng.uniform(*_AREA))
    width, height = (max(8, round(side * length)) for length in picture.size)
    width, height = min(width, picture.width), min(height, picture.height)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _small(content: bytes) -> Image.Image:
    picture = decode(content)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _encoded(encoder: Encoder, pictures: Sequence[Image.Image]) -> Vectors:
    starts = range(0, len(pictures), _BATCH)
    blocks = [encoder.encode(pictures[start : start + _BATCH]).vectors for start in starts]
    return indexes.unit(np.concatenate(blocks).astype(np.float32))
