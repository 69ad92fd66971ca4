"""calibrate dedup: thresholds of the joined encoders from edits of the user's own pictures.

A sample is chosen by hash. Some of its pictures are edited in the sixteen ways of
`pipeline.calibration.edits`; as many others serve as backgrounds of overlays and as nothing else;
the rest are distractors. `pipeline.calibration.thresholds` says what the thresholds mean, and what
they do not: the precision is that of pairs in this sample.

With a whitening to fit, the sample is split first: what is fitted on and what is measured on share
no picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from indexes.binary import BITS
from pipeline.batches import batched
from pipeline.calibration.edits import EDITS
from pipeline.calibration.record import Calibration, EncoderThreshold, FalsePair, Rate
from pipeline.calibration.sample import Place, Sample, choose
from pipeline.calibration.thresholds import (
    ORIGINAL,
    Labelled,
    Operating,
    least_strict,
    most_false,
    operate,
    score,
)
from pipeline.calibration.whitening import fit_whitening
from pipeline.config import COPY, RunConfig, joined_encoders
from pipeline.encoders import Encoded, Encoder, build_encoder
from pipeline.encoders.pdq import mirror_of
from pipeline.errors import UsageError
from pipeline.ids import hash63
from pipeline.io.images import ImageLimits
from pipeline.io.shards import find_shards

_BATCH = 32
_LEAST = 48
_WORST = 20


@dataclass(frozen=True)
class Plan:
    """How much is measured. `sample` pictures are drawn, at most `edited` of them edited.

    `same` names pairs ("shard/key") that a person has found to show one thing, mostly among the
    `worst` of an earlier calibration: the second of each is left out. One such pair in a sample
    gives up to 289 pairs that count as false, and decides the threshold alone.
    """

    precision: float = 0.999
    sample: int = 1500
    edited: int = 250
    whitening: Path | None = None
    same: tuple[tuple[str, str], ...] = ()


def calibrate_dedup(config: RunConfig, plan: Plan) -> Calibration:
    """Measure the encoders that `config` joins, on its shards.

    With `plan.whitening` a lite0-copy encoder is fitted on half of the sample, written there, and
    measured on the other half. Raises UsageError for fewer than 48 usable pictures in a half, and
    what `find_shards` and the encoders raise.
    """
    if not 0 < plan.precision <= 1:
        raise UsageError(f"--precision {plan.precision}: above 0 and at most 1")
    limits = ImageLimits(config.scan.formats, config.scan.max_pixels, config.scan.max_bytes)
    shards = find_shards(config.dataset.shards)
    sample = choose(shards, plan.sample, limits, config.seed)
    _leave_out_same(sample, plan.same)
    device = config.model.device
    encoders: dict[str, Encoder] = {
        name: build_encoder(config.embed.encoders[name], device) for name in joined_encoders(config)
    }
    places = sample.places
    if plan.whitening is not None:
        from pipeline.encoders.lite0_copy import Lite0Copy  # noqa: PLC0415  slow to import

        half = len(places) // 2
        _fit(places[half:], plan, limits, config)
        places = places[:half]
        encoders[COPY] = Lite0Copy(plan.whitening, device=device)
    if not encoders:
        raise UsageError("no encoder is joined; name one in pairs.min_similarity")
    split = _split(places, plan.edited)
    labelled = _label(split, encoders, limits, config)
    names = [place.name for place in split.scored]
    entries = {
        encoders[name].fingerprint: _entry(name, labelled[name], names, plan.precision)
        for name in encoders
    }
    return _record(config, sample, split, entries)


def parse_same(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs from "A,B". Raises UsageError for anything else."""
    pairs = []
    for text in texts:
        a, comma, b = text.partition(",")
        if not (a and comma and b) or "," in b or a == b:
            raise UsageError(f"--same {text}: two different pictures as SHARD/KEY,SHARD/KEY")
        pairs.append((a, b))
    return tuple(pairs)


def _leave_out_same(sample: Sample, same: Sequence[tuple[str, str]]) -> None:
    for a, b in same:
        names = {place.name for place in sample.places}
        if a in names and b in names:
            sample.places = [place for place in sample.places if place.name != b]
            sample.leave_out("same")


@dataclass(frozen=True)
class _Split:
    edited: Sequence[Place]
    backgrounds: Sequence[Place]
    distractors: Sequence[Place]

    @property
    def scored(self) -> list[Place]:
        return [*self.edited, *self.distractors]


def _require(places: Sequence[Place]) -> None:
    if len(places) < _LEAST:
        raise UsageError(
            f"{len(places)} usable pictures; at least {_LEAST} are needed, twice that to fit a "
            "whitening; give more shards or a larger --sample"
        )


