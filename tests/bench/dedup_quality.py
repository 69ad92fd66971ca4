"""Which share of edited copies is found: `python -m tests.bench.dedup_quality --photos FOLDER`.

FOLDER holds pictures that are all different (jpg, png). In the order of the hashes of their names,
a third serves to fit the whitening of lite0-copy and nothing else; of the rest up to 250 are edited
in 16 ways, as many lend their pixels as backgrounds of overlays and are not in the set, and the
others are distractors. Each system gives pairs of files; precision is over all its pairs, recall
over (original, edit) pairs. "lost" counts originals of which nothing is left when one file is kept
of each connected component. Rows with "P >= 0.999" are at the least strict threshold with that
precision on this very set: what the descriptor can do, not what a user gets without calibrating.

`--peers VENV` adds the tools that this environment has, at their defaults. `--look-alike A,B` takes
the pairs of two originals out, by the names of their files: one pair of photographs of the same
thing gives up to 289 pairs. Nothing is asserted.
"""

import argparse
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import indexes
from pipeline.batches import batched
from pipeline.calibration.edits import EDITS
from pipeline.calibration.thresholds import ORIGINAL, Labelled, least_strict, most_false, score
from pipeline.calibration.whitening import fit_whitening
from pipeline.encoders.base import Encoder
from pipeline.encoders.lite0 import Lite0
from pipeline.encoders.lite0_copy import Lite0Copy, Pooled
from pipeline.encoders.pdq import Pdq
from pipeline.io.images import decode
from tests.bench.dedup_peers import TOOLS

PRECISION = 0.999
_PDQ_BITS, _PDQ_QUALITY = 31, 50
_LITE0 = 0.90
Rows = np.ndarray


@dataclass(frozen=True)
class Files:
    """The set: files, the original that each shows, and what was done to it."""

    paths: list[Path]
    original: np.ndarray
    edit: np.ndarray

    def pictures(self) -> Iterator[Image.Image]:
        """Decoded, in order."""
        return (decode(path.read_bytes()) for path in self.paths)


@dataclass(frozen=True)
class Result:
    """What a system found: pairs of rows (m, 2), and seconds."""

    system: str
    threshold: str
    seconds: float
    pairs: Rows


def build(photos: Sequence[Path], backgrounds: Sequence[Path], edited: int, folder: Path) -> Files:
    """Write originals and the edits of the first `edited`, as JPEG at quality 95."""
    folder.mkdir()
    names: list[tuple[int, str]] = []
    for number, path in enumerate(photos):
        first = folder / f"{number:05d}-{ORIGINAL}.jpg"
        _small(path).save(first, quality=95)
        names.append((number, ORIGINAL))
        if number >= edited:
            continue
        picture, background = decode(first.read_bytes()), _small(backgrounds[number])
        for place, (name, edit) in enumerate(EDITS.items()):
            target = folder / f"{number:05d}-{name}.jpg"
            if name == "exact":
                target.write_bytes(first.read_bytes())
            else:
                rng = np.random.default_rng([number, place])
                edit(picture, rng, background).save(target, quality=95)
            names.append((number, name))
    paths = [folder / f"{number:05d}-{name}.jpg" for number, name in names]
    return Files(paths, np.array([n for n, _ in names]), np.array([e for _, e in names]))


def label(files: Files, encoder: Encoder) -> Labelled:
    """Embed the set."""
    blocks, usable = [], []
    for batch in batched(files.pictures(), 32):
        encoded = encoder.encode(batch)
        blocks.append(encoded.vectors)
        sound = encoded.quality is None or encoded.quality >= _PDQ_QUALITY
        usable.append(np.broadcast_to(sound, len(batch)))
    vectors = np.concatenate(blocks)
    return Labelled(vectors, encoder.metric, files.original, files.edit, np.concatenate(usable))


def join(labelled: Labelled, threshold: float) -> Rows:
    """Pairs at a cosine, or at a number of bits."""
    rows = np.flatnonzero(labelled.usable)
    vectors = labelled.vectors[rows]
    if labelled.metric == "hamming":
        found = indexes.hamming_join(vectors, rows, int(threshold))
    else:
        found = indexes.self_join(vectors, rows, threshold)
    return np.stack([found.id_a, found.id_b], axis=1)


def union(*pairs: Rows) -> Rows:
    """Each pair once."""
    return np.unique(np.concatenate(pairs), axis=0)


