"""Settings that suit a text and the patience of the person who waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from textgen.config import TrainingBudget
from textgen.errors import InvalidSetting
from textgen.imports import can_multiply
from textgen.text.tokenizer_training import RESERVED_PIECES

PresetName = Literal["quick", "balanced", "thorough"]

# What two cores read while a base of some five million weights learns.
_CHARACTERS_PER_MINUTE = 400_000
# From so many passes on, by that measure, two networks that share the time are better than one.
_PASSES_FOR_TWO = 4.0

_LIGHT = {"embedding_dropout": 0.0, "input_dropout": 0.05, "output_dropout": 0.1}
_QUICK = {"embedding_dropout": 0.0, "input_dropout": 0.1, "output_dropout": 0.2, "weight_dropout": 0.05}
_MEDIUM = {"embedding_dropout": 0.1, "input_dropout": 0.2, "output_dropout": 0.35, "weight_dropout": 0.1}
_STRONG = {"embedding_dropout": 0.1, "input_dropout": 0.2, "output_dropout": 0.4, "weight_dropout": 0.3}
_STRONGEST = {"embedding_dropout": 0.1, "input_dropout": 0.3, "output_dropout": 0.5, "weight_dropout": 0.4}
# The first run of the fairy tales that ship, in an hour and a quarter.
_LONG = {"embedding_dropout": 0.1, "input_dropout": 0.2, "output_dropout": 0.3, "weight_dropout": 0.2}
_LONG |= {"dropout_passes": 6.0, "batch_size": 32}


@dataclass(frozen=True)
class TextSurvey:
    """What a preset needs to know of a text: its size and how many characters make up 99.8 % of it."""

    characters: int
    common_characters: int


def survey_text(texts: Iterable[str], *, total_bytes: int, max_texts: int = 64) -> TextSurvey:
    """Looks at the first `max_texts` blocks of a text of `total_bytes` bytes in UTF-8 (about, for other encodings)."""
    counts: Counter[str] = Counter()
    seen_bytes = 0
    for text in islice(texts, max_texts):
        counts.update(text)
        seen_bytes += len(text.encode())
    characters = int(counts.total() * max(1.0, total_bytes / max(1, seen_bytes)))
    needed, common = 0.998 * counts.total(), 0
    for _, count in counts.most_common():
        if needed <= 0:
            break
        needed -= count
        common += 1
    return TextSurvey(characters, common)


def preset_settings(
    name: str,
    survey: TextSurvey,
    *,
    base: bool = False,
    budget: TrainingBudget | None = None,
    mogrifies: bool = False,
) -> dict[str, dict[str, Any]]:
    """The "text", "model" and "training" sections of `RunSettings` for a preset; figures are in docs/log.md.

    With a `base` to start from, its shape stays, and how it learns depends on how often the text will be read; a
    `budget` that replaces the preset's minutes counts there too. `mogrifies`: where it is to be trained a Mogrifier
    takes hardly longer than an LSTM, see `can_mogrify`. Raises `InvalidSetting` for an unknown name.
    """
    if name not in get_args(PresetName):
        raise InvalidSetting("preset", name, ", ".join(get_args(PresetName)))
    small = survey.characters < 150_000
    large = survey.characters > 4_000_000
    vocab_size = 500 if small else 4000 if large else 1000
    if base:
        # Where a base's vocabulary is extended or replaced: as much as a small text supports.
        vocab_size = max(vocab_size, 2000)
    # Scripts with thousands of characters need room for them, and some for frequent words.
    vocab_size = max(vocab_size, RESERVED_PIECES + int(1.5 * survey.common_characters))
    shapes = {
        "quick": {"embedding_size": 192, "hidden_size": 512},
        "balanced": {"embedding_size": 288, "hidden_size": 768},
        "thorough": {"embedding_size": 288, "hidden_size": 768},
    }
    # Small texts are read dozens of times: what one network learns by heart of them, three do not have in common.
    model: dict[str, Any] = {"embedding_size": 192, "hidden_size": 384, "members": 3} if small else shapes[name]
    if large and name != "quick":
        model = {"embedding_size": 384, "hidden_size": 1024}
    if mogrifies:
        # The same tokens teach it more, which is worth the tenth to a quarter more that a step takes.
        model["cell"] = "mogrifier-lstm"
    training: dict[str, dict[str, Any]] = {
        "quick": {"minutes": 3.0, "learning_rate": 7e-3, "window": 40, "average_decay": 0.995, "evaluations": 4},
        "balanced": {"minutes": 15.0, "learning_rate": 5e-3, "window": 48, "weight_decay": 0.2, "evaluations": 8},
        "thorough": {"minutes": 60.0, "learning_rate": 5e-3, "window": 48, "weight_decay": 0.2, "evaluations": 12},
    }
    chosen = training[name]
    minutes = budget.minutes if budget and budget.minutes else chosen["minutes"]
    passes = budget.epochs if budget and budget.epochs else _expected_passes(survey, minutes)
    if base:
        # Evaluations take time from learning: some five seconds each.
        chosen = {"minutes": chosen["minutes"], "evaluations": 5 if minutes < 5 else 10, **tuning_settings(passes)}
    else:
        # What overfits is the number of passes over the text: small texts are read often, large ones hardly once.
        dropouts = {
            "quick": (_LIGHT, _QUICK, _STRONG),
            "balanced": (_QUICK, _STRONG, _STRONG),
            "thorough": (_LONG, _STRONGEST, _STRONG),
        }
        chosen |= dropouts[name][0 if large else 2 if small else 1]
        if small:
            # Fast machines are at the best of them within a minute; to evaluate so little text takes no time.
            chosen |= {"weight_decay": 0.2, "evaluations": {"quick": 12, "balanced": 30, "thorough": 60}[name]}
        if name != "quick" and not small and not large and passes >= _PASSES_FOR_TWO:
            # Better than one that reads the text twice as often: that learns by heart.
            model["members"] = 2
        if name == "quick" and not small:
            # What the model itself writes keeps it from learning by heart what it reads again and again; before that it
            # does so while its rate is low. In longer trainings it is too poor a teacher by then.
            chosen |= {"self_teaching": 6.0, "written_rows": 24, "schedule": "trapezoidal"}
        elif not large and not small:
            # As strong from the beginning on they would only slow it down. The best is between two evaluations that are
            # far apart: machines read such a text ten to thirty times in a quarter of an hour.
            chosen |= {"dropout_passes": 10.0 if "members" in model else 14.0, "evaluations": 15}
    return {"text": {"vocab_size": vocab_size}, "model": dict(model), "training": chosen}


def can_mogrify(training: Mapping[str, Any], device: Callable[[], str]) -> bool:
    """Whether this machine trains a Mogrifier nearly as fast as an LSTM, with these settings on `device`.

    With AMX an LSTM is faster, but no Mogrifier. Finding out the device may take time, and is only done where it
    matters.
    """
    if training.get("precision") == "fp32" or not can_multiply():
        return False
    return device() == "cpu"


def preset_for(minutes: float | None) -> PresetName:
    """The preset that suits a budget of minutes; without one the quickest."""
    # Between two presets the one whose own minutes are fewer times more, or less.
    return "quick" if minutes is None or minutes < 7.0 else "balanced" if minutes < 30.0 else "thorough"


def tuning_settings(passes: float) -> dict[str, Any]:
    """Training settings for a model that has learned already and is to read a new text about `passes` times.

    Lower layers and the embedding learn more slowly (Howard & Ruder 2018) and the base keeps a share of the weights, so
    that what it knows stays; texts that are read often are learned more gently and with more dropout.
    """
    few, many = 2.0, 6.0
    return {
        "learning_rate": 1.2e-3 * min(1.0, max(0.5, (8.0 / max(1.0, passes)) ** 0.5)),
        "warmup": 0.1,
        "layer_decay": 0.4,
        "embedding_rate": 0.3,
        "weight_decay": 0.0,
        "base_share": 0.25,
        "average_decay": 0.98 if passes < few else 0.99,
        **(_LIGHT if passes < few else _MEDIUM if passes < many else _STRONG),
    }


def _expected_passes(survey: TextSurvey, minutes: float) -> float:
    """How often a text is read in so many minutes on about two processor cores."""
    return minutes * _CHARACTERS_PER_MINUTE / max(1, survey.characters)
