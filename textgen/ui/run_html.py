"""What the Train tab shows of texts and runs, as escaped HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from itertools import groupby
from typing import Any

from textgen.errors import error_from_dict
from textgen.ui.i18n import Language, say, say_error, say_list, say_script
from textgen.ui.render import share_percent
from textgen.workshop import PASTED, ImportedText, RunHistory, RunView, Upload, Verdict, VocabularyFit

_MOST_FILES = 40
_MOST_SAMPLES = 12
_MOST_EVALUATIONS = 8
_SHOWN_PASSAGE = 160
_SHOWN_SCRIPTS = 3
_SHOWN_COLUMNS = 8
_STAGES = ("reading", "tokenizer", "encoding", "indexing", "timing")


def report_html(upload: Upload, language: Language) -> str:
    """What was found in each file, with what is wrong with it."""
    total = say("import_total", language, characters=f"{upload.characters:,}", files=f"{len(upload.files):,}")
    items = "".join(_import_item(text, language) for text in upload.texts[:_MOST_FILES])
    more = len(upload.texts) - _MOST_FILES
    note = f'<p class="hint">… +{more:,}</p>' if more > 0 else ""
    return f'<section class="import"><p class="total">{escape(total)}</p><ul tabindex="0">{items}</ul>{note}</section>'


def text_name(name: str, language: Language) -> str:
    """What an imported text is called: its file's name, or words for what was pasted."""
    return say("pasted", language) if name == PASTED else name


def _import_item(text: ImportedText, language: Language) -> str:
    name = f"<strong>{escape(text_name(text.name, language))}</strong>"
    problem = f'<p class="trouble">{escape(say_error(text.problem, language))}</p>' if text.problem else ""
    if not text.usable:
        return f'<li class="refused">{name}{problem}</li>'
    encoding = text.encoding or text.kind
    if text.guessed:
        encoding += f" ({say('import_guessed', language)})"
    facts = [
        encoding,
        say("import_characters", language, count=f"{text.characters:,}"),
        say("import_documents", language, count=f"{text.documents:,}"),
        *([say("import_duplicates", language, count=f"{text.duplicates:,}")] if text.duplicates else []),
        ", ".join(f"{say_script(script, language)} {share:.0%}" for script, share in text.scripts[:_SHOWN_SCRIPTS]),
    ]
    if text.column:
        columns = ", ".join(text.columns[:_SHOWN_COLUMNS])
        facts.append(say("import_column", language, column=text.column, columns=columns))
    told = " · ".join(fact for fact in facts if fact)
    beginning = "".join(f"<q>{escape(line)}</q>" for line in text.first_lines[:2])
    return f'<li>{name}<span class="facts">{escape(told)}</span>{beginning}{problem}</li>'


def fit_html(fit: VocabularyFit, language: Language) -> str:
    """How well the vocabulary of a base fits, with a warning where it does not."""
    tokens, share = f"{100 * fit.tokens_per_character:.0f}", f"{fit.byte_fallback_share:.1%}"
    told = f"<p>{escape(say('fit', language, tokens=tokens, share=share))}</p>"
    if fit.unknown_scripts:
        scripts = say_list((say_script(name, language) for name in fit.unknown_scripts), language)
        told += f'<p class="trouble" role="alert">{escape(say("fit_unknown", language, scripts=scripts))}</p>'
    return f'<div class="fit">{told}</div>'


def hint_html(text: str) -> str:
    """A sentence that helps."""
    return f'<p class="hint">{escape(text)}</p>'


def state_name(view: RunView, language: Language) -> str:
    """The state of a run in a few words."""
    unborn = view.state == "stopped" and not view.status.step
    return say("state_unborn" if unborn else f"state_{view.state}", language)


def head_html(view: RunView, history: RunHistory, language: Language) -> str:
    """Title, state, how far it is, and what went wrong."""
    state = escape(state_name(view, language))
    facts = _facts(view, history, language)
    share = 100 * view.status.progress
    bar = (
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<span style="width:{share:.1f}%"></span></div>'
    )
    told = f'<p class="facts">{escape(facts)}</p>' if facts else ""
    told += "".join(hint_html(line) for line in _foreseen(view, language))
    return (
        f'<section class="run-head {view.state}" data-state="{view.state}"><header><h3>{escape(view.title)}</h3>'
        f'<span class="state">{state}</span></header>{bar}{told}{_trouble(view, language)}</section>'
    )


