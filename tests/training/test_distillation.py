from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.conftest import CPU
from tests.training.test_gradients import largest_difference, limit_rows
from tests.training.together import run_ranks
from textgen import imports
from textgen.config import ModelSettings, TrainingBudget
from textgen.errors import BadCheckpoint
from textgen.imports import has_dot_products
from textgen.model import LanguageModel
from textgen.model.cells import cell_types
from textgen.model.mogrifier_window import MogrifierSteps
from textgen.text.corpus import StreamBatches
from textgen.text.tokenizer import BOS_ID, EOS_ID
from textgen.training.distillation import TaughtBatch, TaughtBatches
from textgen.training.distributed import Ranks
from textgen.training.snapshot import TrainingSnapshot
from textgen.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
VOCAB, TEXT_ROWS, WRITTEN_ROWS, WINDOW = 30, 3, 4, 8


def teacher(seed: int, cell: str = "lstm", *, ends: float = 0.0, members: int = 1) -> LanguageModel:
    """A model that is sure of itself, and ends texts the likelier the more `ends` is."""
    settings = ModelSettings.model_validate(
        {"cell": cell, "vocab_size": VOCAB, "embedding_size": 6, "hidden_size": 9, "num_layers": 2, "members": members}
    )
    model = LanguageModel(settings)
    model.reset_parameters(seed, never_predicted=(0, BOS_ID, 3))
    with torch.no_grad():
        model.embedding.mul_(20)
        model.output_bias[EOS_ID] += ends
    return model


def texts(*, seed: int = 0, reset: bool = False) -> StreamBatches:
    ids = np.random.default_rng(7).integers(4, VOCAB, 200)
    ids[::40], ids[39::40] = BOS_ID, EOS_ID
    return StreamBatches(ids, batch_size=TEXT_ROWS, window=WINDOW, seed=seed, reset_at_document_ends=reset)


def taught(teachers: list[LanguageModel], *, share: float = 0.5, reset: bool = False, **others: Any) -> TaughtBatches:
    settings = {"written_rows": WRITTEN_ROWS, "seed": 5, **others}
    return TaughtBatches(texts(reset=reset), teachers, CPU, share=share, reset_at_document_ends=reset, **settings)


def said(teachers: list[LanguageModel], batches: list[TaughtBatch]) -> Tensor:
    """What the teachers say on average of consecutive batches of one pass, [batch, time, vocab]; the slow reference."""
    inputs = torch.from_numpy(np.concatenate([batch.inputs for batch in batches], 1))
    resets = None
    if batches[0].resets is not None:
        resets = torch.from_numpy(np.concatenate([batch.resets for batch in batches if batch.resets is not None], 1))
    with torch.no_grad():
        logits = [model(inputs, model.initial_state(len(inputs)), resets=resets)[0] for model in teachers]
    return torch.stack([F.softmax(each, -1) for each in logits]).mean(0)


@pytest.mark.parametrize("cell", sorted(cell_types()))
@pytest.mark.parametrize("reset", [False, True])
def test_what_is_wanted_is_what_the_teachers_say_on_average(cell: str, reset: bool) -> None:
    teachers = [teacher(1, cell), teacher(2, "gru")]
    source = taught(teachers, share=1.0, reset=reset)
    batches = [source.next() for _ in range(4)]
    expected = said(teachers, batches)
    wanted = torch.cat([batch.wanted for batch in batches], 1)
    targets = torch.from_numpy(np.concatenate([batch.targets for batch in batches], 1))
    counted = targets != StreamBatches.IGNORE
    assert 0 < counted.sum() < counted.numel()
    torch.testing.assert_close(wanted[counted], expected[counted], rtol=1e-4, atol=1e-6)
    assert not wanted[~counted].any()


