"""findings: verdicts of all blocks in three tables, with each caption's detector scores.

verdicts.parquet a row a generation, findings.parquet a row a caption, extracted.parquet a row a
training image that was reproduced, which is the field's headline count.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.detection.noise_gap import Gram, webster_score, wen_score
from pipeline.detection.verdict import HITS
from pipeline.io import schemas
from pipeline.io.runfolder import DUPLICATES, EXTRACTED, FINDINGS, SCREEN, VERDICTS
from pipeline.io.tables import read_parts, read_table, write_rows, write_table
from pipeline.runner.part import Context, Outcome, Part, Stage, relative
from pipeline.stages.gallery import Row


def plan(context: Context) -> list[Part]:
    """One part."""
    inputs = [
        path.relative_to(context.run).as_posix()
        for folder in ("verdicts", "findings")
        for path in sorted(context.run.glob(f"{folder}/part-*.parquet"))
    ]
    inputs += [SCREEN] if context.path(SCREEN).is_file() else []
    if (context.train / DUPLICATES).is_file():
        inputs.append(relative(context.train / DUPLICATES, context.run))
    return [Part("all", tuple(inputs))]


def run(part: Part, context: Context) -> Outcome:
    """Write the three tables."""
    del part
    verdicts = read_parts(sorted(context.run.glob("verdicts/part-*.parquet")), schemas.VERDICTS)
    findings = read_parts(
        sorted(context.run.glob("findings/part-*.parquet")), schemas.FINDINGS
    ).to_pylist()
    scores = screen_scores(context)
    screen, how = context.config.screen, context.config.generate
    for row in findings:
        row.update(scores.get(row["prompt_id"], {}))
        screened = screen.seeds * screen.steps if row["prompt_id"] in scores else 0
        steps = 0 if how.folder else how.steps  # another generator's cost is not known
        row["n_unet_forwards"] = 2 * (screened + row["n_generated"] * steps)
    findings.sort(key=lambda row: (-row["n_duplicates"], -(row["rate"] or 0), row["prompt_id"]))
    write_table(context.path(VERDICTS), verdicts)
    write_rows(context.path(FINDINGS), findings, schemas.FINDINGS)
    write_rows(context.path(EXTRACTED), extracted(verdicts, context), schemas.EXTRACTED)
    return Outcome((VERDICTS, FINDINGS, EXTRACTED), verdicts.num_rows, verdicts.num_rows)


def screen_scores(context: Context) -> dict[int, Row]:
    """Detector scores of each caption, from the scalars that `screen` stored."""
    path = context.path(SCREEN)
    if not path.is_file():
        return {}
    table = read_table(path, schemas.SCREEN)
    if not table.num_rows:
        return {}
    steps = context.config.screen.steps
    first = table.filter(pa.compute.equal(table["x_t_source"], "pure_noise"))
    gap, gap_all = wen_score(_columns(table), 1), wen_score(_columns(table), steps)
    webster = _mean_by_prompt(first, webster_score(_gram(first)))
    cosine = _mean_by_prompt(first, first["cos_channel_mean"].to_numpy())
    return {
        prompt: {
            "noise_gap": gap[prompt],
            "noise_gap_all": gap_all[prompt],
            "webster": webster[prompt],
            "anisotropy": cosine[prompt],
        }
        for prompt in gap
    }


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


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def _gram(table: pa.Table) -> Gram:
    names = ("dim", "eps_uncond_sq", "eps_text_sq", "eps_dot", "cos_channel_mean")
    return Gram(**{name: table[name].to_numpy() for name in names})


def _mean_by_prompt(table: pa.Table, values: np.ndarray) -> dict[int, float]:
    prompts, place = np.unique(table["prompt_id"].to_numpy(), return_inverse=True)
    means = np.bincount(place, values) / np.bincount(place)
    return dict(zip(prompts.tolist(), means.tolist(), strict=True))


STAGE = Stage("findings", 1, ("screen", "generate", "train"), plan, run)
