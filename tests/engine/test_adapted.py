"""Requests that learn from their prompt first."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.engine.helpers import PATIENCE_SECONDS, ManualClock, ids, request
from textgen.config import AdaptationSettings
from textgen.engine import Backend, Engine, FinishedEvent, GenerationRequest, GenerationStream, TorchBackend
from textgen.engine import engine as engine_module
from textgen.engine.adapted import AdaptedRun
from textgen.errors import EngineClosed, InvalidSetting, LearningElsewhere
from textgen.limits import Limits
from textgen.model import LanguageModel
from textgen.model.adaptation import adapt
from textgen.model.fingerprint import fingerprint

PATTERN = (7, 11, 13, 17)
LEARNS = AdaptationSettings(passes=6, learning_rate=0.03, decay=0.0, window=8)
# Some ten thousand steps: nobody will wait for these.
ENDLESS = AdaptationSettings(passes=20, window=1)


def learner(
    *, adaptation: AdaptationSettings | None = LEARNS, repeats: int = 10, **settings: object
) -> GenerationRequest:
    values = {"temperature": 0.0, "max_new_tokens": 8, "eos_id": None, **settings}
    return request(1, *PATTERN * repeats, adaptation=adaptation, **values)


class HeldSource:
    """The model, but only when a test allows it; so a request stays where it asks for the weights."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.asked = threading.Semaphore(0)
        self.allowed = threading.Event()

    def __call__(self) -> LanguageModel:
        self.asked.release()
        assert self.allowed.wait(PATIENCE_SECONDS)
        return self._model

    def wait_until_asked(self) -> None:
        assert self.asked.acquire(timeout=PATIENCE_SECONDS)


def last(stream: GenerationStream) -> FinishedEvent:
    event = list(stream)[-1]
    assert isinstance(event, FinishedEvent)
    return event


def wait_until_forgotten(engine: Engine) -> None:
    """Its thread tells the engine a moment after the last event."""
    deadline = threading.Event()
    for _ in range(3_000):
        if not engine.in_use:
            return
        deadline.wait(0.01)
    pytest.fail("an adapted request is still there")


def test_what_was_learned_is_written_and_the_model_is_as_before(engine: Engine, model: LanguageModel) -> None:
    before = fingerprint(model)
    plain = ids(engine.submit(learner(adaptation=None)))
    learned = ids(engine.submit(learner()))
    assert learned == [*PATTERN, *PATTERN]
    assert plain != learned
    assert fingerprint(model) == before
    assert ids(engine.submit(learner(adaptation=None))) == plain


def test_the_same_request_learns_and_writes_the_same(engine: Engine) -> None:
    wanted = learner(temperature=1.5, num_samples=2, max_new_tokens=15)
    first = list(engine.submit(wanted))
    assert list(engine.submit(wanted)) == first


def test_it_writes_what_the_adapted_model_writes(engine: Engine, model: LanguageModel) -> None:
    wanted = learner(temperature=1.0)
    private = adapt(model, torch.tensor(wanted.context_ids).numpy(), LEARNS)
    with Engine(TorchBackend(private)) as other:
        expected = list(other.submit(learner(adaptation=None, temperature=1.0)))
    assert list(engine.submit(wanted)) == expected


def test_beams_and_samples_adapt_too(engine: Engine) -> None:
    assert last(engine.submit(learner(num_beams=2))).hypotheses[0].token_ids == PATTERN * 2
    found = last(engine.submit(learner(num_samples=2))).hypotheses
    assert [hypothesis.token_ids for hypothesis in found] == [PATTERN * 2] * 2


def test_others_write_on_undisturbed_meanwhile(backend: Backend, model: LanguageModel) -> None:
    wanted = request(1, 5, 6, max_new_tokens=200, eos_id=None)
    with Engine(backend) as engine:
        alone = list(engine.submit(wanted))
    source = HeldSource(model)
    with Engine(backend, source=source) as engine:
        adapting = engine.submit(learner())
        source.wait_until_asked()
        first = engine.submit(wanted)
        assert list(first) == alone
        assert (engine.live_rows, engine.in_use) == (0, True)
        second = engine.submit(wanted)
        source.allowed.set()
        assert list(second) == alone
        assert last(adapting).reason == "length"
        wait_until_forgotten(engine)


def test_cancelled_while_it_learns_it_learns_no_further(onnx_backend: Backend, model: LanguageModel) -> None:
    """Cancelled before the first step or in the middle; with all its steps it would take minutes."""
    source = HeldSource(model)
    with Engine(onnx_backend, source=source) as engine:
        stream = engine.submit(learner(adaptation=ENDLESS, repeats=500))
        source.wait_until_asked()
        stream.cancel()
        source.allowed.set()
        assert (last(stream).reason, last_ids(stream)) == ("cancelled", [])
        other = engine.submit(learner(adaptation=ENDLESS, repeats=500))
        source.wait_until_asked()
        other.cancel()
        assert last(other).reason == "cancelled"
        wait_until_forgotten(engine)


def last_ids(stream: GenerationStream) -> list[int]:
    """What there is to be read after the end: nothing."""
    return [event.token_id for event in stream]  # type: ignore[union-attr]


def test_a_stream_that_is_dropped_while_it_learns_ends(onnx_backend: Backend, model: LanguageModel) -> None:
    source = HeldSource(model)
    with Engine(onnx_backend, source=source) as engine:
        stream = engine.submit(learner(adaptation=ENDLESS, repeats=500))
        source.wait_until_asked()
        del stream
        source.allowed.set()
        wait_until_forgotten(engine)