@pytest.mark.skipif(not has_dot_products(), reason="this processor has no dot products of bf16")
def test_teachers_in_bf16_say_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    step = MogrifierSteps.step

    def counting(steps: MogrifierSteps, *given: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return step(steps, *given)

    monkeypatch.setattr(MogrifierSteps, "step", counting)
    monkeypatch.setattr(imports, "has_bf16_tiles", lambda: False)
    teachers = [teacher(1, "mogrifier-lstm"), teacher(2, "mogrifier-lstm", members=2)]
    choice = replace(CPU, precision=torch.bfloat16)
    source = TaughtBatches(texts(), teachers, choice, share=1.0, written_rows=WRITTEN_ROWS, seed=5)
    batches = [source.next() for _ in range(3)]
    targets = np.concatenate([batch.targets for batch in batches], 1)
    counted = torch.from_numpy(targets != StreamBatches.IGNORE)
    distance = (torch.cat([batch.wanted for batch in batches], 1) - said(teachers, batches)).abs().sum(-1)[counted]
    assert distance.mean() < 0.05
    assert len(calls) == 3 * WINDOW * (2 + 4)  # layers of all networks


def test_rows_of_text_are_those_of_the_text_and_learn_from_it_too() -> None:
    source, plain, teachers = taught([teacher(1)], share=0.25), texts(), [teacher(1)]
    batch, expected = source.next(), plain.next()
    assert (batch.inputs[:TEXT_ROWS] == expected.inputs).all()
    assert (batch.targets[:TEXT_ROWS] == expected.targets).all()
    row, column = 1, 3
    mixed = 0.25 * said(teachers, [batch])[row, column]
    mixed[batch.targets[row, column]] += 0.75
    torch.testing.assert_close(batch.wanted[row, column], mixed)


def test_what_is_written_goes_on_from_window_to_window_and_is_what_comes_next() -> None:
    source = taught([teacher(1), teacher(2)])
    first, second = source.next(), source.next()
    written = np.concatenate([first.inputs, second.inputs], 1)[TEXT_ROWS:]
    assert (written[:, 0] == BOS_ID).all()
    following = written[:, 1:]
    targets = np.concatenate([first.targets, second.targets], 1)[TEXT_ROWS:, :-1]
    assert (targets == np.where(following == BOS_ID, StreamBatches.IGNORE, following)).all()
    assert len({tuple(row) for row in written}) == WRITTEN_ROWS


def test_it_is_written_with_the_probabilities_that_the_teachers_give() -> None:
    source = taught([teacher(1)], share=1.0, written_rows=600)
    batch = source.next()
    wanted, targets = batch.wanted[TEXT_ROWS:], torch.from_numpy(batch.targets[TEXT_ROWS:])
    counts = F.one_hot(targets[:, 0], VOCAB).float().mean(0)  # all have read the same: <bos>
    torch.testing.assert_close(counts, wanted[0, 0], rtol=0.0, atol=0.06)
    counted = targets != StreamBatches.IGNORE
    chosen = wanted[counted].gather(1, targets[counted][:, None])
    surprise, entropy = -chosen.log().mean(), torch.special.entr(wanted[counted]).sum(-1).mean()
    assert surprise.item() == pytest.approx(entropy.item(), rel=0.05)


def test_after_an_end_comes_another_text() -> None:
    batch = taught([teacher(1, ends=4.0)], reset=True, written_rows=50).next()
    ended = batch.inputs[:, :-1] == EOS_ID
    assert ended[TEXT_ROWS:].sum() > 20
    assert (batch.inputs[:, 1:][ended] == BOS_ID).all()
    assert batch.resets is not None
    assert (batch.resets == (batch.inputs == BOS_ID)).all()
    assert (batch.targets[:, :-1][ended] == StreamBatches.IGNORE).all()


def test_each_pass_begins_anew_with_other_texts() -> None:
    source = taught([teacher(1)])
    passes = [[source.next() for _ in range(source.windows_per_epoch)] for _ in range(2)]
    for batches in passes:
        assert [batch.fresh for batch in batches] == [True] + [False] * (len(batches) - 1)
        assert (batches[0].inputs[:, 0] == BOS_ID).all()
    assert (passes[0][0].inputs[TEXT_ROWS:] != passes[1][0].inputs[TEXT_ROWS:]).any()


def assert_equal(one: TaughtBatch, other: TaughtBatch) -> None:
    assert (one.inputs == other.inputs).all()
    assert torch.equal(one.wanted, other.wanted)


def test_seeds_reproduce() -> None:
    assert_equal(taught([teacher(1)]).next(), taught([teacher(1)]).next())
    other = taught([teacher(1)], seed=6).next()
    assert (other.inputs[TEXT_ROWS:] != taught([teacher(1)]).next().inputs[TEXT_ROWS:]).any()


def test_it_goes_back_to_a_mark_and_on_from_what_was_saved() -> None:
    source = taught([teacher(1), teacher(2)])
    source.next()
    mark, position, tensors = source.mark(), source.position, {n: t.clone() for n, t in source.tensors().items()}
    expected = [source.next() for _ in range(3)]
    source.go_back(mark)
    for batch in expected:
        assert_equal(source.next(), batch)
    fresh = taught([teacher(1), teacher(2)], seed=99)
    fresh.position = position
    fresh.take_tensors(tensors)
    for batch in expected:
        assert_equal(fresh.next(), batch)


TAUGHT = {"teachers": 2, "written_rows": 3}


def test_without_a_share_and_written_rows_teachers_change_nothing(make_trainer: MakeTrainer) -> None:
    plain, same = make_trainer(), make_trainer(teachers=1, teacher_share=0.0, written_rows=0)
    for trainer in (plain, same):
        list(trainer.events())
    for one, other in zip(plain.model.parameters(), same.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_learner_comes_closer_to_its_teacher(make_trainer: MakeTrainer) -> None:
    def distance(trainer: Trainer) -> float:
        batches = trainer.batches
        assert isinstance(batches, TaughtBatches)
        mark = batches.mark()
        batches.position = (0, 0)
        batch = batches.next()
        batches.go_back(mark)
        with torch.no_grad():
            inputs = torch.from_numpy(batch.inputs)
            logits, _ = trainer.model(inputs, trainer.model.initial_state(len(inputs)))
        return float((torch.special.xlogy(batch.wanted, batch.wanted) - batch.wanted * F.log_softmax(logits, -1)).sum())

    trainer = make_trainer(teachers=1, teacher_share=1.0, written_rows=8, steps=150, learning_rate=2e-2)
    before = distance(trainer)
    list(trainer.events())
    assert distance(trainer) < 0.6 * before


def test_a_resumed_run_ends_with_the_same_bits(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole, first, second = (make_trainer(**TAUGHT) for _ in range(3))
    list(whole.events())
    for _ in first.events():
        if first.step >= 5:
            first.stop()
    first.snapshot().save(tmp_path)
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    list(second.events())
    assert 5 <= first.step < second.step == whole.step
    assert all(torch.equal(a, b) for a, b in zip(second.model.parameters(), whole.model.parameters(), strict=True))
    for other in (
        make_trainer(),
        make_trainer(**{**TAUGHT, "teachers": 3}),
        make_trainer(**{**TAUGHT, "written_rows": 2}),
    ):
        with pytest.raises(BadCheckpoint):
            other.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))


def assert_two_ranks_give_the_same(
    make_trainer: MakeTrainer, one: Trainer, settings: dict[str, Any], tolerance: float
) -> None:
    def work(ranks: Ranks) -> list[list[float]]:
        trainer = make_trainer(ranks=ranks, **settings)
        list(trainer.events())
        return [weight.flatten().tolist() for weight in trainer.model.parameters()]

    for weights in run_ranks(2, work):
        for found, expected in zip(weights, one.model.parameters(), strict=True):
            assert found == pytest.approx(expected.flatten().tolist(), abs=tolerance)


@pytest.mark.slow
def test_a_batch_read_in_parts_or_by_two_processes_gives_the_same(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**TAUGHT, "reset_at_document_ends": True, "accumulation": 2, "steps": 6}
    whole = make_trainer(**settings)
    list(whole.events())

    assert_two_ranks_give_the_same(make_trainer, whole, settings, 2e-4)
    limit_rows(monkeypatch, 2, MemoryError())
    parts = make_trainer(**settings)
    list(parts.events())
    assert 0 < largest_difference(whole, parts) < 1e-4


SELF = {"steps": 40, "self_teaching": 1.0, "written_rows": 3}


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [5, 30])
def test_a_run_that_teaches_itself_is_resumed_with_the_same_bits(
    interrupted: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole, first, second = (make_trainer(**SELF) for _ in range(3))
    list(whole.events())
    for _ in first.events():
        if first.step >= interrupted:
            first.stop()
    first.snapshot().save(tmp_path)
    with torch.no_grad():
        second.model.embedding.zero_()
    second.restore(first.average.state_dict(), TrainingSnapshot.load(tmp_path))
    assert isinstance(second.batches, TaughtBatches) == (interrupted > whole.batches.windows_per_epoch)
    list(second.events())
    assert second.step == whole.step == 40
    for found, expected in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_it_is_taught_by_its_average_of_when_that_began(make_trainer: MakeTrainer) -> None:
    trainer, plain = make_trainer(**SELF, teacher_share=1.0), make_trainer(steps=40)
    for each in (trainer, plain):
        for _ in range(each.batches.windows_per_epoch):
            each.train_step()
    assert isinstance(trainer.batches, StreamBatches)
    pairs = zip(trainer.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    trainer.train_step()
    batches = trainer.batches
    assert isinstance(batches, TaughtBatches)
    assert (batches.batch_size, trainer.tokens_per_step()) == (4 + 3, (4 + 3) * batches.window)
    mark = batches.mark()
    batches.position = (2, 0)
    batch = batches.next()
    batches.go_back(mark)
    counted = torch.from_numpy(batch.targets != StreamBatches.IGNORE)
    torch.testing.assert_close(batch.wanted[counted], said([plain.average], [batch])[counted], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_who_is_trained_longer_has_a_better_teacher(make_trainer: MakeTrainer) -> None:
    def teacher_of(trainer: Trainer) -> dict[str, Tensor]:
        tensors = trainer.snapshot().group("self_teacher", torch.device("cpu"))
        assert tensors
        return tensors

    first, longer = make_trainer(**SELF), make_trainer(**SELF)
    list(first.events())
    longer.restore(first.average.state_dict(), first.snapshot())
    longer.extend(TrainingBudget(steps=10))
    list(longer.events())
    assert longer.step == 50
    assert not torch.equal(teacher_of(first)["embedding"], first.average.embedding)
    assert torch.equal(teacher_of(longer)["embedding"], first.average.embedding)


@pytest.mark.slow
def test_two_processes_that_teach_themselves_give_what_one_does(make_trainer: MakeTrainer) -> None:
    one = make_trainer(**SELF)
    list(one.events())

    assert_two_ranks_give_the_same(make_trainer, one, SELF, 5e-4)
