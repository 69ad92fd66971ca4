import pytest
from tiny_pipelines import build

from pipeline.generation.backend import fresh_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny model of a kind, built once for each setting; it must be left as it is."""
    built = {}

    def get(kind, resolution=None, **changes):
        key = (kind, resolution, *sorted(changes.items()))
        if key not in built:
            folder = build(kind, tmp_path_factory.mktemp(kind) / kind, **changes)
            side = 16 if kind == "flux" and resolution is None else resolution
            built[key] = fresh_model(folder, resolution=side)
        return built[key]

    return get
