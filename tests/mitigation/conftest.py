import pytest
from tiny_model import build_tiny_pipeline

from pipeline.generation.backend import fresh_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fresh_model(build_tiny_pipeline(tmp_path_factory.mktemp("mitigation") / "tiny"))
