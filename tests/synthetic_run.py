"""A run folder made from the schemas alone: no model, no index, a second to write.

Some groups are reproduced and some are not, as the number of copies has it; one picture of the
shard is damaged; two methods were erased with and verified.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import make_config
from pipeline.ids import hash63, prompt_id
from pipeline.io import schemas
from pipeline.io.images import encode_png
from pipeline.io.manifest import read_images
from pipeline.io.runjson import write_run
from pipeline.io.shards import write_shard
from pipeline.io.tables import write_rows
from pipeline.runner.part import Context
from pipeline.stages import scan

DRAWS = 4
METHODS = ("esd-x", "esd-gt")
COPIES = (1, 1, 1, 1, 2, 4, 16, 64)
DISTANCES = {
    "similarity": 0.97,
    "l2": 0.04,
    "tiled_l2": 0.08,
    "masked_l2": None,
    "l2_ratio_50nn": 0.4,
    "nearest_ratio": 0.25,
}
COLLATERAL = {
    "damage": ["the denoising loss on control pictures rose by 7.0% or more at 95 %, 5% allowed"],
    "max_loss_change": 0.05,
    "max_drift_ratio": 1.0,
    "collateral": {
        "loss": {
            "target": {
                "pictures": 2,
                "change": 2.5,
                "interval": None,
                "status": None,
                "levels": [{"timestep": 500, "before": 0.1, "after": 0.35, "change": 2.5}],
            },
            "control": {
                "pictures": 24,
                "change": 0.0812,
                "interval": [0.07, 0.0943],
                "status": "beyond",
                "levels": [
                    {"timestep": 250, "before": 0.2, "after": 0.214, "change": 0.0701},
                    {"timestep": 750, "before": 0.1, "after": 0.109, "change": 0.0923},
                ],
            },
        },
        "oracle": {
            "pictures": 2,
            "change": 0.611,
            "interval": None,
            "levels": [{"timestep": 500, "before": 0.2, "after": 0.35, "change": 0.611}],
        },
        "kid": {
            "control": {
                "pictures": 24,
                "drawings": 144,
                "kid": 0.00587,
                "interval": [-0.0025, 0.0165],
                "floor": [-0.0149, 0.0184],
                "status": "within",
            },
            "kept": {
                "pictures": 3,
                "drawings": 12,
                "kid": 0.1,
                "interval": None,
                "floor": None,
                "status": "cannot tell",
            },
        },
        "drift": {
            "near": {"captions": 8, "ratio": 0.317, "interval": [0.25, 0.38]},
            "far": {"captions": 8, "ratio": None, "interval": None},
        },
    },
}
Row = dict[str, Any]


def pictures_of(count: int, side: int = 32) -> list[np.ndarray]:
    """Pictures that differ: a coloured disc on a coloured ground."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        ground, disc = rng.integers(0, 255, (2, 3))
        inside = (x - rng.uniform(-0.2, 0.2)) ** 2 + (y - rng.uniform(-0.2, 0.2)) ** 2 < 0.08
        made.append(np.where(inside[..., None], disc, ground).astype(np.uint8))
    return made


