"""Small training sets for tests: pictures that differ, shards in the img2dataset layout."""

import io
import json
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw


def picture(seed: int, size: int = 96) -> Image.Image:
    """A picture of coloured shapes, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x0, y0 = rng.integers(0, size - 10, 2)
        x1, y1 = x0 + rng.integers(8, size // 2), y0 + rng.integers(8, size // 2)
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(x0), int(y0), int(x1), int(y1)), fill=colour)
    return image


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass
class ShardBuilder:
    """Members in order; `rows` become the Parquet where there are any."""

    path: Path
    members: list[tuple[str, bytes]] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, key: str, data: bytes, caption: str, *, extension: str = "jpg", **row: object):
        """One sample with its row."""
        self.members += [
            (f"{key}.{extension}", data),
            (f"{key}.json", json.dumps({"key": key}).encode()),
            (f"{key}.txt", caption.encode()),
        ]
        uid = f"{int(key, 36) if key.isalnum() else abs(hash(key)):032x}"
        self.rows.append(
            {"key": key, "caption": caption, "status": "success", "error_message": None}
            | {"url": f"https://example.org/{key}.jpg", "uid": uid}
            | row
        )
        return self

    def write(self, *, metadata: bool = True) -> Path:
        """Write tar, Parquet and statistics."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in self.members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        if metadata:
            pq.write_table(pa.Table.from_pylist(self.rows), self.path.with_suffix(".parquet"))
            stats = {"count": len(self.rows), "successes": len(self.rows)}
            self.path.with_name(f"{self.path.stem}_stats.json").write_text(json.dumps(stats))
        return self.path


def members(shards: Path) -> dict[str, dict[str, bytes]]:
    """Every member's bytes by key and extension, of all tars in a folder."""
    rows: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                rows[key][extension] = tar.extractfile(member).read()
    return dict(rows)
