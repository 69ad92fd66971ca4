"""A discrete attack: a few tokens before the caption, such as anybody could type.

The loss is DoRI's, over k tokens of the vocabulary V in place of free states, as in
UnlearnDiffAtk (Zhang et al. 2024). The search is PEZ (Wen et al. 2023): free embeddings s are kept,
the loss is taken at their projections P(s) on the nearest rows of V (by cosine), and

    s ← s - Adam( ∇ L(P(s)) )

Every few iterations the projected tokens are scored on one fixed batch; the best are kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import normalize

from pipeline.erasure.attacks.budgets import PrefixBudget
from pipeline.erasure.attacks.drawing import draw_from, forwards_of
from pipeline.erasure.attacks.embedding import denoising_loss
from pipeline.erasure.attacks.subject import Attempts, Subject, seed_of
from pipeline.erasure.parameters import trainable
from pipeline.erasure.trajectories import Walk
from pipeline.errors import ModelError
from pipeline.generation.backend import DiffusionModel

_SCORE_EVERY = 10
_PLACEHOLDERS = ("a", "x", "the", "photo")


def attack(
    model: DiffusionModel, subject: Subject, budget: PrefixBudget, walk: Walk, *, seed: int
) -> Attempts:
    """Search a prefix an attempt, and draw the captions behind it."""
    with torch.no_grad():
        x_0 = model.encode_pictures(subject.picture[None])
    found, forwards = [], 0
    for number in range(budget.attempts):
        own = torch.Generator().manual_seed(seed_of(seed, subject, "prefix", number))
        search = PrefixSearch(model, subject.caption(number), budget, own)
        tokens, spent = search.run(x_0)
        forwards += spent
        with torch.no_grad():
            found.append(search.states(search.table[tokens]))
    seeds = [
        [seed_of(seed, subject, "draw", number, draw) for draw in range(budget.draws)]
        for number in range(budget.attempts)
    ]
    pictures = draw_from(model, torch.cat(found), seeds, walk)
    return Attempts(pictures, forwards + forwards_of(walk, budget.attempts * budget.draws))


class PrefixSearch:
    """PEZ for one caption."""

    def __init__(
        self,
        model: DiffusionModel,
        caption: str,
        budget: PrefixBudget,
        generator: torch.Generator,
    ) -> None:
        """Raises ModelError where the model has no plain tokenizer and text encoder."""
        self._model, self._budget, self._generator = model, budget, generator
        tokenizer, encoder = (getattr(model.pipe, n, None) for n in ("tokenizer", "text_encoder"))
        if tokenizer is None or encoder is None or getattr(model.pipe, "text_encoder_2", None):
            raise ModelError(f"{type(model.pipe).__name__}: a prefix needs one text encoder")
        self._layer: torch.nn.Module = encoder.get_input_embeddings()
        self.table: torch.Tensor = self._layer.weight.detach()
        special = set(tokenizer.all_special_ids)
        allowed = [token for token in range(len(self.table)) if token not in special]
        self._allowed = torch.tensor(allowed, device=self.table.device)
        word = _single_token(tokenizer, budget.tokens)
        self._prompt = " ".join([*[word] * budget.tokens, caption])

    def run(self, x_0: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The best tokens (k,) for the latent x_0 (1, c, h, w), and the forwards it took."""
        budget = self._budget
        first = torch.randint(len(self._allowed), (budget.tokens,), generator=self._generator)
        soft = self.table[self._allowed[first.to(self.table.device)]].clone()
        optimizer = torch.optim.Adam([soft], lr=budget.learning_rate)
        scoring = int(torch.randint(1 << 62, (1,), generator=self._generator))
        best, lowest = self.project(soft), float("inf")
        forwards = 0
        for iteration in range(1, budget.iterations + 1):
            if iteration % _SCORE_EVERY == 0 or iteration == budget.iterations:
                tokens = self.project(soft)
                score = self._score(x_0, tokens, scoring)
                forwards += budget.batch
                best, lowest = (tokens, score) if score < lowest else (best, lowest)
            soft.grad = self._gradient(x_0, self.project(soft))
            optimizer.step()
            forwards += 2 * budget.batch
        return best, forwards

    def project(self, soft: torch.Tensor) -> torch.Tensor:
        """The tokens nearest to embeddings (k, d) by cosine, specials left out."""
        table = self.table[self._allowed]
        nearest = (normalize(soft, dim=1) @ normalize(table, dim=1).T).argmax(dim=1)
        return self._allowed[nearest]

    def states(self, prefix: torch.Tensor) -> torch.Tensor:
        """Text states (1, tokens, d) of the caption behind the token embeddings (k, d)."""
        with _substituted(self._layer, prefix):
            return self._model.embed_text([self._prompt])

    def _gradient(self, x_0: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        budget = self._budget
        prefix = self.table[tokens].clone().requires_grad_()
        with torch.enable_grad(), trainable(self._model.unet, {}):
            states = self.states(prefix)
            loss = denoising_loss(
                self._model, x_0, states, [self._generator], budget.batch, budget.weighting
            )
            (gradient,) = torch.autograd.grad(loss, prefix)
        return gradient

    @torch.no_grad()
    def _score(self, x_0: torch.Tensor, tokens: torch.Tensor, seed: int) -> float:
        budget, own = self._budget, torch.Generator().manual_seed(seed)
        states = self.states(self.table[tokens])
        return float(
            denoising_loss(self._model, x_0, states, [own], budget.batch, budget.weighting)
        )


@contextmanager
def _substituted(layer: torch.nn.Module, prefix: torch.Tensor) -> Iterator[None]:
    """Within the block the tokens after the first one have the embeddings `prefix` (k, d)."""

    def substitute(_: torch.nn.Module, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        rows = prefix.to(embedded.dtype).expand(len(embedded), -1, -1)
        return torch.cat([embedded[:, :1], rows, embedded[:, 1 + len(prefix) :]], dim=1)

    handle = layer.register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()


def _single_token(tokenizer: Any, count: int) -> str:
    """A word of which `count` in a row are `count` tokens, to hold the place of the prefix."""
    for word in _PLACEHOLDERS:
        if len(tokenizer(" ".join([word] * count), add_special_tokens=False).input_ids) == count:
            return word
    raise ModelError(f"{type(tokenizer).__name__}: no word of one token to stand for a prefix")
