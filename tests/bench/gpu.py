"""What a GPU does: the join of millions of vectors, and the forward of CLIP's image towers.

    python -m tests.bench.gpu [--device cuda] [--rows 10000000] [--models ViT-B-32 ViT-L-14]

Join: `indexes.cell_join` on the device beside an exact torch product with top-k, and FAISS's GPU
indexes where FAISS has some; the last ones for a sample of queries, extrapolated to all. Embedding:
pictures a second of our encoder, preprocessing on the CPU included, beside the bare forward of a
batch that lies on the device. Architectures are the published ones, weights are drawn at random.

Vectors are synthetic: a mean direction, variances that fall as 1 / rank, a tenth near-duplicates.
Nothing is asserted but that both ways find pairs; timings belong to the machine they were taken on.
What is not installed is left out, and said so.
"""

import argparse
import functools
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

_D = 512
_THRESHOLD = 0.9
_K = 16
_QUERIES = 4096
_BLOCK = 1 << 17
_PROBES = 16
_ALSO_ON_CPU = 1_000_000
_CONSOLE = Console(width=120)


def timed(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds of the fastest run, until the device is done."""
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_set(path: Path, n: int, device: torch.device) -> None:
    """n vectors (n, 512) in fp16."""
    generator = torch.Generator(device).manual_seed(0)
    spread = torch.arange(1, _D + 1, device=device).rsqrt()
    mean = torch.randn(_D, generator=generator, device=device) / _D**0.5
    out = np.lib.format.open_memmap(path, "w+", np.float16, (n, _D))
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        noise = torch.randn(size, _D, generator=generator, device=device)
        block = torch.nn.functional.normalize(mean + noise * spread, dim=1)
        copies = size // 10
        edit = torch.randn(copies, _D, generator=generator, device=device) * 0.2 / _D**0.5
        block[size - copies :] = block[:copies] + edit
        out[start : start + size] = torch.nn.functional.normalize(block, dim=1).half().cpu().numpy()
    out.flush()


def on_device(vectors: np.ndarray, device: torch.device) -> torch.Tensor:
    """All vectors, in half precision on a GPU, in fp32 on a CPU."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    every = torch.empty(vectors.shape, dtype=dtype, device=device)
    for start in range(0, len(vectors), _BLOCK):
        block = np.array(vectors[start : start + _BLOCK])
        every[start : start + len(block)] = torch.from_numpy(block).to(device, dtype)
    return every


def exact_neighbours(every: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The k rows with the largest products of each query, over blocks: scores and rows."""
    best = torch.full((len(queries), _K), -2.0, dtype=every.dtype, device=every.device)
    rows = torch.zeros(len(queries), _K, dtype=torch.int64, device=every.device)
    for start in range(0, len(every), _BLOCK):
        found, place = (queries @ every[start : start + _BLOCK].T).topk(
            min(_K, len(every) - start), dim=1
        )
        best, order = torch.cat([best, found], dim=1).topk(_K, dim=1)
        rows = torch.cat([rows, start + place], dim=1).gather(1, order)
    return best, rows


def bench_join(n: int, device: torch.device, threads: int) -> Table:
    """The ways to find near-duplicates, one row each."""
    table = Table("join", "seconds", "of it preparing", "extrapolated", "recall on a sample")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        write_set(path, n, device)
        vectors = np.load(path, mmap_mode="r")
        chosen = np.sort(np.random.default_rng(1).permutation(n)[:_QUERIES])
        true = exact_row(table, vectors, chosen, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        faiss_rows(table, vectors, chosen, true)
        if importlib.util.find_spec("faiss") is None:
            table.add_row("ours: needs faiss for its k-means", "", "", "", "")
        else:
            our_rows(table, vectors, chosen, true, device, threads)
    return table


def exact_row(
    table: Table, vectors: np.ndarray, chosen: np.ndarray, device: torch.device
) -> set[tuple[int, int]]:
    """All products of the chosen rows; returns their pairs."""
    every = on_device(vectors, device)
    queries = every[torch.from_numpy(chosen).to(device)]
    exact_neighbours(every, queries[:8])
    seconds = timed(lambda: exact_neighbours(every, queries), device)
    scale = len(vectors) / len(chosen)
    label = f"exact: torch, {str(every.dtype).removeprefix('torch.')}, top {_K}"
    table.add_row(label, f"{seconds * scale:,.1f}", "", f"{scale:,.0f} x", "")
    return _near(chosen, *exact_neighbours(every, queries))


def our_rows(
    table: Table,
    vectors: np.ndarray,
    chosen: np.ndarray,
    true: set[tuple[int, int]],
    device: torch.device,
    threads: int,
) -> None:
    """Cells, filled by the CPU, and the join in them on the device and on the CPU."""
    import indexes

    ids = np.arange(len(vectors))
    start = time.perf_counter()
    cells = indexes.build_cells(vectors, ids, threads=threads)
    built = time.perf_counter() - start
    ways = (str(device), None) if len(vectors) <= _ALSO_ON_CPU else (str(device),)
    for where in ways:
        start = time.perf_counter()
        pairs = indexes.cell_join(vectors, ids, cells, _THRESHOLD, device=where)
        joined = time.perf_counter() - start
        mine = np.isin(pairs.id_a, chosen) | np.isin(pairs.id_b, chosen)
        found = set(zip(pairs.id_a[mine].tolist(), pairs.id_b[mine].tolist(), strict=True))
        label = f"ours: cells, {where or 'CPU, sketches'}; {len(pairs):,} pairs"
        recall = f"{len(true & found)} of {len(true)}"
        table.add_row(label, f"{built + joined:,.1f}", f"{built:,.1f}", "", recall)


def faiss_rows(
    table: Table,
    vectors: np.ndarray,
    chosen: np.ndarray,
    true: set[tuple[int, int]],
) -> None:
    """FAISS's flat and inverted-list indexes on GPU 0."""
    if importlib.util.find_spec("faiss") is None:
        return
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        table.add_row("FAISS on a GPU: none in this build, or no GPU", "", "", "", "")
        return
    resources = faiss.StandardGpuResources()
    queries = np.ascontiguousarray(vectors[chosen], np.float32)
    lists, scale = max(1, round(len(vectors) ** 0.5)), len(vectors) / len(chosen)
    flat, inverted = faiss.GpuIndexFlatConfig(), faiss.GpuIndexIVFFlatConfig()
    flat.useFloat16 = True
    made = {
        "FAISS GpuIndexFlatIP, fp16": lambda: faiss.GpuIndexFlatIP(resources, _D, flat),
        f"FAISS GpuIndexIVFFlat, {lists} lists, nprobe {_PROBES}": lambda: faiss.GpuIndexIVFFlat(
            resources, _D, lists, faiss.METRIC_INNER_PRODUCT, inverted
        ),
    }
    for label, make in made.items():
        start = time.perf_counter()
        try:
            index = make()
            some = np.random.default_rng(0).permutation(len(vectors))[: 64 * lists]
            index.train(np.ascontiguousarray(vectors[np.sort(some)], np.float32))
            for first in range(0, len(vectors), _BLOCK):
                index.add(np.ascontiguousarray(vectors[first : first + _BLOCK], np.float32))
            if hasattr(index, "nprobe"):
                index.nprobe = _PROBES
            ready = time.perf_counter() - start
            index.search(queries[:8], _K)
            start = time.perf_counter()
            scores, rows = index.search(queries, _K)
        except RuntimeError as error:  # no room on the device, most likely
            table.add_row(label, str(error).strip().splitlines()[-1][:40], "", "", "")
            continue
        seconds = (time.perf_counter() - start) * scale
        found = _near(chosen, torch.from_numpy(scores), torch.from_numpy(rows))
        recall = f"{len(true & found)} of {len(true)}"
        times = [f"{ready + seconds:,.1f}", f"{ready:,.1f}", f"{scale:,.0f} x"]
        table.add_row(label, *times, recall)
        del index


def _near(chosen: np.ndarray, scores: torch.Tensor, rows: torch.Tensor) -> set[tuple[int, int]]:
    """Pairs of queries and others at the threshold; those within an fp16 step of it left out."""
    place, rank = (scores >= _THRESHOLD + 1e-3).nonzero(as_tuple=True)
    other = rows[place, rank].cpu().numpy()
    own = chosen[place.cpu().numpy()]
    return {(int(min(a, b)), int(max(a, b))) for a, b in zip(own, other, strict=True) if a != b}


def bench_embed(name: str, device: torch.device, batch: int, repeats: int) -> list[list[str]]:
    """Pictures a second of one open_clip model: our encoder, then the forward alone."""
    import open_clip
    from PIL import Image
    from safetensors.torch import save_file

    from pipeline.config import Encoder
    from pipeline.encoders import build_encoder

    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None).eval()
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)) for _ in range(batch)
    ]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_file({key: v.contiguous() for key, v in model.state_dict().items()}, weights)
        encoder = build_encoder(Encoder(kind="open_clip", model=name, weights=weights), str(device))
    encoder.encode(pictures[:2])
    ours = batch / timed(lambda: encoder.encode(pictures), device, repeats)
    rows = [[name, "ours, pictures in, vectors out", str(batch), f"{ours:,.1f}"]]
    visual = model.visual.to(device)
    side = visual.image_size if isinstance(visual.image_size, int) else max(visual.image_size)
    for dtype in (torch.float32, torch.bfloat16):
        visual = visual.to(dtype)
        images = torch.randn(batch, 3, side, side, device=device, dtype=dtype)

        _forward(visual, images[:2])
        work = functools.partial(_forward, visual, images)
        rate = batch / timed(work, device, repeats)
        label = f"forward alone, {str(dtype).removeprefix('torch.')}"
        rows.append([name, label, str(batch), f"{rate:,.1f}"])
    return rows


@torch.inference_mode()
def _forward(network: torch.nn.Module, images: torch.Tensor) -> None:
    network(images)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--models", nargs="*", default=["ViT-B-32", "ViT-L-14"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --rows 20000 --batch 4 tries the same code")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    _CONSOLE.print(f"{name}, torch {torch.__version__}, {given.threads} threads")
    if given.rows:
        _CONSOLE.print(f"{given.rows:,} x {_D}, cosine {_THRESHOLD}")
        _CONSOLE.print(bench_join(given.rows, device, given.threads))
    table = Table("model", "", "batch", "pictures/s")
    missing = [m for m in ("open_clip", "safetensors", "timm") if not importlib.util.find_spec(m)]
    if given.models and missing:
        _CONSOLE.print(f"embedding left out: no {', '.join(missing)}")
        return
    for model in given.models:
        for row in bench_embed(model, device, given.batch, repeats=3):
            table.add_row(*row)
    if given.models:
        _CONSOLE.print(table)


if __name__ == "__main__":
    main()