def _split(places: Sequence[Place], edited: int) -> _Split:
    _require(places)
    k = min(edited, len(places) // 4)
    return _Split(places[:k], places[k : 2 * k], places[2 * k :])


def _shown(split: _Split, limits: ImageLimits, seed: int) -> Iterator[tuple[int, str, Image.Image]]:
    """Every picture of the set: number of its original, name of its edit, pixels."""
    for number, place in enumerate(split.scored):
        picture = place.read(limits)
        yield number, ORIGINAL, picture
        if number >= len(split.edited):
            continue
        background = split.backgrounds[number].read(limits)
        for name, edit in EDITS.items():
            rng = np.random.default_rng(hash63("edit", seed, place.name, name))
            yield number, name, edit(picture, rng, background)


def _label(
    split: _Split, encoders: Mapping[str, Encoder], limits: ImageLimits, config: RunConfig
) -> dict[str, Labelled]:
    original: list[int] = []
    edit: list[str] = []
    vectors: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in encoders}
    usable: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in encoders}
    for batch in batched(_shown(split, limits, config.seed), _BATCH):
        original += [number for number, _, _ in batch]
        edit += [name for _, name, _ in batch]
        pictures = [picture for _, _, picture in batch]
        for name, encoder in encoders.items():
            encoded = encoder.encode(pictures)
            rows, sound = encoded.vectors, np.ones(len(batch), bool)
            if encoder.metric == "cosine":
                rows = rows.astype(np.float16).astype(np.float32)  # as they are stored
                sound = np.isfinite(rows).all(axis=1) & (np.linalg.norm(rows, axis=1) > 0)
            elif encoder.metric == "hamming":
                rows, sound = _compared(encoded, config)
            vectors[name].append(rows)
            usable[name].append(sound)
    return {
        name: Labelled(
            np.concatenate(vectors[name]),
            encoder.metric,
            np.array(original, np.int64),
            np.array(edit),
            np.concatenate(usable[name]),
            mirror_of(config.pairs.pdq_variants) if encoder.metric == "hamming" else None,
        )
        for name, encoder in encoders.items()
    }


def _compared(
    encoded: Encoded, config: RunConfig
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Two hashes side by side (n, 64), as the join compares them, and which rows have a good one.

    In the place of one of too little quality stands the other.
    """
    trimmed = encoded.trimmed if "trimmed" in config.pairs.pdq_variants else None
    kinds = encoded, encoded if trimmed is None else trimmed
    whole, inside = (kind.vectors for kind in kinds)
    good, also_good = (
        np.ones(len(whole), bool)
        if kind.quality is None
        else np.asarray(kind.quality >= config.pairs.pdq_min_quality)
        for kind in kinds
    )
    first = np.where(good[:, None], whole, inside)
    second = np.where(also_good[:, None], inside, whole)
    return np.concatenate([first, second], axis=1), good | also_good


def _fit(places: Sequence[Place], plan: Plan, limits: ImageLimits, config: RunConfig) -> None:
    """Fit the whitening on these pictures and write it."""
    from pipeline.encoders.lite0_copy import Pooled  # noqa: PLC0415  slow to import

    if plan.whitening is None or plan.whitening.suffix != ".safetensors":
        raise UsageError(f"--whitening {plan.whitening}: name a .safetensors file")
    _require(places)
    k = min(plan.edited, len(places) // 2)
    # any other picture will do behind an overlay: nothing is judged here
    split = _Split(places[:k], places[1 : k + 1], places[k:])
    pooled = {"pooled": Pooled(device=config.model.device)}
    seen = _label(split, pooled, limits, config)["pooled"]
    is_original = seen.edit == ORIGINAL  # in the order of their numbers
    fitted = fit_whitening(
        seen.vectors[is_original], seen.vectors[~is_original], seen.original[~is_original]
    )
    fitted.save(plan.whitening)


def _entry(name: str, labelled: Labelled, names: list[str], target: float) -> EncoderThreshold:
    scores = score(labelled, most_false(labelled, target) + 1)
    at = least_strict(scores, target)
    if at is None:
        return EncoderThreshold(
            name=name,
            metric=labelled.metric,
            target=target,
            min_similarity=None,
            true_pairs=0,
            false_pairs=0,
            false_originals=0,
        )
    return _measured(name, labelled, operate(scores, at), names, target)


def _measured(
    name: str, labelled: Labelled, found: Operating, names: list[str], target: float
) -> EncoderThreshold:
    bits = round((1 - found.similarity) * BITS) if labelled.metric == "hamming" else None
    recall = {
        edit: Rate(hits=r.hits, n=r.n, ci_low=r.interval[0], ci_high=r.interval[1])
        for edit, r in found.recall.items()
    }
    worst = [FalsePair(a=names[a], b=names[b], similarity=s) for a, b, s in found.worst[:_WORST]]
    return EncoderThreshold(
        name=name,
        metric=labelled.metric,
        target=target,
        min_similarity=found.similarity,
        max_distance=bits,
        precision=found.precision,
        precision_ci=found.precision_interval,
        true_pairs=found.true_pairs,
        false_pairs=found.false_pairs,
        false_rate_upper=found.false_rate_bound,
        mean_recall=found.mean_recall,
        recall=recall,
        false_originals=len(found.worst),
        worst=tuple(worst),
    )


def _record(
    config: RunConfig, sample: Sample, split: _Split, entries: dict[str, EncoderThreshold]
) -> Calibration:
    return Calibration(
        seed=config.seed,
        originals=len(split.scored),
        edited=len(split.edited),
        left_out=dict(sorted(sample.left_out.items())),
        encoders=entries,
    )
