"""Adversarial fine-tuning (DoRI, Kowalczuk et al. 2026): what still draws it learns another.

    inner   y_adv = argmin_y E || ε_θ(x*_t, t, y) - ε ||²     (pipeline.erasure.attacks.embedding)
    outer   L = E w_t || ε_θ(x̃_t, t, y) - ε ||²,    y one of y_adv and of the captions

x* is the memorized picture, x̃ a surrogate: an anchor of the target. The inner loop runs against the
model as it stands, again every few iterations, so that a way back that opens is closed. The trainer
adds the retain loss.
"""

from collections.abc import Mapping, Sequence

import torch

from pipeline.erasure.ablate import NO_ANCHORS
from pipeline.erasure.attacks.budgets import EmbeddingBudget
from pipeline.erasure.attacks.embedding import invert
from pipeline.erasure.latents import GroupedLatents, noise_levels
from pipeline.erasure.options import AdversarialOptions
from pipeline.erasure.sources import Examples, Prompts, pick
from pipeline.erasure.targets import Target
from pipeline.generation.backend import DiffusionModel

_AT_ONCE = 8  # embeddings optimised together


class Adversarial:
    """Forward-noised anchors under captions of their target, and under what draws it."""

    def __init__(
        self,
        model: DiffusionModel,
        targets: Sequence[Target],
        prompts: Prompts,
        others: Sequence[str],
        options: AdversarialOptions,
    ) -> None:
        """Encode pictures and anchors; `others` are captions for the inner loop to start from.

        Raises InputError where a target lacks them, or of another size.
        """
        own = "adversarial needs its picture; give one"
        self._own = GroupedLatents(model, targets, [t.pictures for t in targets], own)
        self._anchors = GroupedLatents(model, targets, [t.anchors for t in targets], NO_ANCHORS)
        with torch.no_grad():
            self._others = model.embed_text(list(others) or [""])
        self._model, self._prompts, self._options = model, prompts, options
        self._count, self._draws = len(targets), 0
        self._pool: list[torch.Tensor] = []

    def draw(self, count: int, generator: torch.Generator) -> Examples:
        """Noise `count` anchors; first search again where it is time."""
        model, options = self._model, self._options
        if self._draws % options.refresh == 0:
            self._pool = [*self._pool, self._search(generator)][-options.pool :]
        self._draws += 1
        groups, captions = self._prompts.draw(count, generator)
        x_0 = self._anchors.draw(groups, generator)
        timesteps, noise = noise_levels(model, x_0, generator)
        alpha, sigma = model.alpha_sigma(timesteps)
        found = torch.randint(len(self._pool), (count,), generator=generator)
        adversarial = torch.rand(count, generator=generator) < options.share
        pool = torch.stack(self._pool)
        text = torch.where(
            adversarial.to(model.device).view(-1, 1, 1),
            pool[found.to(model.device), groups.to(model.device)],
            self._prompts.text[captions.to(model.device)],
        )
        return Examples(alpha * x_0 + sigma * noise, timesteps, text, noise)

    def carried(self) -> dict[str, torch.Tensor]:
        """The embeddings found, (k, targets, tokens, d), and how often it was drawn from."""
        draws = {"draws": torch.tensor(self._draws)}
        return draws | ({"pool": torch.stack(self._pool)} if self._pool else {})

    def resume(self, carried: Mapping[str, torch.Tensor]) -> None:
        """Go on with these embeddings."""
        self._draws = int(carried["draws"])
        pool = carried.get("pool")
        self._pool = [] if pool is None else list(pool.to(self._model.device))

    def _search(self, generator: torch.Generator) -> torch.Tensor:
        """One embedding of every target that draws it now, (targets, tokens, d)."""
        options = self._options
        budget = EmbeddingBudget(
            iterations=options.inner_iterations,
            learning_rate=options.inner_learning_rate,
            batch=options.inner_batch,
            weighting=options.inner_weighting,
        )
        groups = torch.arange(self._count)
        x_0 = self._own.draw(groups, generator)
        start = self._start(groups, generator)
        seeds = torch.randint(1 << 62, (self._count,), generator=generator).tolist()
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        blocks = [slice(i, i + _AT_ONCE) for i in range(0, self._count, _AT_ONCE)]
        found = [invert(self._model, x_0[b], start[b], own[b], budget) for b in blocks]
        return torch.cat(found)

    def _start(self, groups: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        starts = self._options.starts
        kind = starts[int(torch.randint(len(starts), (1,), generator=generator))]
        if kind == "other":
            others = torch.full((len(groups),), len(self._others))
            return self._others[pick(others, generator).to(self._model.device)]
        states = self._prompts.text[
            self._prompts.of_groups(groups, generator).to(self._model.device)
        ]
        if kind == "caption":
            return states
        noise = torch.randn(states.shape, generator=generator).to(states.device)
        spread = states.std(dim=(1, 2), keepdim=True)
        return states.mean(dim=(1, 2), keepdim=True) + spread * noise
