"""Thumbnails as data URIs, always encoded anew: no byte of a training file reaches the page.

Small pictures stay as they are and are enlarged by the browser; large ones are reduced. In a
redacted report a picture becomes a few blocks of colour, from which nothing can be restored.
"""

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import InputError
from pipeline.io import schemas
from pipeline.io.images import ImageLimits, decode
from pipeline.io.manifest import TrainingImages
from pipeline.io.shards import iterate_samples, picture_bytes
from pipeline.io.tables import read_table
from pipeline.report.sources import Sources
from pipeline.report.text import short_hash

_SIDE = 192
_LOSSLESS_SIDE = 64
_REDACTED_SIDE = 4


def thumbnail(picture: Image.Image, *, redact: bool) -> str:
    """A data URI of a small copy of an RGB picture."""
    bare = Image.fromarray(np.asarray(picture.convert("RGB")))  # pixels only, no profile or EXIF
    if redact:
        bare = bare.resize((_REDACTED_SIDE, _REDACTED_SIDE), Image.Resampling.BOX)
    bare.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    kind = "PNG" if max(bare.size) <= _LOSSLESS_SIDE else "WEBP"
    buffer = io.BytesIO()
    bare.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 82}))
    return data_uri(buffer.getvalue(), kind.lower())


def data_uri(data: bytes, kind: str) -> str:
    """`data` as the address of an image of that kind."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Pictures:
    """Thumbnails by id, read once; a picture that cannot be read is counted and left out.

    `limits` are those of drawings, which may be another generator's; `training` has its own.
    """

    def __init__(
        self, sources: Sources, training: TrainingImages | None, limits: ImageLimits
    ) -> None:
        self._sources, self._training, self._limits = sources, training, limits
        self._redact = sources.context.config.report.redact
        self._seen: dict[int, str | None] = {}
        self.unreadable = 0

    def training(self, image_id: int | None) -> str | None:
        """A training picture."""
        if image_id is None or self._training is None:
            return None
        if image_id not in self._seen:
            self._seen[image_id] = self._read_training(self._training, image_id)
        return self._seen[image_id]

    def caption(self, image_id: int) -> str:
        """The caption of a training picture, hashed in a redacted report."""
        try:
            caption = str(self._training.row(image_id)["caption"]) if self._training else ""
        except InputError:
            return ""
        return short_hash(caption) if self._redact else caption

    def generations(self, wanted: Iterable[int]) -> dict[int, str]:
        """Generated pictures by generation_id."""
        ids = set(wanted)
        found: dict[int, str] = {}
        for table in self._sources.find("generations/*.parquet"):
            rows = read_table(table, schemas.GENERATIONS, columns=["generation_id", "key"])
            keys = {r["key"]: r["generation_id"] for r in rows.to_pylist()}
            chosen = {key: known for key, known in keys.items() if known in ids}
            drawn = self._drawn(table.with_suffix(".tar"), chosen.keys())
            found.update({chosen[key]: uri for key, uri in drawn})
        return found

    def redraws(self, wanted: Iterable[str]) -> dict[str, str]:
        """Pictures drawn for the comparison of models, by key."""
        keys = set(wanted)
        found: dict[str, str] = {}
        for path in self._sources.find("redraws/*.tar") if keys else []:
            found.update(self._drawn(path, keys))
        return found

    def _drawn(self, tar: Path, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        wanted = set(keys)
        if not wanted or not tar.is_file():
            return
        for sample in iterate_samples(tar, wanted):
            try:
                picture = decode(picture_bytes(sample), self._limits)
                yield sample["__key__"], thumbnail(picture, redact=self._redact)
            except InputError:
                self.unreadable += 1

    def _read_training(self, training: TrainingImages, image_id: int) -> str | None:
        try:
            return thumbnail(training.picture(image_id), redact=self._redact)
        except (InputError, OSError):  # the shards may have moved since the scan
            self.unreadable += 1
            return None
