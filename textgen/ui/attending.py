"""Staying with a run, on a host where it trains for as long as somebody does."""

from __future__ import annotations

from collections.abc import Iterator

from textgen.ui.i18n import Language, say
from textgen.ui.render import status_html
from textgen.ui.text_intake import problem_html
from textgen.workshop import Person, Workshop


def attending(workshop: Workshop, run_id: str, person: Person, language: Language) -> Iterator[str]:
    """HTML on how it goes, again and again, and at last on how it ended; nothing where nobody has to stay."""
    begun = False
    try:
        for _ in workshop.attend(run_id, person):
            begun = True
            yield status_html(say("started_attended", language), busy=True)
        if begun:
            yield status_html("")
    except Exception as error:
        yield problem_html(error, language) + status_html(say("attended_kept", language))
