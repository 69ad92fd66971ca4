"""probe: captions in, the scores of detectors that ask more of the model than `screen` does.

Off unless the configuration names detectors. Their forwards of the noise predictor, for a caption,
with S steps of the sampler and the default numbers of seeds:

    edges                      2 x 4 seeds, and 4 decodings
    sharpness                  6: a pair, and a Jacobian-vector product counted as two pairs
    attention_entropy_first    2 x 4 seeds: the first step
    attention_entropy          2 S x 4 seeds      with bright_ending one pass
    bright_ending              2 S x 4 seeds
    seed_agreement             10 seeds, with the caption alone

The seeds are the first of those that `generate` draws with. What a model cannot be asked, a row
says in `reason`, and its score is null.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.batches import batched
from pipeline.detection.attention_entropy import entropy_drift, first_entropy
from pipeline.detection.bright_ending import masked_noise_gap
from pipeline.detection.errors import MeasureError
from pipeline.detection.noise_gap import GUIDANCE
from pipeline.detection.one_step_edges import edge_score
from pipeline.detection.probe_detectors import PROBE_DETECTORS
from pipeline.detection.seed_agreement import seed_agreement
from pipeline.detection.sharpness import sharpness
from pipeline.errors import ModelError
from pipeline.generation.attended import attended_steps
from pipeline.generation.backend import DiffusionModel
from pipeline.generation.network import refuse_flow
from pipeline.generation.one_step import one_step_pictures
from pipeline.generation.seeds import image_seed
from pipeline.io import schemas
from pipeline.io.runfolder import PROBES
from pipeline.io.tables import write_rows
from pipeline.runner.merge import merge_stage
from pipeline.runner.part import Context, Outcome, Part, Stage
from pipeline.stages.models import caption_parts, open_model
from pipeline.stages.prompts import distinct_prompts

_PROMPTS_PER_PART = 32
_ALL_STEPS = ("attention_entropy", "bright_ending")

Row = dict[str, Any]
Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of each detector a score a caption (prompts,), nan where there is none, and its forwards."""

    columns: dict[str, Column]
    forwards: dict[str, int]


def plan(context: Context) -> list[Part]:
    """One part a block of captions; none where no detector is named."""
    if not context.config.probe.detectors:
        return []
    return caption_parts(context, distinct_prompts(context), _PROMPTS_PER_PART)


def run(part: Part, context: Context) -> Outcome:
    """Probe one block."""
    model = open_model(context.path(part.inputs[0]), context, part.params["model"])
    prompts: list[Row] = part.params["prompts"]
    wanted: set[str] = set(context.config.probe.detectors)
    rows: list[Row] = []
    for shared_pass, probe in _PASSES.items():
        names = [d.name for d in PROBE_DETECTORS if d.shared_pass == shared_pass]
        asked: list[str] = [name for name in names if name in wanted]
        rows += _probed(probe, asked, model, prompts, context) if asked else []
    rows.sort(key=lambda row: (row["prompt_id"], row["probe"]))
    output = f"probes/part-{part.name}.parquet"
    write_rows(context.path(output), rows, schemas.PROBES)
    return Outcome((output,), len(prompts) * len(wanted), len(rows))


def probe_edges(model: DiffusionModel, prompts: list[Row], context: Context) -> Scores:
    """Webster's black-box score of each caption."""
    how, config = context.config.generate, context.config.probe
    pictures = [
        one_step_pictures(
            model, captions, seeds, guidance=GUIDANCE, negative_prompt=how.negative_prompt
        )
        for captions, seeds in _jobs(prompts, config.edge_seeds, context)
    ]
    by_prompt = _by_prompt(np.concatenate(pictures), config.edge_seeds)
    scores = np.array([edge_score(block) for block in by_prompt])
    return Scores({"edges": scores}, {"edges": 2 * config.edge_seeds})


def probe_sharpness(model: DiffusionModel, prompts: list[Row], context: Context) -> Scores:
    """Jeon's score of each caption on its first seed."""
    refuse_flow(model)
    how = context.config.generate
    first = model.start(how.steps)[1][:1]
    found = []
    for captions, seeds in _jobs(prompts, 1, context):
        with torch.no_grad():  # not inference mode, whose tensors cannot be differentiated
            text = model.embed_text(captions)
            uncond = model.embed_text([how.negative_prompt]).expand_as(text)
            x_t = model.noise(seeds)
        times = first.expand(len(seeds))
        gap = partial(_gap, model, times, text, uncond)
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no forward derivative
            found.append(sharpness(gap, x_t, model.alpha_sigma(times)[1]))
    return Scores({"sharpness": np.concatenate(found)}, {"sharpness": 6})


