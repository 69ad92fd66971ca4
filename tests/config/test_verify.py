"""Attacks that a configuration may name."""

import pytest
from refused_config import refused

from pipeline.config import make_config

EMBEDDING = {"kind": "embedding"}


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ([EMBEDDING, EMBEDDING], "two attacks are called embedding-caption; give them a name"),
        ([EMBEDDING | {"name": "none"}], "no attack is called none"),
    ],
)
def test_attacks_have_names_of_their_own(attacks, says):
    assert says in refused({"verify": {"attacks": attacks}})
    named = [EMBEDDING, EMBEDDING | {"name": "longer"}]
    assert len(make_config({"verify": {"attacks": named}}).verify.attacks) == 2
