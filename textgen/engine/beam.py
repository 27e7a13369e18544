"""Beam search over one request: plain, by chance, or in groups that keep apart."""

from __future__ import annotations

import numpy as np

from textgen.engine.beam_candidates import Candidates, best_candidates, drawn_candidates, log_softmax, narrowed
from textgen.engine.beam_groups import Beam, BeamGroup, BeamTree
from textgen.engine.decoding import Advance, Logits, Scores
from textgen.engine.processors import Processors
from textgen.engine.requests import BeamsEvent, GenerationRequest, Hypothesis, TreeNode
from textgen.engine.warpers import warp
from textgen.errors import BrokenModel

_LEAST = 2  # tokens that warpers leave a row: one beside the end token


class BeamSearch:
    """Beam search, beam sampling and diverse beam groups; of one group, with the definitions of `transformers` 5.

    log p is the model's log-softmax with the processors applied to it, not renormalised. `BeamGroup` says which
    candidates finish, which run on, and when it is over.

    - Beam search takes the best candidates by Σ log p. Ties: the beam with the better sum, then the lower token id.
    - Beam sampling (`beam_sampling`) warps log p as well, again without renormalising, and draws the candidates by
      exp(Σ log p) without replacement; scores are then sums of the warped log p. Warpers leave a row two tokens at
      least, one of them not the end token. At temperature 0, where nothing is left to chance, it is beam search.
    - Diverse beam groups (Vijayakumar et al. 2016, https://arxiv.org/abs/1610.02424, Hamming diversity) search one
      after the other at each step, num_beams / num_beam_groups beams each. After the processors and before the warpers,
      a group's log p is lowered by diversity_penalty for each time that an earlier group took the token at this step,
      end tokens included. As in the authors' program the sums, and with them the scores, stay lowered. A group that is
      done takes nothing any more.

    One beam runs at first in each group; `transformers` starts num_beams copies, all but one at -1e9, to the same
    effect.
    """

    def __init__(self, request: GenerationRequest, seed: int) -> None:
        self._settings = request.settings
        self._seed = seed
        self._processors = Processors(request)
        self._draws = request.settings.beam_sampling and request.settings.temperature > 0
        self._tree = BeamTree()
        size = request.settings.num_beams // request.settings.num_beam_groups
        self._groups = [
            BeamGroup(request, size=size, by_total=not self._draws, tree=self._tree)
            for _ in range(request.settings.num_beam_groups)
        ]
        self._candidates = 2 * size
        self._step = 0

    @property
    def rows(self) -> int:
        """Rows of state that it needs at most."""
        return self._settings.num_beams

    def advance(self, logits: Logits) -> Advance:
        """Grows every running beam by a token, from logits [running, vocab] in the order of the last `Advance`.

        At first there is one row for all. Raises `BrokenModel` when they are no numbers.
        """
        scores = log_softmax(logits)
        if np.isnan(scores[:, 0]).any():
            raise BrokenModel(self._step)
        if self._processors.active:
            # At first all groups share the one row.
            new_ids = [beam.token_ids for group in self._groups for beam in group.running][: len(scores)]
            scores = self._processors.apply(scores, new_ids)
        taken: list[int] = []
        for number, group in enumerate(self._groups):
            if group.running:
                taken += group.take(self._choose(number, group, scores[group.rows], taken))
        self._step += 1
        running = self._number_rows()
        return Advance(
            BeamsEvent(self._best(self._settings.num_beams)),
            np.array([beam.token_ids[-1] for beam in running], dtype=np.int64),
            parents=[beam.row for beam in running],
            reason=None if running else self.hypotheses()[0].reason,
        )

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The num_return best by falling score, or as many as there are; unfinished ones only while it is not over."""
        return self._best(self._settings.num_return)

    def tree(self) -> tuple[TreeNode, ...]:
        """Every token that was taken so far, parents before children."""
        return self._tree.nodes()

    def _choose(self, number: int, group: BeamGroup, scores: Logits, taken: list[int]) -> Candidates:
        if taken and self._settings.diversity_penalty > 0:
            token_ids, times = np.unique(taken, return_counts=True)
            scores = scores.copy()
            scores[:, token_ids] -= self._settings.diversity_penalty * times
        sums = np.array([beam.logprob_sum for beam in group.running])
        if self._draws:
            candidates = self._draw(number, scores, sums)
        else:
            candidates = best_candidates(scores, sums, self._candidates)
        if not candidates.totals.size or not np.isfinite(candidates.totals).all():
            raise BrokenModel(self._step)
        return candidates

    def _draw(self, group: int, scores: Logits, sums: Scores) -> Candidates:
        kept = max(self._settings.top_k, _LEAST) if self._settings.top_k else scores.shape[1]
        narrow, token_ids = narrowed(scores, kept) if kept < scores.shape[1] else (scores, None)
        warped = warp(narrow, self._settings, least=_LEAST)
        drawn = drawn_candidates(warped, sums, self._candidates, seed=self._seed, step=self._step, group=group)
        if token_ids is None:
            return drawn
        return drawn._replace(token_ids=token_ids[drawn.rows, drawn.token_ids])

    def _number_rows(self) -> list[Beam]:
        """Gives each group its rows of the coming step; the beams in them."""
        running: list[Beam] = []
        for group in self._groups:
            group.rows = slice(len(running), len(running) + len(group.running))
            running += group.running
        return running

    def _best(self, count: int) -> tuple[Hypothesis, ...]:
        """The `count` best of all groups, each text once, with its best score."""
        found = [hypothesis for group in self._groups for hypothesis in group.hypotheses()]
        found.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
        if len(self._groups) == 1:
            return tuple(found[:count])
        best: dict[tuple[int, ...], Hypothesis] = {}
        for hypothesis in found:
            best.setdefault(hypothesis.token_ids, hypothesis)
        return tuple(best.values())[:count]
