"""Embeddings as other tools write them, with known near-duplicates."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def planted(n: int, d: int = 24, *, seed: int = 0, copies: int = 0) -> np.ndarray:
    """n vectors of unit norm (n, d), float32; the last `copies` are the first ones, moved a bit."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d))
    if copies:
        noise = np.linspace(0.02, 0.9, copies)[:, None] / np.sqrt(d)
        vectors[n - copies :] = vectors[:copies] / np.linalg.norm(vectors[:copies], axis=1)[:, None]
        vectors[n - copies :] += noise * rng.standard_normal((copies, d))
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)


def clip_retrieval(folder: Path, number: object, vectors: np.ndarray, **columns: list) -> Path:
    """One pair of files as `clip-retrieval inference` writes them."""
    (folder / "img_emb").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors)
    columns.setdefault("image_path", [f"{number}-{i:05d}" for i in range(len(vectors))])
    pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def parquet(path: Path, vectors: list, kind: pa.DataType, name: str = "embedding", **columns: list):
    """A Parquet file with a list column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, name: pa.array(vectors, kind)}), path)
    return path
