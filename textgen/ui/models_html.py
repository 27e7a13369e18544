"""What the Models tab shows of models, as escaped HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape

from textgen.shelf import ShelfModel
from textgen.ui.i18n import Language, say, say_shape
from textgen.ui.render import markdown_html

# What the list's own script does: it marks the chosen model at once and tells the page its name; and a list that is
# drawn anew keeps the keyboard's place.
CHOOSE_JS = """
let place = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-model]");
  if (!button) return;
  for (const other of element.querySelectorAll("[data-model]")) other.setAttribute("aria-pressed", other === button);
  trigger("select", { value: button.dataset.model });
  // Where it is shown below the list, it would be out of sight.
  const head = document.querySelector("#model-head");
  if (head.getBoundingClientRect().left < element.getBoundingClientRect().right) head.scrollIntoView();
});
element.addEventListener("focusin", (event) => { place = event.target.dataset.model; });
element.addEventListener("focusout", (event) => { if (event.relatedTarget) place = null; });
watch("value", () => {
  if (!place || document.activeElement !== document.body) return;
  for (const button of element.querySelectorAll("[data-model]")) if (button.dataset.model === place) button.focus();
});
"""


def list_html(models: Sequence[ShelfModel], chosen: str, language: Language, *, can_add: bool) -> str:
    """The list, each model a button; or what to do where there is none."""
    if not models:
        hint = say("models_empty", language) if can_add else say("models_none", language)
        return f'<p class="hint">{escape(hint)}</p>'
    items = "".join(_item(model, model.name == chosen, language) for model in models)
    return f'<ul class="models" aria-label="{escape(say("models_list", language))}">{items}</ul>'


def _item(model: ShelfModel, chosen: bool, language: Language) -> str:
    shape = model.model
    facts = [
        say_shape(shape, language, "model_shape"),
        say("model_parameters", language, count=_short(model.num_parameters)),
        say("model_pieces", language, count=f"{shape.vocab_size:,}"),
        *([say("model_nats", language, nats=f"{model.nats_per_char:.3f}")] if model.nats_per_char is not None else []),
        say("model_disk", language, size=_megabytes(model.disk_bytes)),
        _date(model),
    ]
    told = " ".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    body = f'<span class="facts">{told}</span>'
    head = f'<span class="top"><strong>{escape(model.title)}</strong>{_origin(model, language)}</span>'
    pressed = "true" if chosen else "false"
    name = escape(model.name)
    return f'<li><button type="button" data-model="{name}" aria-pressed="{pressed}">{head}{body}</button></li>'


# Marks the model that is shown: a list that was asked for before may come after it, and mark another one.
# The event comes before what it tells of is drawn.
MARK_JS = """(name) => { setTimeout(() => {
  for (const button of document.querySelectorAll("#models-list [data-model]"))
    button.setAttribute("aria-pressed", button.dataset.model === name);
}, 50); }"""


def head_html(model: ShelfModel, language: Language) -> str:
    """Title, where it is from, and its figures."""
    shape = model.model
    disk = _megabytes(model.disk_bytes)
    figures = {
        "figure_shape": say_shape(shape, language, "about_shape"),
        "figure_parameters": f"{model.num_parameters:,}",
        "figure_nats": ""
        if model.nats_per_char is None
        else say("figure_nats_value", language, nats=f"{model.nats_per_char:.3f}"),
        "figure_disk": say("figure_disk_of_run", language, size=disk) if model.origin == "run" else disk,
        "figure_changed": _date(model),
    }
    rows = "".join(
        f"<div><dt>{escape(say(key, language))}</dt><dd>{escape(value)}</dd></div>"
        for key, value in figures.items()
        if value
    )
    title = f"<h3>{escape(model.title)}</h3>"
    header = f"<header>{title}{_origin(model, language)}</header>"
    return f'<section class="model-head" data-origin="{model.origin}">{header}<dl>{rows}</dl></section>'


def card_html(card: str, language: Language) -> str:
    """The model card, which anybody may have written."""
    title = escape(say("model_card", language))
    if not card:
        return f'<p class="hint">{escape(say("model_card_none", language))}</p>'
    article = f'<article class="card">{markdown_html(card)}</article>'
    return f'<section class="model-card" aria-label="{title}">{article}</section>'


def _origin(model: ShelfModel, language: Language) -> str:
    return f'<span class="origin">{escape(say(f"origin_{model.origin}", language, source=model.source))}</span>'


def _short(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:,.0f} K"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _date(model: ShelfModel) -> str:
    """When a model changed; of one that ships only the day is known on which it was put here."""
    if model.origin == "ships" or not model.changed:
        return ""
    return datetime.fromtimestamp(model.changed, tz=timezone.utc).date().isoformat()
