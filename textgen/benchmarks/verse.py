"""How well a model keeps to the form of Chinese verse: `python -m textgen.benchmarks.verse --checkpoint DIR FILE…`.

The files hold poems, separated by blank lines: title, author, and the text in lines of five or seven characters, of
which every second one rhymes. The model continues titles and authors of poems that were held out (`--heldout` and
`--seed` are those of its training). Two characters count as rhyming where two poems of the training part end such lines
with both. Real held-out poems are judged in the same way beside it, and for what chance gives their rhymes are mixed up
among all of them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import textgen
from textgen.benchmarks._options import whole_number
from textgen.progress import ignore_progress
from textgen.text.division import Division, Source, survey_sources
from textgen.text.readers import open_text

_LINE_ENDS = re.compile(r"[，。？！；：、\s]+")
_HEADER_LINES = 2
_REGULAR = (5, 7)
# Long poems change their rhyme on the way.
_MOST_LINES = 16
_FEWEST_POEMS = 2

Rhymes = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Form:
    """What was counted in some poems.

    `regular` begin with a line of five or seven characters, and `kept` keep to its length to the end. Of `pairs`
    of neighbouring rhyme places `rhyming` rhyme.
    """

    poems: int
    regular: int
    kept: int
    pairs: int
    rhyming: int

    def as_dict(self, prefix: str) -> dict[str, float]:
        """Shares, by name."""
        return {
            f"{prefix}poems": self.poems,
            f"{prefix}regular": self.regular,
            f"{prefix}kept_line": self.kept,
            f"{prefix}kept_share": round(self.kept / max(1, self.regular), 4),
            f"{prefix}rhyme_share": round(self.rhyming / max(1, self.pairs), 4),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and prints its figures, and some poems."""
    parser = argparse.ArgumentParser(prog="python -m textgen.benchmarks.verse", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the poems that the model was trained on")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the model")
    parser.add_argument("--samples", type=whole_number(1), default=100, help="poems to write (default: 100)")
    parser.add_argument("--temperature", type=float, default=0.8, help="default: 0.8")
    parser.add_argument("--heldout", type=float, default=0.05, help="share that was held out by document")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training (default: 1)")
    parser.add_argument("--shown", type=int, default=5, help="poems to show (default: 5)")
    options = parser.parse_args(arguments)
    trained, heldout = divide(options.files, options.heldout, options.seed)
    rhymes = rhyming(trained)
    headers = ["".join(f"{line}\n" for line in poem.split("\n")[:_HEADER_LINES]) for poem in heldout]
    # From all over, since collections are in some order.
    chosen = [headers[number * len(headers) // options.samples] for number in range(options.samples)]
    with textgen.load(options.checkpoint) as model:
        # Everything else that a model has as its own settings would help it.
        plain = {"temperature": options.temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 400}
        poems = [header + model.write(header, seed=number, **plain) for number, header in enumerate(chosen)]
    for poem in poems[: options.shown]:
        print(poem.strip(), end="\n\n")
    figures = {
        "benchmark": "verse",
        "temperature": options.temperature,
        **judge(poems, rhymes).as_dict(""),
        **judge(heldout, rhymes).as_dict("real_"),
        "chance_rhyme_share": round(chance(heldout, rhymes), 4),
    }
    for name, value in figures.items():
        print(f"{name:20} {value}")
    print(json.dumps(figures))
    return 0


def divide(files: Iterable[Path], heldout: float, seed: int) -> tuple[list[str], list[str]]:
    """The poems that a training with these settings reads, and those that it does not."""
    sources = [Source(open_text(path), "blank-line", False) for path in files]
    survey = survey_sources(sources, seed, ignore_progress)
    division = Division(sources, survey, heldout, "document", seed)
    parts: tuple[list[str], list[str]] = ([], [])
    waiting = ""
    for segment, held in division.segments():
        waiting += segment.text
        if segment.ends_document:
            parts[held].append(waiting)
            waiting = ""
    return parts


def lines_of(poem: str) -> list[str]:
    """The lines below title and author, without punctuation."""
    body = "\n".join(poem.strip().split("\n")[_HEADER_LINES:])
    return [line for line in _LINE_ENDS.split(body) if line]


def judge(poems: Iterable[str], rhymes: Rhymes) -> Form:
    """Counts what keeps to the form."""
    count = regular = kept = pairs = rhyming_pairs = 0
    for poem in poems:
        lines = lines_of(poem)
        count += 1
        if not lines or len(lines[0]) not in _REGULAR:
            continue
        regular += 1
        kept += all(len(line) == len(lines[0]) for line in lines)
        for pair in pairwise(_rhyme_places(lines)):
            pairs += 1
            rhyming_pairs += tuple(sorted(pair)) in rhymes
    return Form(count, regular, kept, pairs, rhyming_pairs)


def chance(poems: Iterable[str], rhymes: Rhymes) -> float:
    """The share of pairs that rhyme when the characters in rhyme places of all poems are mixed up."""
    ends = [end for poem in poems for end in _rhyme_places(lines_of(poem))]
    random.Random(0).shuffle(ends)
    pairs = list(pairwise(ends))
    return sum(tuple(sorted(pair)) in rhymes for pair in pairs) / max(1, len(pairs))


def rhyming(poems: Iterable[str]) -> Rhymes:
    """The pairs of characters that rhyme in several short poems."""
    counts: Counter[tuple[str, str]] = Counter()
    for poem in poems:
        lines = lines_of(poem)
        if len(lines) <= _MOST_LINES:
            counts.update(combinations(sorted(set(_rhyme_places(lines))), 2))
    return frozenset(pair for pair, count in counts.items() if count >= _FEWEST_POEMS)


def _rhyme_places(lines: Sequence[str]) -> Iterator[str]:
    """The last characters of every second line."""
    return (line[-1] for line in lines[1::2])


if __name__ == "__main__":
    raise SystemExit(main())
