"""What a configuration is refused with."""

import pytest

from pipeline.config import make_config
from pipeline.errors import ConfigError


def refused(values, *overrides):
    """The message, a line a mistake."""
    with pytest.raises(ConfigError) as caught:
        make_config(values, overrides)
    return str(caught.value)