def probe_attention(model: DiffusionModel, prompts: list[Row], context: Context) -> Scores:
    """Ren's entropies and the gap at the bright ending, each a mean over seeds."""
    refuse_flow(model)
    how, config = context.config.generate, context.config.probe
    steps = None if set(_ALL_STEPS) & set(config.detectors) else 1
    found: dict[str, list[Column]] = {}
    for captions, seeds in _jobs(prompts, config.attention_seeds, context):
        seen = attended_steps(
            model, captions, seeds, num_inference_steps=how.steps, guidance=how.guidance,
            negative_prompt=how.negative_prompt, steps=steps,
        )  # fmt: skip
        found.setdefault("attention_entropy_first", []).append(first_entropy(seen.first))
        if steps is None:
            drift = entropy_drift(seen.over_tokens, seen.lengths)
            found.setdefault("attention_entropy", []).append(drift)
            local = masked_noise_gap(seen.gap_squares, seen.to_end)
            found.setdefault("bright_ending", []).append(local)
    columns = {
        name: _by_prompt(np.concatenate(values), config.attention_seeds).mean(axis=1)
        for name, values in found.items()
    }
    pairs = {name: len(model.start(how.steps)[1]) if name in _ALL_STEPS else 1 for name in columns}
    forwards = {name: 2 * n * config.attention_seeds for name, n in pairs.items()}
    return Scores(columns, forwards)


def probe_agreement(model: DiffusionModel, prompts: list[Row], context: Context) -> Scores:
    """NeMo's agreement of each caption's seeds."""
    refuse_flow(model)
    config = context.config.probe
    timesteps = model.start(context.config.generate.steps)[1]
    second = timesteps[min(1, len(timesteps) - 1)]
    residuals = []
    with torch.inference_mode():
        for captions, seeds in _jobs(prompts, config.agreement_seeds, context):
            x_t = model.noise(seeds)
            noise = model.predict_noise(x_t, second.expand(len(x_t)), model.embed_text(captions))
            residuals.append((noise - x_t).float().cpu())
    by_prompt = _by_prompt(torch.cat(residuals), config.agreement_seeds)
    scores = np.array([seed_agreement(block) for block in by_prompt])
    return Scores({"seed_agreement": scores}, {"seed_agreement": config.agreement_seeds})


_PASSES: dict[str, Callable[[DiffusionModel, list[Row], Context], Scores]] = {
    "edges": probe_edges,
    "sharpness": probe_sharpness,
    "attention": probe_attention,
    "seed_agreement": probe_agreement,
}


def _gap(
    model: DiffusionModel,
    times: torch.Tensor,
    text: torch.Tensor,
    uncond: torch.Tensor,
    x_t: torch.Tensor,
) -> torch.Tensor:
    return model.predict_noise(x_t, times, text) - model.predict_noise(x_t, times, uncond)


def _probed(
    probe: Callable[[DiffusionModel, list[Row], Context], Scores],
    names: list[str],
    model: DiffusionModel,
    prompts: list[Row],
    context: Context,
) -> list[Row]:
    try:
        scores, reason = probe(model, prompts, context), ""
    except (ModelError, MeasureError) as error:
        if len(prompts) > 1:  # one caption's overflow is not the others'
            alone = (_probed(probe, names, model, [prompt], context) for prompt in prompts)
            return [row for rows in alone for row in rows]
        scores, reason = Scores({}, {}), str(error)
    rows = []
    for name in names:
        column = scores.columns.get(name, np.full(len(prompts), np.nan))
        for prompt, score in zip(prompts, column.tolist(), strict=True):
            known = bool(np.isfinite(score))
            rows.append(
                {
                    "prompt_id": prompt["prompt_id"],
                    "probe": name,
                    "score": score if known else None,
                    "n_forwards": scores.forwards.get(name, 0),
                    "reason": "" if known else reason or "not finite",
                }
            )
    return rows


def _jobs(
    prompts: list[Row], seeds: int, context: Context
) -> Iterator[tuple[list[str], list[int]]]:
    """Captions and seeds in batches, the seeds of a prompt one after the other."""
    pairs = [
        (row["caption"], image_seed(context.config.seed, row["prompt_id"], number))
        for row in prompts
        for number in range(seeds)
    ]
    for batch in batched(pairs, context.config.probe.batch_size):
        yield [caption for caption, _ in batch], [seed for _, seed in batch]


def _by_prompt(values: Any, seeds: int) -> Any:
    """(prompts x seeds, ...) as (prompts, seeds, ...)."""
    return values.reshape(-1, seeds, *values.shape[1:])


STAGE = Stage("probe", 2, ("model", "generate", "probe"), plan, run, tolerant=True, on_device=True)
TABLE = merge_stage("probe-table", "probes/part-*.parquet", PROBES, schemas.PROBES)
