"""Encoders by the name of their kind; each is built once a process."""

from functools import lru_cache

from pipeline import config
from pipeline.encoders.base import Encoded, Encoder, Metric
from pipeline.errors import ModelError

METRICS: dict[str, Metric] = {"pdq": "hamming", "pixels": "l2"}


def build_encoder(spec: config.Encoder, device: str = "cpu") -> Encoder:
    """Build (or reuse) the encoder that a configuration names."""
    return _build(spec.model_dump_json(), device)


def metric_of(spec: config.Encoder) -> Metric:
    """The metric of an encoder's vectors, without loading it."""
    return METRICS.get(spec.kind, "cosine")


@lru_cache(maxsize=8)
def _build(text: str, device: str) -> Encoder:  # noqa: PLR0911  one kind, one return
    # each imported where used: hashes alone should not wait for open_clip
    spec = config.Encoder.model_validate_json(text)
    match spec.kind:
        case "lite0":
            from pipeline.encoders.lite0 import SIDE, Lite0  # noqa: PLC0415

            return Lite0(spec.size or SIDE, device)
        case "lite0-copy" if spec.weights is not None:
            from pipeline.encoders.lite0_copy import SIZE, Lite0Copy  # noqa: PLC0415

            return Lite0Copy(
                spec.weights, sha256=spec.sha256, size=spec.size or SIZE, device=device
            )
        case "pdq":
            from pipeline.encoders.pdq import Pdq  # noqa: PLC0415

            return Pdq()
        case "pixels":
            from pipeline.encoders.pixels import Pixels  # noqa: PLC0415

            return Pixels(spec.size or 16)
        case "open_clip":
            from pipeline.encoders.clip import OpenClip  # noqa: PLC0415

            return OpenClip(
                spec.model or "",
                pretrained=spec.pretrained,
                weights=spec.weights,
                sha256=spec.sha256,
                device=device,
                dtype=spec.dtype,
            )
        case "timm":
            from pipeline.encoders.timm_encoder import Timm  # noqa: PLC0415

            return Timm(
                spec.model or "",
                weights=spec.weights,
                sha256=spec.sha256,
                size=spec.size,
                device=device,
            )
        case "sscd" if spec.weights is not None and spec.sha256 is not None:
            from pipeline.encoders.sscd import Sscd  # noqa: PLC0415

            return Sscd(spec.weights, sha256=spec.sha256, size=spec.size or 320, device=device)
        case config.GIVEN:
            raise ModelError("the vectors of this run were given; no encoder of ours makes more")
    raise ValueError(f"no encoder of kind {spec.kind}")


__all__ = ["Encoded", "Encoder", "Metric", "build_encoder", "metric_of"]
