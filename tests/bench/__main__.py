"""`make bench`: the rate of each stage beside its limit, measured in one run.

The limit is the part of the work that cannot be avoided, done by the fastest library call for it:
reading the tar, decoding, the network's forward, one matrix product. A ratio of 1 is the limit.
Nothing is asserted; timings belong to the machine they were taken on.
"""

import io
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

import indexes
from pipeline.config import Encoder
from pipeline.demo.plant import plant
from pipeline.detection.cliques import largest_clique
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.encoders import build_encoder
from pipeline.generation.backend import Sampling, fresh_model
from pipeline.io.images import decode
from pipeline.io.shards import group_members, read_member
from pipeline.io.tarscan import scan_tar
from pipeline.runner.memory import keep_memory

Measured = tuple[str, str, float, float, str]


def seconds(
    work: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least of some runs: what the work takes when nothing else runs."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def bench_scan(shard: Path) -> Measured:
    """The strict header walk against Python's own reader of the same headers."""
    members = len(scan_tar(shard).members)

    def listed() -> int:
        with tarfile.open(shard) as tar:
            return len(tar.getmembers())

    return (
        "scan: tar headers",
        "members/s, tarfile",
        *_rates(members, lambda: scan_tar(shard), listed),
    )


def bench_decode(blobs: list[bytes]) -> Measured:
    """Checked decoding against Pillow alone."""

    def bare() -> None:
        for blob in blobs:
            Image.open(io.BytesIO(blob)).convert("RGB").load()

    ours = lambda: [decode(blob) for blob in blobs]  # noqa: E731
    return "scan: decode", "pictures/s, bare Pillow", *_rates(len(blobs), ours, bare)


def bench_embed(pictures: list[Image.Image]) -> Measured:
    """The default encoder with preprocessing against its forward alone."""
    encoder = build_encoder(Encoder(kind="lite0"))
    batch = torch.zeros(len(pictures), 3, 224, 224).to(memory_format=torch.channels_last)
    network = encoder._network  # the forward alone is not public

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(batch), 4):  # slices that stay in the cache are faster
                network.forward_features(batch[start : start + 4])

    ours = lambda: encoder.encode(pictures)  # noqa: E731
    return "embed: lite0", "pictures/s, forward alone", *_rates(len(pictures), ours, forward)


def bench_pairs(n: int = 10_000, d: int = 512) -> Measured:
    """The exact join, with float64 rescoring, against one matrix product and a threshold."""
    rng = np.random.default_rng(0)
    vectors = indexes.unit(rng.standard_normal((n, d)))
    vectors[n // 2 :] = indexes.unit(vectors[: n // 2] + 0.02 * rng.standard_normal((n // 2, d)))
    ids = np.arange(n)

    def product() -> None:
        for start in range(0, n, 2000):
            np.count_nonzero(vectors[start : start + 2000] @ vectors.T >= 0.9)

    ours = lambda: indexes.self_join(vectors, ids, 0.9)  # noqa: E731
    return "pairs: exact join", "rows/s, matrix product", *_rates(n, ours, product)


def bench_generate(model_folder: Path, n: int = 32, steps: int = 20) -> Measured:
    """Drawing against the guided UNet forwards alone."""
    model = fresh_model(model_folder)
    x_t = torch.randn(2 * n, *model.latent_shape)
    text = model.embed_text(["a picture"] * (2 * n))
    t = torch.full((2 * n,), 500)

    def forwards() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                model.unet(x_t, t, encoder_hidden_states=text)

    ours = lambda: model.draw(["a picture"] * n, list(range(n)), Sampling(steps=steps))  # noqa: E731
    return "generate", "pictures/s, UNet forwards", *_rates(n, ours, forwards, repeats=1)


def bench_cliques(n: int = 500) -> Measured:
    """All tiled distances of one caption's generations against sixteen matrix products."""
    pictures = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    tiles = pictures.reshape(n, 4, 8, 4, 8, 3).transpose(1, 3, 0, 2, 4, 5).reshape(16, n, -1)
    tiles = tiles.astype(np.float64)

    def products() -> None:
        for tile in tiles:
            tile @ tile.T

    ours = lambda: largest_clique(pairwise_tiled_l2(pictures), 0.15)  # noqa: E731
    return "verdict: tiled l2, cliques", "generations/s, 16 products", *_rates(n, ours, products)


def _rates(
    n: int, ours: Callable[[], object], limit: Callable[[], object], repeats: int = 3
) -> tuple[float, float, str]:
    ours()  # warm
    mine, best = n / seconds(ours, repeats), n / seconds(limit, repeats)
    return mine, best, f"{mine / best:.2f}"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    keep_memory()  # as every run does
    model = next((p for p in (Path("runs/demo/model"),) if p.is_dir()), None)
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder), copies=(1, 2, 4), pictures_per_level=4, limit=400)
        shard = sorted(Path(folder, "shards").glob("*.tar"))[0]
        samples, _ = group_members(scan_tar(shard).members)
        with shard.open("rb") as handle:
            places = [sample.members["jpg"] for sample in samples.values()]
            blobs = [read_member(handle, m.offset, m.size) for m in places]
        rows = [
            bench_scan(shard),
            bench_decode(blobs),
            bench_embed([decode(blob) for blob in blobs[:64]]),
            bench_pairs(),
            bench_cliques(),
        ]
        rows += [bench_generate(model)] if model else []
    table = Table("stage", "unit, limit", "ours", "limit", "ratio")
    for stage, unit, mine, best, ratio in rows:
        table.add_row(stage, unit, f"{mine:,.0f}", f"{best:,.0f}", ratio)
    console = Console(width=110)
    console.print(
        f"one thread, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    console.print(table)
    if model is None:
        console.print("generate: run `make demo` first; it is measured with the demo's model")


if __name__ == "__main__":
    main()
