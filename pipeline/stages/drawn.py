"""Drawings that are in no table yet, judged like those that are: against all training pictures."""

from PIL import Image

from pipeline.detection.blank import is_blank
from pipeline.detection.verdict import GenerationEvidence
from pipeline.erasure.targets import Pictures
from pipeline.stages.gallery import Gallery, Row
from pipeline.stages.judging import gather

Seen = tuple[GenerationEvidence, list[Row]]


def seen_in(drawn: Pictures, gallery: Gallery) -> list[Seen]:
    """The evidence on each drawing (n, h, w, 3) and its matches, of which a blank one has none."""
    measured = gallery.measure([Image.fromarray(picture) for picture in drawn])
    seen = []
    for i, (blank, rows) in enumerate(zip(is_blank(drawn), measured, strict=True)):
        matches = [] if blank else rows
        generation = {"generation_id": i, "status": "rejected" if blank else "ok"}
        seen.append((gather(generation, matches, searched=True), matches))
    return seen
