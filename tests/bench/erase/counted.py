"""`unmemorize`, with the passes of pictures through its UNets counted.

    python -m tests.bench.erase.counted FILE erase --model ...

writes {"forwards": N} to FILE: a batch of n pictures is n passes, and n more where a graph was
built, for the way back; as `n_unet_forwards` counts elsewhere. SISS, which goes back twice through
one graph, is counted as if once.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from pipeline import cli


class Passes:
    """Counts while it stands in the place of the class's own forward."""

    def __init__(self) -> None:
        self.forwards = 0

    def watch(self, model: type[torch.nn.Module]) -> None:
        """Count from now on, in every model of this class."""
        own = model.forward

        @functools.wraps(own)
        def counted(network: Any, sample: torch.Tensor, *others: Any, **named: Any) -> Any:
            given = own(network, sample, *others, **named)
            predicted = given[0]
            self.forwards += len(sample) * (2 if predicted.requires_grad else 1)
            return given

        model.forward = counted  # type: ignore[method-assign]


def main() -> None:
    """Run the command line; the count is written however it ends."""
    target = Path(sys.argv.pop(1))
    passes = Passes()
    passes.watch(UNet2DConditionModel)
    try:
        cli.main()
    finally:
        target.write_text(json.dumps({"forwards": passes.forwards}))


if __name__ == "__main__":
    main()