def ours(files: Files, fitting: Files) -> Iterator[Result]:
    """Our encoders, and each with PDQ as the pairs stage joins them."""
    start = time.perf_counter()
    pdq = join(label(files, Pdq()), _PDQ_BITS)
    hashing = time.perf_counter() - start
    yield Result("pdq", f"{_PDQ_BITS} bits", hashing, pdq)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whitening.safetensors")
        seen = label(fitting, Pooled())
        is_original = seen.edit == ORIGINAL
        fit_whitening(
            seen.vectors[is_original], seen.vectors[~is_original], seen.original[~is_original]
        ).save(path)
        encoders: dict[str, Encoder] = {"lite0": Lite0(), "lite0-copy": Lite0Copy(path)}
    for name, encoder in encoders.items():
        start = time.perf_counter()
        labelled = label(files, encoder)
        spent = time.perf_counter() - start
        if name == "lite0":
            found = join(labelled, _LITE0)
            yield Result(name, f"{_LITE0}", spent, found)
            yield Result("lite0 + pdq (default)", f"{_LITE0}", spent + hashing, union(found, pdq))
        for target in (PRECISION, 0.99):
            at = least_strict(score(labelled, most_false(labelled, target) + 1), target)
            if at is None:
                continue
            found = join(labelled, at)
            shown = f"{at:.3f} (P >= {target})"
            yield Result(name, shown, spent, found)
            yield Result(f"{name} + pdq", shown, spent + hashing, union(found, pdq))


def peers(files: Files, environment: Path) -> Iterator[Result]:
    """The other tools, each in a process of its own."""
    row_of = {path.name: row for row, path in enumerate(files.paths)}
    script = Path(__file__).with_name("dedup_peers.py")
    for tool in TOOLS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "pairs.json")
            command = [str(environment / "bin" / "python"), str(script), tool]
            start = time.perf_counter()
            done = subprocess.run(
                [*command, str(files.paths[0].parent), str(out)], capture_output=True, text=True
            )
            spent = time.perf_counter() - start
            if done.returncode:
                reason = "not installed" if done.returncode == 3 else done.stderr.strip()[-200:]
                Console(stderr=True).print(f"{tool}: {reason}", markup=False)
                continue
            named = json.loads(out.read_text())
        pairs = [sorted((row_of[a], row_of[b])) for a, b in named if a != b]
        yield Result(tool, "default", spent, union(np.array(pairs).reshape(-1, 2)))


def rows_of_table(files: Files, result: Result, ignored: set[tuple[int, int]]) -> list[str]:
    """The measures of one system, as text."""
    a, b = files.original[result.pairs[:, 0]], files.original[result.pairs[:, 1]]
    look_alike = np.array([tuple(sorted(pair)) in ignored for pair in zip(a, b, strict=True)], bool)
    true, false = int((a == b).sum()), int(((a != b) & ~look_alike).sum())
    found = {name: 0 for name in EDITS}
    edits = files.edit[result.pairs[a == b]]
    for first, second in edits:
        if ORIGINAL in (first, second):
            found[second if first == ORIGINAL else first] += 1
    n = int((files.edit == "exact").sum())
    ids = np.arange(len(files.paths))
    component = indexes.connected_components(ids, result.pairs[:, 0], result.pairs[:, 1])
    kept = files.original[component == ids]
    lost = len(np.unique(files.original)) - len(np.unique(kept))
    missed = ", ".join(f"{name} {hits / n:.2f}" for name, hits in found.items() if hits < 0.995 * n)
    recall = np.mean([hits / n for hits in found.values()])
    precision = true / (true + false) if len(result.pairs) else 1.0
    shown = f"{precision:.4f} ({false} false)"
    return [
        result.system,
        result.threshold,
        f"{result.seconds:.0f}",
        shown,
        f"{recall:.3f}",
        str(lost),
        missed,
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--edited", type=int, default=250)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--look-alike", action="append", default=[], metavar="A,B")
    given = parser.parse_args(arguments)
    found = [p for p in given.photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    photos = sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    if len(photos) < 60:
        parser.error(f"{given.photos}: {len(photos)} pictures, at least 60 are needed")
    third = len(photos) // 3
    fitting, rest = photos[:third], photos[third:]
    k, j = min(given.edited, len(rest) // 3), min(given.edited, third // 2)
    place = {path.name: number for number, path in enumerate(rest[k:])}
    ignored = {
        tuple(sorted(place.get(name, -1) for name in pair.split(","))) for pair in given.look_alike
    }
    with tempfile.TemporaryDirectory() as folder:
        files = build(rest[k:], rest[:k], k, Path(folder, "set"))
        fit = build(fitting, fitting[1:], j, Path(folder, "fit"))
        table = Table("system", "threshold", "s", "pair precision", "mean recall", "lost", "recall")
        table.title = f"{len(files.paths)} files: {len(rest) - k} pictures, {k} edited in 16 ways"
        results = list(ours(files, fit))
        results += list(peers(files, given.peers)) if given.peers else []
        for result in results:
            table.add_row(*rows_of_table(files, result, ignored))
    Console(width=180).print(table)


def _small(path: Path) -> Image.Image:
    picture = decode(path.read_bytes())
    picture.thumbnail((512, 512), Image.Resampling.LANCZOS)
    return picture


if __name__ == "__main__":
    main()
