"""Does a drawing show the picture? The audit's own rule, also for pictures outside its gallery.

A drawing is compared with the picture (and its near-duplicates) and with the nearest training
pictures of other groups, and judged as in `pipeline.detection.verdict`: the same thresholds for
targets and for pictures that were never trained, or their rates could not be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.detection.adaptive_l2 import nearest_ratio
from pipeline.detection.blank import is_blank
from pipeline.detection.l2 import pairwise_l2
from pipeline.detection.tiled_l2 import pairwise_tiled_l2
from pipeline.detection.verdict import HITS, GenerationEvidence, Match, Thresholds, judge_generation
from pipeline.erasure.attacks.subject import Box, Pictures


@dataclass(frozen=True, eq=False)
class Judged:
    """Whether each drawing (n,) shows the picture, and its tiled l2 to it."""

    shown: npt.NDArray[np.bool_]
    tiled_l2: npt.NDArray[np.float64]


def judge(
    drawings: Pictures, own: Pictures, others: Sequence[Pictures], limits: Thresholds, box: Box
) -> Judged:
    """Judge drawings (n, s, s, 3) against `own` (k, s, s, 3), inside `box`.

    `others` holds, for each drawing, training pictures (m, s, s, 3) of other groups, m >= 0.
    """
    drawings, own = crop(drawings, box), crop(own, box)
    tiled, whole = pairwise_tiled_l2(drawings, own), pairwise_l2(drawings, own)
    empty, plain = is_blank(drawings), is_blank(own)
    shown = np.zeros(len(drawings), np.bool_)
    for i, rivals in enumerate(others):
        ratio: list[float | None] = [None] * len(own)
        l2_ratio = ratio
        if len(rivals):
            near = crop(rivals, box)
            ratio = _ratios(tiled[i], pairwise_tiled_l2(drawings[i : i + 1], near)[0])
            l2_ratio = _ratios(whole[i], pairwise_l2(drawings[i : i + 1], near)[0])
        matches = tuple(
            Match(
                image_id=j,
                group_id=0,
                tiled_l2=float(tiled[i, j]),
                l2=float(whole[i, j]),
                nearest_ratio=ratio[j],
                l2_ratio=l2_ratio[j],
                blank=bool(plain[j]),
            )
            for j in range(len(own))
        )
        evidence = GenerationEvidence(i, matches, blank=bool(empty[i]))
        shown[i] = judge_generation(evidence, limits).verdict in HITS
    return Judged(shown, tiled.min(axis=1))


def crop(pictures: Pictures, box: Box) -> Pictures:
    """The part of pictures (n, h, w, 3) inside a box of shares of the sides."""
    height, width = pictures.shape[1:3]
    top, left, bottom, right = box
    rows = slice(round(top * height), round(bottom * height))
    return np.ascontiguousarray(pictures[:, rows, round(left * width) : round(right * width)])


def _ratios(
    distances: npt.NDArray[np.float64], rivals: npt.NDArray[np.float64]
) -> list[float | None]:
    nearest = np.full(len(distances), rivals.min())
    return [float(ratio) for ratio in nearest_ratio(distances, nearest)]