def test_the_deadline_counts_the_learning(onnx_backend: Backend, model: LanguageModel) -> None:
    clock = ManualClock()
    source = HeldSource(model)
    limits = Limits(request_deadline_seconds=5.0)
    with Engine(onnx_backend, source=source, clock=clock, limits=limits) as engine:
        stream = engine.submit(learner(adaptation=ENDLESS, repeats=500))
        source.wait_until_asked()
        clock.seconds = 5.0
        source.allowed.set()
        assert last(stream).reason == "deadline"


def test_only_so_many_may_learn_at_once(onnx_backend: Backend, model: LanguageModel) -> None:
    source = HeldSource(model)
    with Engine(onnx_backend, source=source, limits=Limits(max_adapted_requests=2)) as engine:
        streams = [engine.submit(learner()) for _ in range(2)]
        with pytest.raises(LearningElsewhere, match="from 2 other texts"):
            engine.submit(learner())
        assert len(ids(engine.submit(request(max_new_tokens=3, eos_id=None)))) == 3
        source.allowed.set()
        assert [last(stream).reason for stream in streams] == ["length"] * 2
        wait_until_forgotten(engine)
        assert last(engine.submit(learner())).reason == "length"


def test_a_stream_names_what_really_runs_it(onnx_backend: Backend, model: LanguageModel) -> None:
    with Engine(onnx_backend, source=lambda: model) as engine:
        usual, adapted = engine.submit(learner(adaptation=None)), engine.submit(learner())
        assert last(usual).reason == last(adapted).reason == "length"
        assert usual.backend_name == engine.backend_name == "ONNX Runtime int8, 1 thread"
        assert adapted.backend_name == TorchBackend(model).name


@pytest.mark.parametrize("learning", [True, False])
def test_closing_ends_what_learns_and_what_has_learned(
    onnx_backend: Backend, model: LanguageModel, learning: bool
) -> None:
    others = set(threading.enumerate())
    source = HeldSource(model)
    engine = Engine(onnx_backend, source=source, limits=Limits(max_new_tokens=10**6))
    if learning:
        stream = engine.submit(learner(adaptation=ENDLESS, repeats=500))
        source.wait_until_asked()
        closer = threading.Thread(target=engine.close)
        closer.start()
        source.allowed.set()
    else:
        source.allowed.set()
        stream = engine.submit(learner(max_new_tokens=10**6))
        next(stream)
        closer = threading.Thread(target=engine.close)
        closer.start()
    closer.join(PATIENCE_SECONDS)
    assert not closer.is_alive()
    assert last(stream).reason == "cancelled"
    assert set(threading.enumerate()) <= others
    with pytest.raises(EngineClosed):
        engine.submit(learner())


def test_a_closed_engine_has_no_thread_left_that_learned(
    onnx_backend: Backend, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that still lets go of its weights when the program ends would end it with an abort."""
    may_end = threading.Event()

    class Slow(AdaptedRun):
        def _work(self) -> None:
            super()._work()
            assert may_end.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(engine_module, "AdaptedRun", Slow)
    engine = Engine(onnx_backend, source=lambda: model)
    last(engine.submit(learner()))
    wait_until_forgotten(engine)
    closing = threading.Thread(target=engine.close)
    closing.start()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "textgen-adapted")
    assert closing.is_alive()
    may_end.set()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
    assert not thread.is_alive()


def test_an_error_on_the_way_reaches_its_stream(onnx_backend: Backend, model: LanguageModel) -> None:
    failures = iter([OSError("the checkpoint is gone")])

    def source() -> LanguageModel:
        for error in failures:
            raise error
        return model

    def broken(tokens: object) -> bool:
        raise KeyError("a bug of the caller")

    with Engine(onnx_backend, source=source) as engine:
        with pytest.raises(OSError, match="the checkpoint is gone"):
            list(engine.submit(learner()))
        with pytest.raises(KeyError):
            list(engine.submit(learner(stop_condition=broken)))
        assert last(engine.submit(learner())).reason == "length"
        wait_until_forgotten(engine)


def test_what_cannot_adapt_is_refused(onnx_backend: Backend, model: LanguageModel) -> None:
    with Engine(onnx_backend) as engine, pytest.raises(InvalidSetting, match="not at hand"):
        engine.submit(learner())
    with Engine(onnx_backend, source=lambda: model) as engine:
        start = engine.snapshot((1, 5))
        with pytest.raises(InvalidSetting, match="snapshot"):
            engine.submit(request(6, start=start, adaptation=LEARNS))
        assert not engine.in_use


def test_a_model_given_as_such_is_its_own_source(model: LanguageModel) -> None:
    with Engine(model) as engine:
        assert ids(engine.submit(learner())) == [*PATTERN, *PATTERN]


def test_a_prompt_of_one_token_teaches_nothing(engine: Engine, model: LanguageModel) -> None:
    wanted = request(1, temperature=0.0, eos_id=None, adaptation=LEARNS)
    with Engine(model) as other:
        assert ids(engine.submit(wanted)) == ids(other.submit(request(1, temperature=0.0, eos_id=None)))


def test_adapted_text_does_not_reach_the_prefix_cache(onnx_backend: Backend, model: LanguageModel) -> None:
    """Its states are of other weights."""
    with Engine(onnx_backend, source=lambda: model) as engine:
        fresh = learner(adaptation=None, repeats=11)
        list(engine.submit(learner()))
        found = list(engine.submit(fresh))
    with Engine(onnx_backend) as engine:
        assert list(engine.submit(fresh)) == found