class SyntheticRun:
    """Writes the tables stage by stage; leave one out to have a run without it."""

    def __init__(
        self,
        run: Path,
        captions: Sequence[str] | None = None,
        *,
        copies: Sequence[int] = COPIES,
        pictures: Sequence[np.ndarray] | None = None,
        draws: int = DRAWS,
        **settings: Any,
    ) -> None:
        sets = [f"{name.replace('__', '.')}={json.dumps(v)}" for name, v in settings.items()]
        self.context = Context(run, make_config({}, sets))
        self.run, self.copies, self.draws = run, copies, draws
        own = (f"picture {i}: thing{i}, scene{i}" for i in range(len(copies)))
        self.captions = list(captions or own)
        self.pictures = list(pictures or pictures_of(len(copies)))
        write_run(run, self.context.config)

    def everything(self) -> "SyntheticRun":
        self.dataset()
        self.audit()
        self.erasure()
        self.demo()
        return self

    def dataset(self) -> None:
        """Shards, scanned by the real stage, and groups by the picture that a row is a copy of."""
        samples: list[Row] = []
        for number, (copies, caption) in enumerate(zip(self.copies, self.captions, strict=True)):
            for copy in range(copies):
                shifted = np.roll(self.pictures[number], copy % 3, axis=1)
                data = {"png": encode_png(shifted), "txt": caption.encode()}
                samples.append({"__key__": f"{number:03d}{copy:03d}", **data})
        half = encode_png(self.pictures[0])[:60]
        samples.append({"__key__": "broken", "png": half, "txt": b"cut short"})
        samples.append({"__key__": "<img src=x onerror=alert(1)>", "png": half})
        write_shard(self.run / "shards/00000.tar", samples)
        for part in scan.plan(self.context):
            scan.run(part, self.context)
        rows = read_images(self.run, columns=["image_id", "key"]).to_pylist()
        self.members: dict[int, list[int]] = {}
        for row in sorted(rows, key=lambda row: row["key"]):
            self.members.setdefault(int(row["key"][:3]), []).append(row["image_id"])
        self.group = {number: min(ids) for number, ids in self.members.items()}
        groups = [
            self._duplicate(number, place, image)
            for number, ids in self.members.items()
            for place, image in enumerate(ids)
        ]
        groups.sort(key=lambda row: row["image_id"])
        write_rows(self.run / "duplicates.parquet", groups, schemas.DUPLICATES)
        captions = [
            {"group_id": group, "group_size": len(ids), "n_captions": 2, "caption_diversity": 0.5}
            for group, ids in ((self.group[n], ids) for n, ids in self.members.items())
            if len(ids) > 1
        ]
        captions.sort(key=lambda row: row["group_id"])
        write_rows(self.run / "caption_groups.parquet", captions, schemas.CAPTION_GROUPS)
        pair = {"id_a": 1, "id_b": 2, "similarity": 0.95, "reason": "descriptor"}
        write_rows(self.run / "pairs/lite0/part-00000.parquet", [pair] * 5, schemas.PAIRS)

    def audit(self) -> None:
        """Every caption drawn; the more copies, the more drawings show the picture."""
        drawn: list[Row] = []
        verdicts: list[Row] = []
        samples: list[Row] = []
        for number in range(len(self.copies)):
            for draw in range(self.draws):
                key = f"g{number:03d}{draw:03d}"
                hit = draw < self.hits(number)
                samples.append({"__key__": key, "png": encode_png(self.drawing(number, draw, hit))})
                drawn.append(self._generation(number, draw, key))
                verdicts.append(self._verdict(number, draw, drawn[-1]["generation_id"], hit))
        write_shard(self.run / "generations/00000.tar", samples)
        write_rows(self.run / "generations/00000.parquet", drawn, schemas.GENERATIONS)
        write_rows(self.run / "verdicts.parquet", verdicts, schemas.VERDICTS)
        self.findings = [self._finding(number) for number in range(len(self.copies))]
        write_rows(self.run / "findings.parquet", self.findings, schemas.FINDINGS)
        numbers = [n for n in range(len(self.copies)) if self.hits(n)]
        found = [self._extracted(n) for n in numbers]
        if found:  # the last drawing of the first one is nearest to another copy
            found[0]["n_generations"] -= 1
            found.append(found[0] | {"image_id": self.members[numbers[0]][1], "n_generations": 1})
        write_rows(self.run / "extracted.parquet", found, schemas.EXTRACTED)

    def erasure(self) -> None:
        """Two methods: the first leaves one drawing in four, the second none."""
        redraws: dict[str, list[Row]] = {}
        samples: dict[str, list[Row]] = {}
        arms = self.arms()
        for method in ("base", *METHODS):
            rows = redraws.setdefault(method, [])
            for arm, number in arms:
                for draw in range(self.draws):
                    hit = self._redrawn(method, arm, number, draw)
                    row = self._redraw(method, arm, number, draw, hit)
                    rows.append(row)
                    picture = encode_png(self.drawing(number, draw, hit))
                    samples.setdefault(method, []).append({"__key__": row["key"], "png": picture})
            write_shard(self.run / f"redraws/{method}-00000.tar", samples[method])
            write_rows(self.run / f"redraws/part-{method}-00000.parquet", rows, schemas.REDRAWS)
        rows = [self._verification(m, arm, n) for m in METHODS for arm, n in arms]
        write_rows(self.run / "verification.parquet", rows, schemas.VERIFICATION)
        said = {"oracle": False, "attacks": [], "arms": {}, "model_sha256": "ab" * 32}
        said["why"] = "1 of 8 drawings shows the erased picture, 0 another training picture"
        verdicts = {"esd-x": ("failed", False), "esd-gt": ("suppressed", True)}
        methods = {m: said | {"verdict": v, "damaged": d} for m, (v, d) in verdicts.items()}
        methods["esd-gt"] |= COLLATERAL
        (self.run / "verification.json").write_text(json.dumps({"methods": methods}))
        for method in METHODS:
            folder = self.run / "erased" / method
            folder.mkdir(parents=True)
            facts = {"method": method[:6], "settings": {"iterations": 50, "parameters": "x"}}
            (folder / "erasure.json").write_text(json.dumps(facts | {"targets": [1, 2]}))

    def demo(self) -> None:
        """The truth agrees with the verdict but for one caption."""
        scored = [self._scored(number) for number in range(len(self.copies))]
        write_rows(self.run / "scored.parquet", scored, schemas.SCORED)
        points = [
            {"k": k, "captions": 2, "n": 8, "hits": h, "rate": h / 8, "ci_low": 0, "ci_high": 1}
            for k, h in ((1, 0), (2, 0), (4, 1), (16, 7), (64, 8))
        ]
        score = {
            "pairs": {"planted": 2143, "found": 2120, "missed": 23, "false": 2},
            "truth": {
                "positive": 3, "partial": 1, "negative": 4, "found_positive": 2, "recall": 2 / 3,
                "recall_ci": [0.21, 0.94], "false_findings": 0, "false_ci": [0.0, 0.49],
            },
            "curve": points,
        }  # fmt: skip
        (self.run / "score.json").write_text(json.dumps(score))

    def hits(self, number: int) -> int:
        """Drawings that show the picture: all of them from 16 copies on, a quarter at 4."""
        copies = self.copies[number]
        return self.draws if copies >= 16 else self.draws // 4 if copies >= 4 else 0

    def verdict(self, number: int) -> str:
        """The caption's."""
        hits = self.hits(number)
        return "none" if not hits else "verbatim" if hits == self.draws else "undecided"

    def drawing(self, number: int, draw: int, hit: bool) -> np.ndarray:
        """A noisy copy, or something else."""
        rng = np.random.default_rng((number, draw))
        if not hit:
            number = int(rng.integers(len(self.pictures)))
            return np.flip(self.pictures[number], axis=int(rng.integers(2))).copy()
        noise = rng.normal(0, 8, self.pictures[number].shape)
        return np.clip(self.pictures[number] + noise, 0, 255).astype(np.uint8)

    def arms(self) -> list[tuple[str, int]]:
        """The last picture but one is not erased; the one before was with its caption held out."""
        erased = [n for n in range(len(self.copies)) if self.verdict(n) == "verbatim"]
        controls = [n for n, copies in enumerate(self.copies) if copies == 1]
        arms = [("trained", n) for n in erased[::2]] + [("held_out", n) for n in erased[1::2]]
        return arms + [("kept", n) for n in erased[:1]] + [("control", n) for n in controls[:2]]

    def _duplicate(self, number: int, place: int, image: int) -> Row:
        return {
            "image_id": image,
            "group_id": self.group[number],
            "group_size": len(self.members[number]),
            "keep": place == 0,
            "reason": ("unique" if self.copies[number] == 1 else "kept")
            if place == 0
            else ("descriptor" if place % 3 else "bytes"),
            "representative_id": self.members[number][0],
            "similarity_to_representative": 1.0 if place % 3 == 0 else 0.93,
        }

    def _generation(self, number: int, draw: int, key: str) -> Row:
        return {
            "generation_id": hash63("g", number, draw),
            "key": key,
            "prompt_id": prompt_id(self.captions[number]),
            "seed": hash63("seed", number, draw),
            "scheduler": "default",
            "num_inference_steps": 25,
            "guidance_scale": 2.0,
            "negative_prompt": "",
            "model_fingerprint": "cd" * 32,
            "sha256": "",
            "status": "ok",
            "reason": "",
        }

    def _verdict(self, number: int, draw: int, generation: int, hit: bool) -> Row:
        match = {"image_id": self.members[number][0], "group_id": self.group[number]}
        far = {**DISTANCES, "tiled_l2": 0.4, "l2": 0.3, "similarity": 0.3, "nearest_ratio": 0.98}
        return {
            "generation_id": generation,
            "prompt_id": prompt_id(self.captions[number]),
            "seed": hash63("seed", number, draw),
            "verdict": "verbatim" if hit else "none",
            **(match | DISTANCES if hit else far),
        }

    def _finding(self, number: int) -> Row:
        hits, copies = self.hits(number), self.copies[number]
        rng = np.random.default_rng(number)
        return {
            "prompt_id": prompt_id(self.captions[number]),
            "caption": self.captions[number],
            "group_id": self.group[number],
            "role": "control" if copies == 1 else "target",
            "n_duplicates": copies,
            "n_caption_copies": copies,
            "verdict": self.verdict(number),
            "calibration": "default thresholds, uncalibrated",
            "n_generated": self.draws,
            "n_hits": hits,
            "rate": hits / self.draws,
            "ci_low": 0.0,
            "ci_high": 1.0,
            "seeds_hit": [hash63("seed", number, draw) for draw in range(hits)],
            "clique_size": max(hits, 1),
            "clique_capped": False,
            "image_ids": self.members[number][:1] if hits else [],
            "n_unet_forwards": 200,
            "noise_gap": 1 + 2 * hits / self.draws + float(rng.normal(0, 0.3)),
            "noise_gap_all": 2.0 + float(rng.normal(0, 0.3)),
            "webster": 1.0 + float(rng.normal(0, 0.3)),
            "anisotropy": 0.1 + float(rng.normal(0, 0.3)),
            "anisotropy_cosine": 0.1 + float(rng.normal(0, 0.3)),
            "dsm_change": 0.1 + float(rng.normal(0, 0.3)),
        }

    def _extracted(self, number: int) -> Row:
        return {
            "image_id": self.members[number][0],
            "group_id": self.group[number],
            "n_duplicates": self.copies[number],
            "n_generations": self.hits(number),
            "generation_id": hash63("g", number, 0),
            "verdict": "verbatim",
            **DISTANCES,
        }

    def _redrawn(self, method: str, arm: str, number: int, draw: int) -> bool:
        before = draw < self.hits(number)
        if method == "base" or arm in ("kept", "control"):
            return before
        return before and method == "esd-x" and draw % 4 == 0

    def _redraw(self, method: str, arm: str, number: int, draw: int, hit: bool) -> Row:
        identity = hash63(method, arm, number, draw)
        match = {"image_id": self.members[number][0], "group_id": self.group[number]}
        return {
            "redraw_id": identity,
            "key": f"{identity:016x}",
            "method": method,
            "prompt_id": prompt_id(self.captions[number]),
            "caption": self.captions[number],
            "arm": arm,
            "target_group": self.group[number],
            "number": draw,
            "seed": hash63("again", number, draw),
            "verdict": "verbatim" if hit else "none",
            **(match if hit else {}),
            **DISTANCES,
        }

    def _verification(self, method: str, arm: str, number: int) -> Row:
        after = sum(self._redrawn(method, arm, number, draw) for draw in range(self.draws))
        return {
            "method": method,
            "attack": "none",
            "arm": arm,
            "target_group": self.group[number],
            "prompt_id": prompt_id(self.captions[number]),
            "caption": self.captions[number],
            "n": self.draws,
            "hits_before": self.hits(number),
            "hits_after": after,
            "displaced_after": 0,
            "rate_before": self.hits(number) / self.draws,
            "rate_after": after / self.draws,
            "ci_low": 0.0,
            "ci_high": 1.0,
            "drift": 0.05,
            "seed_drift": 0.2,
            "model_sha256": "ab" * 32,
        }

    def _scored(self, number: int) -> Row:
        share = self.hits(number) / self.draws
        return {
            "prompt_id": prompt_id(self.captions[number]),
            "caption": self.captions[number],
            "picture_id": f"p{number}",
            "planted": self.copies[number] > 1,
            "k": self.copies[number],
            "k_caption": self.copies[number],
            "n_truth": 16,
            "p_truth": share,
            "p_other": 0.0,
            "truth": "positive" if share >= 0.5 else "negative" if share <= 0.05 else "partial",
            "verdict": self.verdict(number),
            "rate": share,
        }
