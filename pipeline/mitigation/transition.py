"""No guidance until the transition point (Jain et al. 2025, "Classifier-Free Guidance inside the
Attraction Basin May Cause Memorization").

    ε = ε_∅ + w_i (ε_c - ε_∅),    w_i = `before` while step i is held, the guidance weight after

    static    a share of the steps is held
    dynamic   with g_i = ||ε_c - ε_∅||_2, a picture is held until the first i with
              g_{i-1} < g_{i-2} and g_i > g_{i-1}: its guidance has passed a minimum

g is of the network's raw output, as in the authors' code. Without a minimum a picture is held to
the end, or to the share `latest`, which is ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.errors import ModelError
from pipeline.mitigation.options import TransitionOptions


class Hold:
    """Which pictures are held back, step by step; one object a sampling."""

    def __init__(self, options: TransitionOptions) -> None:
        self._options = options
        self._gaps: list[torch.Tensor] = []
        self._passed: torch.Tensor | None = None

    def held(self, step: int, steps: int, gaps: torch.Tensor) -> torch.Tensor:
        """Whether each picture is held at `step`, (n,), given g of this step, (n,).

        To be asked at every step, in order.
        """
        options = self._options
        if options.share is not None:
            return torch.full_like(gaps, step < round(options.share * steps), dtype=torch.bool)
        if self._passed is None:
            self._passed = torch.zeros_like(gaps, dtype=torch.bool)
        self._gaps = [*self._gaps[-2:], gaps]
        if len(self._gaps) == 3:
            before, last, now = self._gaps
            self._passed = self._passed | ((last < before) & (now > last))
        if step >= round(options.latest * steps):
            return torch.zeros_like(self._passed)
        return ~self._passed


def gaps_between(uncond: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """g (n,) of both raw outputs (n, c, h, w)."""
    return (text - uncond).float().flatten(1).norm(dim=1)


@contextmanager
def held_guidance(pipe: Any, options: TransitionOptions) -> Iterator[None]:
    """Hold the guidance of a pipeline of diffusers back while pictures are drawn in here.

    The pipeline is called as ever, with the guidance that is to come. Its network has to be asked
    for both predictions in one batch, without a caption first: so are those of Stable Diffusion, 1
    to 3 and XL, and of PixArt. While a picture is held both halves of the batch are given
    ε_∅ + before (ε_c - ε_∅), which is then what guidance of any weight makes of them.
    """
    network = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    hook = network.register_forward_hook(_Halves(pipe, options))
    try:
        yield
    finally:
        hook.remove()


class _Halves:
    """A forward hook that counts the steps of the pipeline's scheduler."""

    def __init__(self, pipe: Any, options: TransitionOptions) -> None:
        self._pipe, self._options = pipe, options
        self._step, self._hold = 0, Hold(options)

    def __call__(self, network: Any, args: Any, output: Any) -> Any:
        del args
        guided = getattr(self._pipe, "do_classifier_free_guidance", True)
        predicted = output[0]  # a tuple, or an output of diffusers, which is indexed like one
        if not guided or len(predicted) % 2:
            raise ModelError(f"{type(network).__name__}: is not guided, so nothing can be held")
        steps = len(self._pipe.scheduler.timesteps)
        uncond, text = predicted.chunk(2)
        channels = int(network.config.in_channels)  # a learned variance is no prediction
        held = self._hold.held(
            self._step, steps, gaps_between(uncond[:, :channels], text[:, :channels])
        )
        self._step += 1
        if self._step == steps:  # another call of the pipeline may follow
            self._step, self._hold = 0, Hold(self._options)
        if not bool(held.any()):
            return output
        mixed = torch.lerp(uncond, text, self._options.before)  # exact at 0 and at 1
        rows = held.view(-1, 1, 1, 1)
        changed = torch.cat([torch.where(rows, mixed, half) for half in (uncond, text)])
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(changed)
