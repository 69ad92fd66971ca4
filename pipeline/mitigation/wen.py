"""Move the embedding of a caption until it pulls less at the first step (Wen et al. 2024,
"Detecting, Explaining, and Mitigating Memorization in Diffusion Models", section 5.1).

    e ← e - AdamW( ∇_e m(e) ),    m(e) = || ε_θ(x_T, e) - ε_θ(x_T, ∅) ||_2     until m(e) <= target

The first token's state stays, as in the authors' code. Theirs is one norm over the batch; here each
picture has its own, and stops on its own, so that it does not depend on its neighbours.
"""

import copy
from collections.abc import Callable, Sequence

import torch

from pipeline.generation.backend import DiffusionModel
from pipeline.generation.conditions import Conditions
from pipeline.generation.network import refuse_flow
from pipeline.generation.sampling import Sampling
from pipeline.generation.schedulers import build_scheduler
from pipeline.generation.trajectory import scaled_input
from pipeline.mitigation.options import WenOptions

Pull = Callable[[torch.Tensor], torch.Tensor]


def magnitudes(
    model: DiffusionModel,
    x_t: torch.Tensor,
    timesteps: torch.Tensor,
    text: Conditions,
    eps_uncond: torch.Tensor,
) -> torch.Tensor:
    """m (n,) for x_t and ε(x_t, ∅), both (n, c, h, w), timesteps (n,) and n rows of `text`."""
    gap = model.predict_noise(x_t, timesteps, text) - eps_uncond
    return gap.flatten(1).norm(dim=1)


def quietened(
    model: DiffusionModel,
    captions: Sequence[str],
    seeds: Sequence[int],
    how: Sampling,
    options: WenOptions,
) -> Conditions:
    """Conditions of n captions, each moved for the first noise of its seed.

    Raises ModelError for flow models, whose first noise prediction no caption changes.
    """
    refuse_flow(model)
    with torch.no_grad():
        text = model.conditions(captions, guidance=how.guidance)
        nothing = model.unconditioned(how.negative_prompt, guidance=how.guidance)
        x_t, timesteps = _first(model, seeds, how)
        eps_uncond = model.predict_noise(x_t, timesteps, nothing.expand(len(captions)))
    start = text.tensor("text")

    def pull(states: torch.Tensor) -> torch.Tensor:
        told = Conditions({**text.tensors, "text": states})
        return magnitudes(model, x_t, timesteps, told, eps_uncond)

    states = _descended(start, pull, options)
    return Conditions({**text.tensors, "text": states})


def _first(
    model: DiffusionModel, seeds: Sequence[int], how: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is given at the first step: x_T (n, c, h, w), scaled, and its time (n,)."""
    scheduler = copy.deepcopy(build_scheduler(how.scheduler, model.pipe.scheduler))
    timestep = model.adapter.start(scheduler, how.steps)[0]
    x_t = model.noise(seeds) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    return scaled_input(scheduler, x_t, timestep), timestep.expand(len(x_t))


def _descended(start: torch.Tensor, pull: Pull, options: WenOptions) -> torch.Tensor:
    """States (n, tokens, d) after the descent; a row whose pull is low enough stays there."""
    moved = start[:, 1:].clone().requires_grad_()
    reached = start.clone()
    done = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    optimizer = torch.optim.AdamW([moved], lr=options.learning_rate)
    with torch.enable_grad():
        for _ in range(options.iterations):
            states = torch.cat([start[:, :1], moved], dim=1)
            pulls = pull(states)
            reached = torch.where(done.view(-1, 1, 1), reached, states.detach())
            done = done | (pulls.detach() <= options.target)
            if bool(done.all()):
                return reached
            (moved.grad,) = torch.autograd.grad(pulls.sum(), moved)
            optimizer.step()
    states = torch.cat([start[:, :1], moved.detach()], dim=1)
    return torch.where(done.view(-1, 1, 1), reached, states)
