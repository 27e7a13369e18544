from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.jobs.test_training_run import digest, train
from textgen.config import ModelSettings, RunSettings, TrainingSettings, update_settings
from textgen.errors import BadCheckpoint, InvalidSetting
from textgen.jobs.base import open_base
from textgen.jobs.checkpoints import open_checkpoint
from textgen.jobs.teachers import open_teachers, read_teachers, write_teachers
from textgen.jobs.training_run import resume_run, start_run
from textgen.text.tokenizer_training import train_tokenizer
from textgen.text.vocabulary import extend_tokenizer
from textgen.training.events import StepEvent


@pytest.fixture
def settings(small_text: Path, trained_run: Path) -> RunSettings:
    return RunSettings(
        files=(str(small_text),),
        teachers=(str(trained_run), str(trained_run / "checkpoints" / "last")),
        sample_prompts=(),
        model=ModelSettings(embedding_size=8, hidden_size=12),
        training=TrainingSettings(
            steps=12, batch_size=4, window=10, evaluations=3, precision="fp32", weight_dropout=0.1, written_rows=3
        ),
    )


def test_none_are_none() -> None:
    assert open_teachers(RunSettings()) == []


def test_they_are_opened_in_their_order_and_kept(settings: RunSettings, trained_run: Path, tmp_path: Path) -> None:
    teachers = open_teachers(settings)
    assert [teacher.name for teacher in teachers] == ["tiny", "tiny"]
    write_teachers(tmp_path, teachers)
    for found, teacher in zip(read_teachers(tmp_path, 2), teachers, strict=True):
        torch.testing.assert_close(found.state_dict(), teacher.checkpoint.model.state_dict(), rtol=0, atol=0)
    with pytest.raises(BadCheckpoint):
        read_teachers(tmp_path, 3)


def test_all_need_the_same_pieces(settings: RunSettings, trained_run: Path, tmp_path: Path) -> None:
    _, tokenizer = open_checkpoint(trained_run)
    new = "Zeppelins quacked under jukeboxes, and zeppelins zigzagged.\n" * 40
    other = extend_tokenizer(tokenizer, train_tokenizer([new], vocab_size=330).tokenizer)
    base = open_base(RunSettings(base=str(trained_run)))
    assert base is not None
    with pytest.raises(InvalidSetting, match="models with the vocabulary of the base"):
        open_teachers(settings, replace(base, tokenizer=other))
    assert open_teachers(settings, base)
    with pytest.raises(InvalidSetting, match="base_vocabulary"):
        open_teachers(update_settings(settings, text={"base_vocabulary": "extend"}))
    with pytest.raises(InvalidSetting, match="gone was given"):
        open_teachers(update_settings(settings, teachers=("gone",)))


@pytest.mark.slow
def test_a_run_does_without_its_teachers_once_it_has_begun(
    settings: RunSettings, trained_run: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(trained_run, tmp_path / "teacher")
    settings = update_settings(settings, teachers=(str(teacher),))
    whole = start_run(tmp_path / "whole", settings, device="cpu")
    train(whole)
    half = start_run(tmp_path / "half", settings, device="cpu")
    for event in half.events():
        if isinstance(event, StepEvent) and event.step >= 4:
            half.stop()
    shutil.rmtree(teacher)
    assert half.trainer.step < 12
    train(resume_run(tmp_path / "half", device="cpu"))
    weights = [digest(tmp_path / name / "checkpoints" / "best")["model.safetensors"] for name in ("whole", "half")]
    assert weights[0] == weights[1]
    assert digest(tmp_path / "whole" / "teachers") == digest(tmp_path / "half" / "teachers")


@pytest.mark.slow
def test_what_a_base_has_learned_its_teachers_may_go_on_with(
    settings: RunSettings, trained_run: Path, tmp_path: Path
) -> None:
    run = start_run(tmp_path / "run", update_settings(settings, base=str(trained_run)), device="cpu")
    train(run)
    lineage = open_checkpoint(tmp_path / "run")[0].lineage
    assert (lineage["base"]["name"], len(lineage["teachers"])) == ("tiny", 2)


def test_who_failed_before_it_began_may_begin_again(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("textgen.jobs.training_run.choose_precision", fail)
        with pytest.raises(MemoryError):
            start_run(tmp_path / "run", settings, device="cpu")
    assert (tmp_path / "run" / "teachers" / "02").is_dir()
    train(start_run(tmp_path / "run", update_settings(settings, teachers=settings.teachers[:1]), device="cpu"))
    assert [path.name for path in (tmp_path / "run" / "teachers").iterdir()] == ["01"]