def _facts(view: RunView, history: RunHistory, language: Language) -> str:
    details, latest = view.status.details, history.latest
    if view.position is not None:
        told = [say("run_position", language, position=view.position)]
        return " · ".join([*told, *([say("run_no_room", language)] if view.waits_for_room else [])])
    if view.state == "preparing":
        stage = str(details.get("stage", ""))
        known = say(f"stage_{stage}", language) if stage in _STAGES else ""
        total, done = details.get("total"), details.get("done")
        counted = isinstance(total, (int, float)) and isinstance(done, (int, float)) and total > 0
        return f"{known} {done / total:.0%}" if counted else known  # type: ignore[operator]
    if view.state == "running" and latest:
        return say(
            "run_figures",
            language,
            step=f"{latest['step']:,}",
            passes=f"{latest['epoch']:.1f}",
            rate=f"{latest['tokens_per_second']:,.0f}",
            left=_duration(float(latest["seconds_left"]), language),
        )
    if not latest:
        return ""
    done_text = say(
        "run_done",
        language,
        step=f"{view.status.step:,}",
        time=_duration(float(latest["elapsed_seconds"]), language),
    )
    notes = [say("run_early", language)] if details.get("early") else []
    if isinstance(details.get("most_minutes"), (int, float)):
        notes.append(say("run_too_long", language, minutes=f"{details['most_minutes']:g}"))
    return " · ".join([done_text, *notes])


def _foreseen(view: RunView, language: Language) -> list[str]:
    """What was known before training began."""
    about = view.folder.read_about()
    lines = []
    lineage = about.get("lineage")
    if isinstance(lineage, list) and lineage:
        # A model that was trained in two parts has two of one name.
        bases = [name for name, _ in groupby(map(str, lineage))]
        lines.append(say("run_base", language, bases=" ← ".join(bases)))
    if view.is_active:
        with suppress(KeyError, TypeError, ValueError):
            lines.append(estimate_text(about["estimate"], language))
    with suppress(KeyError, TypeError, ValueError):
        fit = about["fit"]
        tokens, share = 100 * fit["tokens_per_character"], fit["byte_fallback_share"]
        lines.append(say("fit_own", language, tokens=f"{tokens:.0f}", share=f"{share:.1%}"))
    with suppress(KeyError, TypeError, ValueError):
        pieces = about["pieces"]
        lines.append(say("fewer_pieces", language, had=f"{pieces['had']:,}", asked=f"{pieces['asked']:,}"))
    with suppress(KeyError, TypeError, ValueError):
        if about["base_learned"]:
            lines.append(say("base_learned", language, share=f"{about['base_learned']:.0%}"))
    return lines


def _trouble(view: RunView, language: Language) -> str:
    if view.state == "interrupted":
        sentence = say("run_interrupted", language)
    elif view.state == "failed":
        sentence = _error_sentence(view.status.details, language)
    else:
        return ""
    return f'<p class="trouble" role="alert">{escape(sentence)}</p>'


def _error_sentence(details: Mapping[str, Any], language: Language) -> str:
    try:
        content = {"code": details["error_code"], "params": details["error_params"]}
        return say_error(error_from_dict(content), language)
    except (KeyError, ValueError, TypeError):
        # A sentence of ours, by a newer or older program, is said as it is; what other errors say is not for people.
        told = details.get("error") if "error_code" in details else None
        return str(told) if told else say_error(RuntimeError(), language)


def judge_html(history: RunHistory, verdict: Verdict, language: Language) -> str:
    """Before and after, a sentence on overfitting, and what is copied."""
    if not history.held_out and not history.samples:
        return ""
    sentences = []
    best = history.best
    if best is not None:
        step, value = best
        first_step, first = history.held_out[0]
        numbers = {"after": f"{value:.3f}", "step": f"{step:,.0f}"}
        if first_step == 0:
            sentences.append(say("judge_before_after", language, before=f"{first:.3f}", **numbers))
        else:
            sentences.append(say("judge_best", language, **numbers))
        since = f"{verdict.since_step:,}" if verdict.since_step is not None else ""
        sentences.append(say(f"verdict_{verdict.kind}", language, since=since))
    if len(history.kept) > 1:
        before, now = history.kept[0][1], history.kept[-1][1]
        sentences.append(say("judge_kept", language, before=f"{before:.3f}", after=f"{now:.3f}"))
    copied = history.samples[-1].get("memorization") if history.samples else None
    if isinstance(copied, dict) and history.samples[-1].get("step"):
        with suppress(TypeError, ValueError):
            sentences.append(_copied_sentence(copied, language))
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    kind = verdict.kind if best is not None else ""
    return f'<ul class="judge {kind}">{items}</ul>{_evaluations_html(history, language)}'


def _evaluations_html(history: RunHistory, language: Language) -> str:
    """A line for each evaluation, evenly chosen where there are many: how good it was, and what it copied."""
    # Read first: another thread may be adding evaluations, and the best one must be among those found.
    point = history.best
    best = point[0] if point is not None else None
    found: dict[float, dict[str, Any]] = {step: {"held_out": value} for step, value in history.held_out}
    for sample in history.samples:
        copied = sample.get("memorization")
        if isinstance(copied, dict) and sample["step"]:
            found.setdefault(float(sample["step"]), {})["copied"] = copied
    steps = sorted(found)
    if len(steps) < 2:
        return ""
    last = len(steps) - 1
    shown = {round(place * last / (_MOST_EVALUATIONS - 1)) for place in range(_MOST_EVALUATIONS)}
    shown |= {steps.index(best)} if best is not None else set()
    rows = "".join(_evaluation_row(steps[place], found[steps[place]], best, language) for place in sorted(shown))
    names = ("column_step", "column_held_out", "column_share", "column_longest")
    heads = "".join(f'<th scope="col">{escape(say(name, language))}</th>' for name in names)
    title = escape(say("evaluations_title", language))
    head = f"<caption>{title}</caption><thead><tr>{heads}</tr></thead>"
    return f'<table class="evaluations">{head}<tbody>{rows}</tbody></table>'


