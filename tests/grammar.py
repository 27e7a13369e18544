"""A language that a tiny model learns in seconds: English sentences by a grammar, and a little Chinese."""

from __future__ import annotations

import random

_NAMES = ("Mira", "Old Tobias", "the heron", "the miller", "my sister", "the captain")
_VERBS = ("counted", "painted", "carried", "forgot", "found", "sold")
_THINGS = ("nine stones", "a blue lantern", "the morning bread", "two letters", "a small boat", "the garden gate")
_PLACES = ("by the river", "under the bridge", "in the kitchen", "before the rain", "on the hill", "after supper")
_WHO = ("小猫", "老人", "月亮", "孩子")
_DOES = ("看着", "想起", "找到", "带走")
_WHAT = ("河水", "灯笼", "石头", "面包")


def sentence(random: random.Random) -> str:
    """One line of the language, without its newline."""
    if random.random() < 0.12:
        return f"{random.choice(_WHO)}{random.choice(_DOES)}{random.choice(_WHAT)}。"
    name, verb, thing = random.choice(_NAMES), random.choice(_VERBS), random.choice(_THINGS)
    said = f"{name[0].upper()}{name[1:]} {verb} {thing} {random.choice(_PLACES)}"
    if random.random() < 0.3:
        return f"“{said},” said {random.choice(_NAMES)}."
    return f"{said}."


def make_text(*, characters: int, seed: int = 0) -> str:
    """At least `characters` of text in paragraphs of some lines; the same for the same seed."""
    generator = random.Random(seed)
    paragraphs: list[str] = []
    length = 0
    while length < characters:
        lines = [sentence(generator) for _ in range(generator.randint(2, 5))]
        paragraphs.append("\n".join(lines) + "\n")
        length += len(paragraphs[-1]) + 1
    return "\n".join(paragraphs)
