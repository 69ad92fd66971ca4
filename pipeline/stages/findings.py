"""findings: verdicts of all blocks in three tables, with each caption's detector scores.

verdicts.parquet a row a generation, findings.parquet a row a caption, extracted.parquet a row a
training image that was reproduced, which is the field's headline count.
"""

from collections import Counter

import pyarrow as pa

from pipeline.detection.gram_detectors import GRAM_DETECTORS
from pipeline.detection.posterior import MEMORIZED, confidence, posterior
from pipeline.detection.probe_detectors import PROBE_DETECTORS
from pipeline.detection.scored_steps import ScoredSteps
from pipeline.detection.verdict import HITS, Verdict
from pipeline.io import schemas
from pipeline.io.runfolder import (
    CLUSTERS,
    DUPLICATES,
    EXTRACTED,
    FINDINGS,
    PROBES,
    SCREEN,
    VERDICTS,
)
from pipeline.io.tables import read_parts, read_rows, read_table, write_rows, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.beliefs import belief_of, calibration_of, standardized_scores, with_calibration
from pipeline.stages.gallery import Row


def plan(context: Context) -> list[Part]:
    """One part."""
    inputs = [
        path.relative_to(context.run).as_posix()
        for folder in ("verdicts", "findings")
        for path in sorted(context.run.glob(f"{folder}/part-*.parquet"))
    ]
    inputs += [name for name in (SCREEN, PROBES, CLUSTERS) if context.path(name).is_file()]
    if (context.train / DUPLICATES).is_file():
        inputs.append(relative(context.train / DUPLICATES, context.run))
    return with_calibration([Part("all", tuple(inputs))], context)


def run(part: Part, context: Context) -> Outcome:
    """Write the three tables."""
    del part
    verdicts = read_parts(sorted(context.run.glob("verdicts/part-*.parquet")), schemas.VERDICTS)
    findings = read_parts(
        sorted(context.run.glob("findings/part-*.parquet")), schemas.FINDINGS
    ).to_pylist()
    scores, scored_steps = screen_scores(context)
    probed, probe_forwards = probe_scores(context)
    clusters = cluster_sizes(context)
    how = context.config.generate
    settle = _Settlement(context)
    for row in findings:
        prompt = row["prompt_id"]
        row["density_cluster_size"] = clusters.get(prompt)
        row.update(scores.get(prompt, {}) | probed.get(prompt, {}))
        steps = 0 if how.folder else how.steps  # another generator's cost is not known
        drawn = 2 * row["n_generated"] * steps
        row["n_unet_forwards"] = drawn + 2 * scored_steps[prompt] + probe_forwards[prompt]
        settle(row)
    findings.sort(key=lambda row: (-row["n_duplicates"], -(row["rate"] or 0), row["prompt_id"]))
    write_table(context.path(VERDICTS), verdicts)
    write_rows(context.path(FINDINGS), findings, schemas.FINDINGS)
    write_rows(context.path(EXTRACTED), extracted(verdicts, context), schemas.EXTRACTED)
    return Outcome((VERDICTS, FINDINGS, EXTRACTED), verdicts.num_rows, verdicts.num_rows)


class _Settlement:
    """What the run's calibration adds to a finding: its confidence, and a verdict on scores alone.

    A caption that was not drawn because its score makes memorization improbable is none; one that
    the budget left out stays undecided.
    """

    def __init__(self, context: Context) -> None:
        self._scores = standardized_scores(context)
        self._belief = belief_of(context)
        self._calibration = calibration_of(context)
        self._least = context.config.generate.stop_below

    def __call__(self, row: Row) -> None:
        if self._calibration is None:
            return
        z = self._scores.get(row["prompt_id"])
        hits, n = row["n_hits"], row["n_generated"]
        if not n and posterior(0, 0, self._belief, z=z)[MEMORIZED] < self._least:
            row["verdict"] = str(Verdict.NONE)
        row["calibration"] = self._calibration.summary()
        if row["verdict"] != Verdict.UNDECIDED:
            found = row["verdict"] in HITS
            row["confidence"] = confidence(hits, n, self._belief, found=found, z=z)


def screen_scores(context: Context) -> tuple[dict[int, Row], Counter[int]]:
    """Detector scores of each caption, from the scalars that `screen` stored, and how many steps.

    A detector that needs a step which was not stored has no score.
    """
    path = context.path(SCREEN)
    if not path.is_file():
        return {}, Counter()
    table = read_table(path, schemas.SCREEN)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    steps = ScoredSteps(columns)
    rows: dict[int, Row] = {}
    for detector in GRAM_DETECTORS:
        for prompt, score in detector.score(steps).items():
            rows.setdefault(prompt, {})[detector.name] = score
    return rows, Counter(steps.prompt_id.tolist())


def probe_scores(context: Context) -> tuple[dict[int, Row], Counter[int]]:
    """Scores of the detectors that were probed for, and the forwards that they took together.

    Detectors of one pass share their forwards: the dearest of them is counted.
    """
    path = context.path(PROBES)
    named = context.config.probe.detectors  # the table may be that of an earlier configuration
    rows = read_rows(path, schemas.PROBES) if named and path.is_file() else []
    rows = [row for row in rows if row["probe"] in named]
    shared = {detector.name: detector.shared_pass for detector in PROBE_DETECTORS}
    scores: dict[int, Row] = {}
    dearest: Counter[tuple[int, str]] = Counter()
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["prompt_id"], {})[row["probe"]] = row["score"]
        key = row["prompt_id"], shared[row["probe"]]
        dearest[key] = max(dearest[key], row["n_forwards"])
    forwards: Counter[int] = Counter()
    for (prompt, _), count in dearest.items():
        forwards[prompt] += count
    return scores, forwards


def cluster_sizes(context: Context) -> dict[int, int]:
    """The largest density cluster of each caption, 0 where it has none; empty if not asked for."""
    path = context.path(CLUSTERS)
    if context.config.clusters.encoder is None or not path.is_file():
        return {}
    table = read_table(path, schemas.CLUSTERS, columns=["prompt_id", "cluster"])
    prompts, clusters = table["prompt_id"].to_pylist(), table["cluster"].to_pylist()
    largest = Counter(p for p, cluster in zip(prompts, clusters, strict=True) if cluster == 0)
    return {prompt: largest[prompt] for prompt in prompts}


def extracted(verdicts: pa.Table, context: Context) -> list[Row]:
    """One row a training image found, with its best generation."""
    sizes: dict[int, int] = {}
    if (context.train / DUPLICATES).is_file():
        groups = read_table(context.train / DUPLICATES, schemas.DUPLICATES)
        sizes = dict(
            zip(groups["image_id"].to_pylist(), groups["group_size"].to_pylist(), strict=True)
        )
    found: dict[int, list[Row]] = {}
    for row in verdicts.to_pylist():
        if row["verdict"] in HITS and row["image_id"] is not None:
            found.setdefault(row["image_id"], []).append(row)
    rows = []
    for image_id, hits in sorted(found.items()):
        best = min(hits, key=lambda row: (row["tiled_l2"], row["generation_id"]))
        rows.append(
            {
                "image_id": image_id,
                "group_id": best["group_id"],
                "n_duplicates": sizes.get(image_id, 1),
                "n_generations": len(hits),
                "generation_id": best["generation_id"],
                "verdict": best["verdict"],
                **{name: best[name] for name in schemas.DISTANCES},
            }
        )
    return rows


STAGE = Stage(
    "findings",
    3,
    ("generate", "probe", "clusters", "train", "verdict", "model"),
    plan,
    run,
)
