"""One beam search among beams that compete with one another, and the tree of what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from textgen.engine.beam_candidates import Candidates
from textgen.engine.requests import FinishReason, GenerationRequest, Hypothesis, TreeNode, hypothesis_score

_ROOT = -1


class Beam(NamedTuple):
    """A hypothesis that may still grow.

    `logprob_sum` is over `token_ids`, `row` that of the scores it grew from, and `node` its place in the tree.
    """

    token_ids: tuple[int, ...] = ()
    logprob_sum: float = 0.0
    row: int = 0
    node: int = _ROOT


class BeamTree:
    """Every token that a search took, in the order of its steps, ended hypotheses before those that run on."""

    def __init__(self) -> None:
        self._nodes: list[TreeNode] = []

    def add(self, beam: Beam, *, finished: bool) -> int:
        """Adds the last token of a beam whose `node` is still that of its parent; the place of the new node."""
        # Made at once, not when the tree is asked for: a long search has tens of thousands, and others would wait.
        self._nodes.append(TreeNode(beam.token_ids[-1], beam.node, beam.logprob_sum, finished))
        return len(self._nodes) - 1

    def nodes(self) -> tuple[TreeNode, ...]:
        return tuple(self._nodes)


class BeamGroup:
    """Beam search by the definitions of `transformers` 5 among `size` beams, over candidates made elsewhere.

    - A step is given the 2 · size candidates that were chosen first. Of the first `size` of them those that end (end
      token, `stop_condition`, length) enter the finished ones, of which the `size` best are kept by score =
      Σ log p / length^length_penalty; length counts new tokens, the end token included.
    - Of all of them, the `size` best that do not end run on. There are fewer where stop conditions end many;
      `transformers` fills up with ended beams at -1e9.
    - The group is done when nothing runs on (always at max_new_tokens), or when there are `size` finished ones and the
      best running one has no chance: with `early_stopping` "yes" it never has; with "no", when its score at its present
      length beats none of them (with a positive length penalty it might still have overtaken one); with "never", the
      same at max_new_tokens instead if the length penalty is positive, so that what could overtake is waited for.

    `running` is ordered by falling Σ log p, `finished` by falling score. `rows` are the group's rows in the scores of
    the coming step.
    """

    def __init__(self, request: GenerationRequest, *, size: int, by_total: bool, tree: BeamTree) -> None:
        """`by_total`: candidates come by falling Σ log p, so that the last ones need not be looked at."""
        self._request = request
        self._settings = request.settings
        self._size = size
        self._by_total = by_total
        self._tree = tree
        self.running = [Beam()]
        self.finished: list[Hypothesis] = []
        self.rows = slice(0, 1)

    def take(self, candidates: Candidates) -> list[int]:
        """Goes one step on with `candidates`, whose rows count from the group's first; the tokens that it took."""
        length = len(self.running[0].token_ids) + 1
        alive: list[Beam] = []
        ended: list[Beam] = []
        for rank, beam in enumerate(self._grown(candidates)):
            if rank >= self._size and len(alive) >= self._size and self._by_total:
                break  # the rest can neither finish nor run on; their stop conditions may be dear
            reason = self._reason(beam.token_ids, length)
            if reason is None:
                alive.append(beam)
            elif rank < self._size:
                ended.append(beam)
                score = self._score(beam.logprob_sum, length)
                self.finished.append(Hypothesis(beam.token_ids, score, True, reason))
        self.finished.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
        del self.finished[self._size :]
        alive.sort(key=lambda beam: beam.logprob_sum, reverse=True)
        del alive[self._size :]
        for beam in ended:
            self._tree.add(beam, finished=True)
        self.running = [
            Beam(beam.token_ids, beam.logprob_sum, beam.row, self._tree.add(beam, finished=False)) for beam in alive
        ]
        if self._over(length):
            self.running = []
        return [beam.token_ids[-1] for beam in ended + alive]

    def hypotheses(self) -> list[Hypothesis]:
        """Those that have finished and those that run."""
        running = [
            Hypothesis(beam.token_ids, self._score(beam.logprob_sum, len(beam.token_ids)), finished=False)
            for beam in self.running
        ]
        return self.finished + running

    def _grown(self, candidates: Candidates) -> Iterator[Beam]:
        """The beams that the candidates would make; their nodes are still those of their parents."""
        for row, token_id, total in zip(*(values.tolist() for values in candidates), strict=True):
            parent = self.running[row]
            yield Beam((*parent.token_ids, token_id), total, self.rows.start + row, parent.node)

    def _reason(self, token_ids: tuple[int, ...], length: int) -> FinishReason | None:
        if token_ids[-1] == self._request.eos_id:
            return "eos"
        if self._request.stop_condition is not None and self._request.stop_condition(token_ids):
            return "stop"
        return "length" if length >= self._settings.max_new_tokens else None

    def _over(self, length: int) -> bool:
        if not self.running or len(self.finished) < self._size:
            return not self.running
        if self._settings.early_stopping == "yes":
            return True
        never = self._settings.early_stopping == "never"
        horizon = self._settings.max_new_tokens if never and self._settings.length_penalty > 0 else length
        return self._score(self.running[0].logprob_sum, horizon) <= self.finished[-1].score

    def _score(self, logprob_sum: float, length: int) -> float:
        return hypothesis_score(logprob_sum, length, self._settings.length_penalty)
