"""Clusters of generations that were written by hand, in the shipped descriptor."""

import numpy as np
import pytest
from synthetic_run import SyntheticRun, pictures_of

from pipeline.config import make_config
from pipeline.detection.density_clusters import density_clusters
from pipeline.encoders import build_encoder
from pipeline.errors import ConfigError
from pipeline.ids import prompt_id
from pipeline.io import schemas
from pipeline.io.images import decode
from pipeline.io.runfolder import CLUSTERS
from pipeline.io.shards import iterate_samples
from pipeline.io.tables import read_rows, write_rows
from pipeline.registry import AUDIT, fitting
from pipeline.stages import clusters
from pipeline.stages.findings import cluster_sizes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = SyntheticRun(
        tmp_path_factory.mktemp("clusters") / "run",
        copies=(1, 16, 64),
        pictures=pictures_of(3, 64),
        draws=6,
        clusters={"encoder": "lite0", "eps": 0.1, "min_size": 3},
    )
    run.dataset()
    run.audit()
    return run


def clustered(made):
    for stage in (clusters.STAGE, clusters.TABLE):
        for part in stage.plan(made.context):
            outcome = stage.run(part, made.context)
            assert outcome.rows_in == outcome.rows_out
    return read_rows(made.run / CLUSTERS, schemas.CLUSTERS)


def test_every_generation_has_a_row_and_its_cluster(made):
    rows = clustered(made)
    path = next(made.run.glob("generations/*.parquet"))
    generations = read_rows(path, schemas.GENERATIONS)
    assert {row["generation_id"] for row in rows} == {g["generation_id"] for g in generations}
    encoder = build_encoder(made.context.config.embed.encoders["lite0"])
    pictures = {
        sample["__key__"]: decode(sample["png"])
        for sample in iterate_samples(path.with_suffix(".tar"), {g["key"] for g in generations})
    }
    for caption in made.captions:
        own = [g for g in generations if g["prompt_id"] == prompt_id(caption)]
        own.sort(key=lambda g: g["generation_id"])
        vectors = encoder.encode([pictures[g["key"]] for g in own]).vectors
        expected = density_clusters(vectors, eps=0.1, min_size=3).tolist()
        found = {row["generation_id"]: row["cluster"] for row in rows}
        assert [found[g["generation_id"]] for g in own] == expected
    sizes = cluster_sizes(made.context)
    assert sizes[prompt_id(made.captions[2])] == 6  # a noisy copy each time


def test_blank_generations_are_in_none(made):
    path = next(made.run.glob("generations/*.parquet"))
    before = read_rows(path, schemas.GENERATIONS)
    blank = [
        row | ({"status": "rejected", "reason": "blank"} if row["prompt_id"] == prompt else {})
        for row in before
        for prompt in [prompt_id(made.captions[2])]
    ]
    write_rows(path, blank, schemas.GENERATIONS)
    try:
        clustered(made)
        assert cluster_sizes(made.context)[prompt_id(made.captions[2])] == 0
    finally:
        write_rows(path, before, schemas.GENERATIONS)


def test_pictures_without_a_caption_have_none_to_agree_on(made):
    """Those of another generator: six noisy copies, which with their caption are one cluster."""
    path = next(made.run.glob("generations/*.parquet"))
    before = read_rows(path, schemas.GENERATIONS)
    alike = prompt_id(made.captions[2])
    without = [row | {"prompt_id": None} if row["prompt_id"] == alike else row for row in before]
    write_rows(path, without, schemas.GENERATIONS)
    try:
        found = clustered(made)
        assert {row["cluster"] for row in found if row["prompt_id"] is None} == {-1}
        assert len(found) == len(before)
    finally:
        write_rows(path, before, schemas.GENERATIONS)


def test_it_is_off_unless_an_encoder_is_named():
    assert "clusters" not in {stage.name for stage in fitting(AUDIT, make_config({}))}
    for name in ("pdq", "pixels", "unknown"):
        with pytest.raises(ConfigError, match=r"clusters\.encoder"):
            make_config({"clusters": {"encoder": name}})
    assert np.isclose(make_config({"clusters": {"encoder": "lite0"}}).clusters.eps, 0.5)
