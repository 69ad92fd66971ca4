"""Concept ablation (Kumari et al. 2023): the caption is to mean what an anchor means.

    L = E w_t || ε_θ(x_t, t, c) - T ||²,    x_t = α_t a + σ_t ε,    a drawn under the caption c_a

    "model":  T = ε*(x_t, t, c_a), the frozen model's prediction under the anchor's caption
    "noise":  T = ε, that is, fine-tuning on the anchor's picture under the target's caption

The paper takes the current model for *, without its gradient; the frozen one cannot drift with it.
Its anchors are drawings of paraphrases that show no memorized picture; any captions whose drawings
are no copies do.
"""

from collections.abc import Sequence

import torch

from pipeline.erasure.latents import GroupedLatents, noise_levels
from pipeline.erasure.options import AblateOptions
from pipeline.erasure.parameters import Teacher
from pipeline.erasure.sources import Examples, Prompts
from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel

NO_ANCHORS = "no anchors; give pictures that may be drawn in its place"


class Anchored:
    """Forward-noised anchors under the captions of their targets."""

    def __init__(
        self,
        model: DiffusionModel,
        teacher: Teacher,
        targets: Sequence[Target],
        prompts: Prompts,
        options: AblateOptions,
    ) -> None:
        """Encode the anchors; raise InputError where a target has none, or of another size."""
        self._latents = GroupedLatents(model, targets, [t.anchors for t in targets], NO_ANCHORS)
        with torch.no_grad():
            self._texts = model.embed_text([c for t in targets for c in t.anchor_captions])
        self._model, self._teacher, self._prompts = model, teacher, prompts
        self._options = options

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Noise `count` anchors, each to a time step of its own."""
        model = self._model
        groups, captions = self._prompts.draw(count, generator)
        which = self._latents.choose(groups, generator)
        x_0 = self._latents.at(which)
        timesteps, target = noise_levels(model, x_0, generator)
        alpha, sigma = model.alpha_sigma(timesteps)
        x_t = alpha * x_0 + sigma * target
        if self._options.variant == "model":
            with self._teacher.in_place():
                anchor = self._texts[which.to(model.device)]
                target = model.predict_noise(x_t, timesteps, anchor)
        return Examples(x_t, timesteps, self._prompts.text[captions.to(model.device)], target)
