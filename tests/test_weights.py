import pytest
import torch

from pipeline.errors import NonFiniteWeights
from pipeline.weights import require_finite


def test_require_finite_names_the_first():
    layer = torch.nn.Linear(2, 2)
    require_finite(layer, "here")
    layer.bias.data[1] = torch.nan
    with pytest.raises(NonFiniteWeights, match="here: bias holds NaN"):
        require_finite(layer, "here")