def _evaluation_row(step: float, figures: Mapping[str, Any], best: float | None, language: Language) -> str:
    held_out, copied = figures.get("held_out"), figures.get("copied")
    share = longest = text = ""
    if copied is not None:
        with suppress(TypeError, ValueError):
            share = share_percent(min(1.0, max(0.0, float(copied.get("copied_share") or 0.0))))
            tokens = int(copied.get("longest_tokens") or 0)
            text = " ".join(str(copied.get("longest_text", "")).split())[:_SHOWN_PASSAGE]
            counted = escape(say("copied_tokens", language, tokens=f"{tokens:,}"))
            longest = f"<span>{counted}</span> <q>{escape(text)}</q>" if tokens else "–"
    number = f"{held_out:.3f}" if held_out is not None else ""
    mark = f' class="best" title="{escape(say("evaluation_best", language))}"' if step == best else ""
    cells = f'<td>{number}</td><td>{share}</td><td title="{escape(text)}">{longest}</td>'
    return f'<tr{mark}><th scope="row">{step:,.0f}</th>{cells}</tr>'


def _copied_sentence(copied: Mapping[str, Any], language: Language) -> str:
    share = float(copied.get("copied_share") or 0.0)
    if not share:
        return say("judge_not_copied", language)
    longest = " ".join(str(copied.get("longest_text", "")).split())
    return say("judge_copied", language, share=f"{share:.1%}", longest=longest[:_SHOWN_PASSAGE])


def samples_html(samples: Sequence[Mapping[str, Any]], language: Language) -> str:
    """What the model wrote, a strip for each prompt, from now back to the start of training."""
    # The first, the last, and what lies evenly between them.
    last, count = len(samples) - 1, min(len(samples), _MOST_SAMPLES)
    shown = [samples[round(place * last / max(1, count - 1))] for place in range(count)]
    if not shown:
        return ""
    strips: dict[object, list[str]] = {}
    for line in reversed(shown):
        for prompt, text in zip(_prompts_of(line), line["samples"], strict=True):
            strips.setdefault(prompt, []).append(_sample_card(line["step"], str(text), language))
    lists = "".join(f'<ol class="strip" tabindex="0">{"".join(cards)}</ol>' for cards in strips.values())
    title = escape(say("samples_over_time", language))
    return f'<section class="run-samples" aria-label="{title}"><h3>{title}</h3>{lists}</section>'


def _prompts_of(line: Mapping[str, Any]) -> list[object]:
    """What the samples of a line begin with; their places where it does not say."""
    places: list[object] = list(range(len(line["samples"])))
    prompts = line.get("prompts")
    return list(map(str, prompts)) if isinstance(prompts, list) and len(prompts) == len(places) else places


def _sample_card(step: int, text: str, language: Language) -> str:
    title = escape(say("sample_step", language, step=f"{step:,}"))
    return f"<li><h4>{title}</h4><div>{escape(text.strip(chr(10))) or '&nbsp;'}</div></li>"


def _duration(seconds: float, language: Language) -> str:
    if seconds < 90:
        return say("duration_seconds", language, seconds=f"{seconds:.0f}")
    return say("duration_minutes", language, minutes=f"{seconds / 60:,.0f}")


def command_html(command: tuple[str, str], language: Language) -> str:
    """The command that does the same, and its config file folded away."""
    line, config = (escape(text) for text in command)
    title, file = escape(say("command", language)), escape(say("config_file", language))
    folded = f'<details><summary>{file}</summary><pre class="command" tabindex="0">{config}</pre></details>'
    return f'<p>{title}</p><pre class="command" tabindex="0">{line}</pre>{folded}'


def estimate_text(figures: Mapping[str, Any], language: Language) -> str:
    """What an estimate found, in a sentence."""
    training = figures["training"]
    peak, free = training.get("peak_bytes"), figures.get("free_bytes")
    return say(
        "estimated",
        language,
        minutes=f"{training['seconds'] / 60:,.1f}",
        passes=f"{training['passes']:,.1f}",
        rate=f"{training['tokens_per_second']:,.0f}",
        memory=f"{peak / 1e6:,.0f}" if peak else "?",
        disk=f"{training['disk_bytes'] / 1e6:,.0f}",
        free=f"{free / 1e6:,.0f}" if free is not None else "?",
    )
