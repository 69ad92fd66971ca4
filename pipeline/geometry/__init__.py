"""Whether two pictures show the same one, by aligning them: what global descriptors miss.

    same_picture(local_features(a), local_features(b))

Three steps, each a module: local features, the alignment that they vote for, and the agreement of
the pixels once aligned.
"""

from pipeline.geometry.agreement import Agreement, agreement
from pipeline.geometry.alignment import Alignment, align
from pipeline.geometry.confirm import Rule, same_picture
from pipeline.geometry.features import LocalFeatures, local_features

__all__ = [
    "Agreement",
    "Alignment",
    "LocalFeatures",
    "Rule",
    "agreement",
    "align",
    "local_features",
    "same_picture",
]
