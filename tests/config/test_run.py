"""What of a configuration must fit together."""

import pytest
from refused_config import refused

from pipeline.config import load_config
from pipeline.jobs import choose_stages
from pipeline.registry import DEDUP, fitting
from pipeline.shipped import config_path


def test_encoders_that_are_used_must_be_there():
    message = refused({"embed": {"encoders": {"copies": {"kind": "pdq"}}}})
    assert "match.encoders: 'lite0' is not one of embed.encoders" in message
    assert "match.encoders: 'pixels'" in message
    assert "pairs.min_similarity: 'lite0'" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("name", ["dedup-laion", "dedup-embeddings", "cluster"])
def test_shipped_deduplications_leave_no_stage_out(name):
    config = load_config(config_path(name))
    chosen = {stage.name for stage in choose_stages(config.stages)}
    assert {stage.name for stage in fitting(DEDUP, config)} <= chosen
