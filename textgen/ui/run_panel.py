"""The runs of the Train tab: watched, judged, used. Everything is drawn from what is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from textgen.errors import TextgenError
from textgen.shelf import Shelf
from textgen.ui.attending import attending
from textgen.ui.hub_push import HubPush
from textgen.ui.i18n import Language, known_language, say, say_in_all
from textgen.ui.loss_plot import Curve, loss_plot
from textgen.ui.model_download import ModelDownload
from textgen.ui.people import People
from textgen.ui.render import CHANGING_CHOICES, failure_html, status_html
from textgen.ui.run_html import command_html, head_html, judge_html, samples_html, state_name
from textgen.workshop import Person, RunView, Workshop

# Fifty open pages that follow one run ask for less than half a core.
LOOK_SECONDS = 2.5
_MOST_COMPARED = 4
_SMOOTHEST = 0.98
_VERBS = ("pause", "stop_keep", "resume", "discard", "earlier", "later")


class _Asked(NamedTuple):
    """What a page wants to see: `run`, or the latest; `listed` is the one that is chosen in its list."""

    run: str | None
    compared: Sequence[str]
    scale: str
    smoothing: float
    listed: str | None
    seen: str


class RunPanel:
    """Builds the panel inside the current column."""

    def __init__(
        self,
        shelf: Shelf,
        workshop: Workshop,
        people: People,
        i18n: gr.I18n,
        language: gr.Textbox,
        started: gr.Textbox,
    ) -> None:
        self._shelf = shelf
        self._workshop = workshop
        self._people = people
        self._language = language
        self._build(i18n)
        self._wire(started)

    def _build(self, i18n: gr.I18n) -> None:
        self._timer = gr.Timer(LOOK_SECONDS, active=False)
        # What the page shows already: it is told nothing twice.
        self._seen = gr.Textbox("", visible=False)
        # Which run it shows; page.js presses the button when somebody comes back to a page that has gone quiet.
        self._shown = gr.Textbox("", visible=False)
        self._look_again = gr.Button(visible="hidden", elem_id="look-again")
        self._run = gr.Dropdown(
            [], label=i18n("runs"), info=i18n("runs_info"), elem_id="run", interactive=True, **CHANGING_CHOICES
        )
        self._head = gr.HTML("", elem_id="run-head")
        with gr.Row(elem_classes="go-row", elem_id="run-verbs"):
            self._verbs = {
                name: gr.Button(i18n(name), elem_id=name.replace("_", "-"), size="sm", min_width=90, visible=False)
                for name in _VERBS
            }
        self._status = gr.HTML("", elem_id="run-status")
        with gr.Column(visible=False, elem_id="run-details") as self._details:
            self._build_details(i18n)

    def _build_details(self, i18n: gr.I18n) -> None:
        self._plot = gr.HTML("", elem_id="run-plot")
        with gr.Row(elem_id="plot-options"):
            self._scale = gr.Radio(
                [(i18n("scale_linear"), "linear"), (i18n("scale_log"), "log")],
                value="linear",
                label=i18n("scale"),
                elem_id="plot-scale",
                min_width=150,
            )
            self._smoothing = gr.Slider(
                0.0,
                _SMOOTHEST,
                value=0.8,
                step=0.02,
                label=i18n("smoothing"),
                info=i18n("smoothing_info"),
                elem_id="plot-smoothing",
                min_width=150,
            )
            self._compared = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=_MOST_COMPARED,
                label=i18n("compare"),
                info=i18n("compare_info"),
                elem_id="compare",
                **CHANGING_CHOICES,
                min_width=170,
            )
        self._judge = gr.HTML("", elem_id="run-judge")
        self._samples = gr.HTML("", elem_id="run-samples")
        with gr.Accordion(i18n("prompts"), open=False, elem_classes="fold", elem_id="fold-prompts"):
            self._prompts = gr.Textbox(
                label=i18n("prompts"), info=i18n("prompts_info"), lines=2, max_lines=6, elem_id="run-prompts"
            )
            self._change_prompts = gr.Button(i18n("prompts_change"), size="sm", elem_id="change-prompts")
            self._prompts_status = gr.HTML("", elem_id="prompts-status")
        with gr.Row(elem_classes="go-row", elem_id="run-use"):
            self.try_it = gr.Button(i18n("try_it"), variant="primary", elem_id="try-it", visible=False)
            self._download = ModelDownload(self._shelf.archive, self._people, i18n, elem_id="download")
        self._use_status = gr.HTML("", elem_id="use-status")
        self._push = HubPush(self._shelf, self._people, i18n, self._language, self._shown)
        with gr.Accordion(i18n("fold_more"), open=False, elem_classes="fold", elem_id="fold-more"):
            with gr.Row(elem_id="train-longer") as self._longer_row:
                self._minutes = gr.Number(5, label=i18n("longer_minutes"), elem_id="longer-minutes")
                self._longer = gr.Button(i18n("longer"), elem_id="longer")
            with gr.Row():
                self._title = gr.Textbox(label=i18n("title"), max_lines=1, elem_id="run-title")
                self._rename = gr.Button(i18n("rename"), elem_id="rename")
            self._more_status = gr.HTML("", elem_id="more-status")
            self._command = gr.HTML("", elem_id="run-command")

    @property
    def run(self) -> gr.Dropdown:
        """Which run is shown; its value is the run's id."""
        return self._run

    def _wire(self, started: gr.Textbox) -> None:
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        # The number beside the slider may be emptied or beyond its ends for as long as somebody types, which Gradio
        # refuses before anybody of ours is asked.
        looking: dict[str, Any] = {**quiet, "preprocess": False}
        asked = [self._language, self._run, self._compared, self._scale, self._smoothing]
        shown = [
            self._run,
            self._compared,
            self._head,
            *self._verbs.values(),
            self._plot,
            self._judge,
            self._samples,
            self.try_it,
            self._download.button,
            self._push.fold,
            self._longer_row,
            self._command,
            self._details,
            self._shown,
            self._timer,
            self._seen,
        ]
        self._timer.tick(self.look, [*asked, self._seen], shown, **looking)
        # For whoever opens the page, comes back to the tab or wants to see something else.
        self.refreshing = {"fn": self.look, "inputs": [*asked, self._seen], "outputs": shown, **looking}
        changes = [self._run.input, self._compared.input, self._scale.input, self._look_again.click]
        gr.on(changes, **self.refreshing)
        self._smoothing.change(**self.refreshing, trigger_mode="always_last")
        answers = [self._status, self._prompts_status, self._use_status, self._more_status]
        self._shown.change(self.choose, [self._shown], [self._prompts, self._title, *answers], **quiet)
        following = started.change(self.follow, [self._language, started, *asked[2:]], shown, **looking)
        following.then(None, None, None, js="() => window.textgenShowRun()", api_visibility="private")
        # A look at another run may have been answered later than the one that shows what is chosen: looked at once
        # more, or a page without a timer would go on showing it.
        self._shown.change(**self.refreshing)
        acted: dict[str, Any] = {}
        for name, button in self._verbs.items():
            asked_for = [self._language, self._run]
            done = button.click(
                self._verb(name), asked_for, [self._status], js=_sure() if name == "discard" else None, **quiet
            )
            done.then(**self.refreshing)
            acted[name] = done
        self.discarded = acted["discard"]
        more = [self._more_status]
        longer = self._longer.click(self.longer, [self._language, self._run, self._minutes], more, **quiet)
        renamed = self._rename.click(self.rename, [self._language, self._run, self._title], more, **quiet)
        for event in (longer, renamed):
            event.then(**self.refreshing)
        if self._workshop.attended:
            staying: dict[str, Any] = {**quiet, "queue": True, "concurrency_limit": None}
            for event, told in ((acted["resume"], self._status), (longer, self._more_status)):
                event.then(self.stay, [self._language, self._run], [told], **staying)
        self._change_prompts.click(
            self.change_prompts, [self._language, self._run, self._prompts], [self._prompts_status], **quiet
        )
        self._download.wire(self._language, self._run, self._use_status)

    def look(
        self,
        request: gr.Request,
        language_name: str,
        run: str | None,
        compared: list[str] | None,
        scale: str,
        smoothing: object,
        seen: str = "",
    ) -> list[Any]:
        """Updates of whatever has changed since the page saw it; all of them when it does not say what it saw."""
        asked = _Asked(run, compared or [], scale, _smoothing_of(smoothing), listed=run, seen=seen)
        return self._updates(request, language_name, asked)

    def _updates(self, request: gr.Request, language_name: str, asked: _Asked) -> list[Any]:
        language, person = known_language(language_name), self._people.of(request)
        try:
            while True:
                views = self._workshop.runs(person)
                try:
                    return self._showing(views, language, asked)
                except (TextgenError, OSError):
                    # Runs that this page or another process discards while they are drawn are not there to be drawn.
                    self._workshop.forget()
                    left = {view.run_id for view in self._workshop.runs(person)}
                    if all(view.run_id in left for view in views):
                        raise
        except (TextgenError, OSError) as error:
            # Without a mark the next look draws all anew, and it comes by itself.
            told, unchanged = failure_html(error, language), [gr.skip()] * (10 + len(_VERBS))
            return [gr.skip(), gr.skip(), told, *unchanged, gr.Timer(active=True), ""]

    def _showing(self, views: Sequence[RunView], language: Language, asked: _Asked) -> list[Any]:
        run, compared, scale, smoothing, listed, seen = asked
        view = next((view for view in views if view.run_id == run), views[0] if views else None)
        others = [other for other in views if other.run_id in compared and other is not view][:_MOST_COMPARED]
        options = (language, scale, smoothing)
        whole = self._workshop.mark(views, [view, *others] if view else [], options)
        mark = " ".join((self._workshop.mark(views, [], language), view.run_id if view else "", whole))
        if mark == seen:
            return [gr.skip()] * (15 + len(_VERBS))
        choices = [(f"{each.title} · {state_name(each, language)}", each.run_id) for each in views]
        timer = gr.Timer(active=any(each.is_active for each in views))
        if view is None:
            empty = f'<p class="hint">{say("no_runs", language)}</p>'
            hidden = [gr.Button(visible=False)] * len(_VERBS)
            unused = [*[gr.Button(visible=False)] * 2, gr.Accordion(visible=False), gr.Row(visible=False)]
            nothing = [gr.Dropdown([], value=None), gr.Dropdown([]), empty, *hidden, "", "", "", *unused, ""]
            return [*nothing, gr.Column(visible=False), "", timer, mark]
        drawn = self._workshop.remembered(
            ("drawn", mark, view.run_id), lambda: self._drawn(view, others, language, scale, smoothing)
        )
        head, plot, judge, samples, command = drawn
        usable = self._workshop.checkpoint(view) is not None
        return [
            *self._lists(choices, listed, view.run_id, compared, mark.split(" "), seen.split(" ")),
            head,
            *(gr.Button(visible=name in _allowed(view)) for name in _VERBS),
            plot,
            judge,
            samples,
            gr.Button(visible=usable),
            gr.Button(visible=usable),
            gr.Accordion(visible=usable),
            gr.Row(visible=not view.is_active),
            command,
            gr.Column(visible=True),
            view.run_id,
            timer,
            mark,
        ]

    @staticmethod
    def _lists(
        choices: list[tuple[str, str]],
        listed: str | None,
        shown: str,
        compared: Sequence[str],
        mark: Sequence[str],
        seen: Sequence[str],
    ) -> list[Any]:
        """Updates of both lists of runs; one that somebody has open would close, so that it is told only what is new.

        A look that was under way while somebody chose another run must not undo that: the value is left as it is,
        unless there is no such run.
        """
        updates: list[Any] = [gr.skip()] * 2
        chosen: dict[str, Any] = {} if listed == shown else {"value": shown}
        if chosen or mark[:1] != seen[:1]:
            updates[0] = gr.Dropdown(choices, **chosen)
        if mark[:2] != seen[:2]:
            others = [choice for choice in choices if choice[1] != shown]
            left = [run for run in compared if run in [choice[1] for choice in others]]
            kept: dict[str, Any] = {} if left == list(compared) else {"value": left}
            updates[1] = gr.Dropdown(others, **kept)
        return updates

    def follow(
        self,
        request: gr.Request,
        language_name: str,
        run: str,
        compared: list[str] | None,
        scale: str,
        smoothing: object,
    ) -> list[Any]:
        """Shows a run that was just started, whichever is chosen in the list."""
        if not run:
            return [gr.skip()] * (15 + len(_VERBS))
        asked = _Asked(run, compared or [], scale, _smoothing_of(smoothing), listed=None, seen="")
        return self._updates(request, language_name, asked)

    def _drawn(
        self, view: RunView, others: Sequence[RunView], language: Language, scale: str, smoothing: float
    ) -> tuple[str, str, str, str, str]:
        history = self._workshop.history(view)
        curves = [Curve(view.title, list(history.losses), list(history.held_out))]
        for other in others:
            theirs = self._workshop.history(other)
            curves.append(Curve(other.title, list(theirs.losses), list(theirs.held_out)))
        return (
            head_html(view, history, language),
            loss_plot(curves, language, logarithmic=scale == "log", smoothing=smoothing),
            judge_html(history, self._workshop.verdict(history), language),
            samples_html(list(history.samples), language),
            self._command_of(view, language),
        )

    def _command_of(self, view: RunView, language: Language) -> str:
        try:
            return command_html(self._workshop.command(view, own_machine=not self._people.shared), language)
        except TextgenError as error:
            if not view.folder.path.exists():
                raise
            # What it has learned can be seen and used all the same.
            return failure_html(error, language)

    def choose(self, request: gr.Request, run: str | None) -> tuple[str, ...]:
        """What can be edited of a run: its sample prompts and its title. What was answered about another is gone."""
        answers = ("",) * 4
        try:
            view = self._workshop.jobs.view(run or "", self._people.of(request))
            prompts = view.folder.sample_prompts(view.folder.settings())
        except (TextgenError, OSError):
            return "", "", *answers
        return "\n".join(prompts), view.title, *answers

    def _verb(self, name: str) -> Callable[..., str]:
        jobs = self._workshop.jobs
        verbs: dict[str, Callable[[str, Person], Any]] = {
            "pause": jobs.pause,
            "stop_keep": jobs.stop,
            "resume": jobs.resume,
            "discard": jobs.discard,
            "earlier": lambda run, person: jobs.move(run, -1, person),
            "later": lambda run, person: jobs.move(run, 1, person),
        }

        def act(request: gr.Request, language_name: str, run: str | None) -> str:
            if not run:  # thought better of it
                return ""
            return self._told(language_name, lambda: verbs[name](run, self._people.of(request)))

        return act

    def longer(self, request: gr.Request, language_name: str, run: str | None, minutes: float | None) -> str:
        """Trains a run for some minutes more."""

        def act() -> None:
            self._workshop.longer(run or "", minutes, self._people.of(request))

        return self._told(language_name, act)

    def stay(self, request: gr.Request, language_name: str, run: str | None) -> Iterator[str]:
        """Trains a run that waits, where nothing else does, for as long as somebody looks."""
        yield from attending(self._workshop, run or "", self._people.of(request), known_language(language_name))

    def rename(self, request: gr.Request, language_name: str, run: str | None, title: str | None) -> str:
        """Gives a run another title."""
        return self._told(
            language_name, lambda: self._workshop.jobs.rename(run or "", title or "", self._people.of(request))
        )

    def change_prompts(self, request: gr.Request, language_name: str, run: str | None, prompts: str | None) -> str:
        """Lets samples begin with something else from the next evaluation on."""
        lines = [line for line in (prompts or "").split("\n") if line.strip()] or [""]

        def act() -> None:
            self._workshop.change_prompts(run or "", lines, self._people.of(request))

        return self._told(language_name, act, done="prompts_changed")

    def _told(self, language_name: str, act: Callable[[], Any], *, done: str = "") -> str:
        language = known_language(language_name)
        try:
            act()
        except Exception as error:
            return failure_html(error, language)
        finally:
            self._workshop.forget()
        return status_html(say(done, language)) if done else ""


def _allowed(view: RunView) -> set[str]:
    """The verbs that mean something for a run as it is."""
    allowed = {"discard"}
    if view.is_active:
        allowed |= {"pause", "stop_keep"}
    if view.position is not None:
        allowed |= {"earlier", "later"}
    if view.state in ("paused", "interrupted", "failed", "stopped"):
        allowed.add("resume")
    if view.state in ("paused", "interrupted"):
        allowed.add("stop_keep")
    return allowed


def _smoothing_of(given: object) -> float:
    """What the slider stands for while its number may be anything."""
    try:
        return round(min(_SMOOTHEST, max(0.0, float(str(given)))), 2)
    except ValueError:
        return 0.0


def _sure() -> str:
    """JavaScript that asks before a run is discarded; without a run in the answer nothing happens."""
    question = f"({say_in_all('discard_sure', title='TITLE')})[language]"
    title = "(document.querySelector('#run-head h3') || {}).textContent || ''"
    return f"(language, run) => [language, confirm({question}.replace('TITLE', () => {title})) ? run : '']"
