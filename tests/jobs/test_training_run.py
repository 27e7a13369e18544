from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from tests.training.together import run_ranks
from textgen.config import ModelSettings, RunSettings, TextSettings, TrainingBudget, TrainingSettings, update_settings
from textgen.errors import (
    BadCheckpoint,
    BadCorpus,
    CannotWrite,
    InvalidSetting,
    MissingFile,
    NoText,
    TextgenError,
    TrainingDiverged,
)
from textgen.jobs import following, training_run
from textgen.jobs.checkpoints import open_checkpoint, open_copy_index
from textgen.jobs.following import FollowingRun, follow_run
from textgen.jobs.run_folder import RunFolder
from textgen.jobs.training_run import TrainingRun, resume_run, start_run
from textgen.model.checkpoint import load_checkpoint
from textgen.text.copy_indexes import CopyIndexes
from textgen.text.corpus import open_corpus
from textgen.training.distributed import Ranks
from textgen.training.events import CheckpointEvent, EndEvent, Event, StartEvent

STEPS = 20


@pytest.fixture
def settings(small_text: Path) -> RunSettings:
    return RunSettings(
        files=(str(small_text),),
        sample_prompts=(),
        text=TextSettings(vocab_size=300, tokenizer="char"),
        model=ModelSettings(embedding_size=8, hidden_size=12),
        training=TrainingSettings(
            steps=STEPS, batch_size=4, window=10, evaluations=4, precision="fp32", input_dropout=0.1, weight_dropout=0.1
        ),
    )


def train(run: TrainingRun) -> list[Event]:
    return list(run.events())


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def metrics(run: TrainingRun, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.folder.metrics.read_bytes().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def state(run: TrainingRun) -> dict[str, Any]:
    return json.loads(run.folder.status.read_bytes())


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = load_checkpoint(first), load_checkpoint(second)
    assert one.model.settings == two.model.settings
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name]), name
    assert one.figures.keys() == two.figures.keys()
    assert one.figures["nats_per_char"] == two.figures["nats_per_char"]
    state_file = first / "training.safetensors"
    assert not state_file.exists() or state_file.read_bytes() == (second / state_file.name).read_bytes()


@pytest.mark.slow
def test_a_run_leaves_files_that_agree(settings: RunSettings, tmp_path: Path) -> None:
    settings = update_settings(settings, sample_prompts=("月", ""))
    run = start_run(tmp_path / "run", settings, device="cpu")
    assert state(run)["state"] == "preparing"
    events = train(run)
    assert isinstance(events[0], StartEvent)
    assert isinstance(events[-1], EndEvent)
    assert (state(run)["state"], state(run)["step"]) == ("finished", STEPS)
    assert [line["step"] for line in metrics(run, "evaluation")] == [5, 10, 15, 20]
    samples = [json.loads(line) for line in run.folder.samples.read_bytes().splitlines()]
    assert [line["step"] for line in samples] == [0, 5, 10, 15, 20]
    assert all(len(line["samples"]) == 2 and line["samples"][0].startswith("月") for line in samples)
    assert all(0 <= line["memorization"]["copied_share"] <= 1 for line in samples)
    assert all(line["memorization"]["longest_tokens"] >= 1 for line in samples)
    last, tokenizer = open_checkpoint(run.folder.last)
    assert last.copy_index == open_checkpoint(run.folder.best)[0].copy_index
    index = open_copy_index(last)
    assert index is not None
    assert index.copied_share(run.corpus.train.ids[1:]) == 1.0
    assert last.figures["step"] == STEPS
    assert last.figures["nats_per_char"] == metrics(run, "evaluation")[-1]["evaluation"]["nats_per_char"]
    best, _ = open_checkpoint(run.folder.path)
    assert best.figures["nats_per_char"] == min(
        line["evaluation"]["nats_per_char"] for line in metrics(run, "evaluation")
    )
    assert tokenizer.sha256 == open_corpus(run.folder.corpus).tokenizer.sha256
    assert last.lineage == {"files": ["small.txt"]}
    written = run.folder.settings()
    assert written.model == last.model.settings
    assert written.training == settings.training


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_interrupted_anywhere_and_resumed_equals_one_that_never_was(
    settings: RunSettings, tmp_path: Path, killed: bool
) -> None:
    # A checkpoint after every step: an interruption can then be put anywhere.
    settings = update_settings(settings, training={**settings.training.model_dump(), "save_seconds": 1e-9})
    whole = start_run(tmp_path / "whole", settings, device="cpu")
    train(whole)
    parts = start_run(tmp_path / "parts", settings, device="cpu")
    for interruption in (1, 5, 13):
        for event in parts.events():
            if isinstance(event, CheckpointEvent) and event.kind == "last" and event.step == interruption:
                if killed:
                    break  # what comes after is as unheard as after kill -9
                parts.stop()
        assert state(parts)["state"] == ("running" if killed else "stopped")
        parts = resume_run(tmp_path / "parts", device="cpu")
        assert parts.trainer.step == interruption
    train(parts)
    assert state(parts)["state"] == "finished"
    assert_same_weights(whole.folder.last, parts.folder.last)
    assert_same_weights(whole.folder.best, parts.folder.best)
    evaluations = [[line["evaluation"] for line in metrics(run, "evaluation")] for run in (whole, parts)]
    assert evaluations[0] == evaluations[1]


def test_the_figures_of_copies_are_those_of_the_new_text(trained_run: Path) -> None:
    *_, last = (json.loads(line) for line in (trained_run / "samples.jsonl").read_bytes().splitlines())
    corpus = open_corpus(trained_run / "corpus")
    found, (sample,) = last["memorization"], last["samples"]
    training = corpus.tokenizer.decode(corpus.train.ids.tolist())
    assert found["longest_tokens"] >= 8  # a tiny model of a tiny text recites it
    assert found["longest_text"] in training
    assert found["longest_text"] in sample.removeprefix("Mira ")
    assert 0 < found["copied_share"] < 1


def test_an_index_that_got_lost_or_damaged_is_built_anew(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    path = run / "corpus" / "copy_index.safetensors"
    whole = path.read_bytes()
    for content in (None, b"", whole[:-1]):
        path.unlink() if content is None else path.write_bytes(content)
        train(resume_run(run, device="cpu"))
        assert path.read_bytes() == whole == (run / "checkpoints" / "last" / "copy_index.safetensors").read_bytes()


def test_a_finished_run_that_is_resumed_stays_as_it_is(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    resumed = resume_run(run, device="cpu")
    before = load_checkpoint(run / "checkpoints" / "last")
    events = train(resumed)
    assert isinstance(events[-1], EndEvent)
    assert events[-1].reason == "finished"
    assert_same_weights(run / "checkpoints" / "last", trained_run / "checkpoints" / "last")
    after = load_checkpoint(run / "checkpoints" / "last")
    assert after.card == before.card.replace("# tiny", "# run").replace("--out runs/tiny", "--out runs/run")
    assert after.lineage == before.lineage


@pytest.mark.parametrize("emulates", [True, False])
def test_a_run_begun_in_bf16_goes_on_in_fp32_where_there_is_no_bf16(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulates: bool
) -> None:
    training = settings.training.model_dump() | {"precision": "bf16", "steps": 6}
    train(start_run(tmp_path / "run", update_settings(settings, training=training), device="cpu"))
    monkeypatch.setattr("textgen.jobs.training_run.emulates_bf16", lambda _: emulates)
    resumed = resume_run(tmp_path / "run", device="cpu", longer=TrainingBudget(steps=6))
    assert resumed.trainer.choice.precision == (torch.float32 if emulates else torch.bfloat16)
    train(resumed)
    assert resumed.trainer.step == 12
    assert resumed.folder.settings().training.precision == "bf16"


@pytest.mark.slow
def test_all_ranks_go_on_in_fp32_where_one_has_no_bf16(settings: RunSettings, tmp_path: Path) -> None:
    training = settings.training.model_dump() | {"precision": "bf16", "steps": 4}
    train(start_run(tmp_path / "run", update_settings(settings, training=training), device="cpu"))

    def work(ranks: Ranks) -> list[str]:
        precisions = []
        for emulating in (1, None):
            for module in (training_run, following):
                vars(module)["emulates_bf16"] = lambda _, rank=emulating: ranks.rank == rank
            if ranks.leads:
                run: TrainingRun | FollowingRun = resume_run(tmp_path / "run", device="cpu", ranks=ranks)
            else:
                run = follow_run(tmp_path / "run", ranks, device="cpu")
            precisions.append(str(run.trainer.choice.precision))
            ranks.exchange()
            del run
        return precisions

    assert run_ranks(2, work) == [["torch.float32", "torch.bfloat16"]] * 2


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_anew(settings: RunSettings, tmp_path: Path) -> None:
    whole = start_run(tmp_path / "whole", settings, device="cpu")
    train(whole)
    killed = start_run(tmp_path / "killed", settings, device="cpu")
    next(killed.events())
    assert not killed.folder.last.exists()
    train(resume_run(tmp_path / "killed", device="cpu"))
    assert_same_weights(whole.folder.last, killed.folder.last)


def test_a_run_killed_while_its_text_was_read_begins_anew(settings: RunSettings, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", settings, device="cpu")
    ids = run.corpus.train.ids.copy()
    (run.folder.corpus / "train.bin").write_bytes(b"")
    del run
    resumed = resume_run(tmp_path / "run", device="cpu")
    assert state(resumed)["state"] == "preparing"
    assert resumed.trainer.step == 0
    assert (resumed.corpus.train.ids == ids).all()


def test_one_process_trains_a_run(settings: RunSettings, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", settings, device="cpu")
    other = "import filelock, sys; filelock.FileLock(sys.argv[1]).acquire(blocking=False)"
    command = [sys.executable, "-c", other, str(run.folder.path / ".lock")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "could not be acquired" in refused.stderr
    with pytest.raises(InvalidSetting, match=r"^out: .*no other process"):
        start_run(tmp_path / "run", settings, device="cpu")
    for _ in run.events():
        with pytest.raises(InvalidSetting, match=r"^resume: .*no other process"):
            resume_run(tmp_path / "run", device="cpu")
        break
    resume_run(tmp_path / "run", device="cpu")  # which is dropped at once, and its lock with it
    assert subprocess.run(command, check=False).returncode == 0


def test_measured_precision_is_written_down(settings: RunSettings, tmp_path: Path) -> None:
    settings = update_settings(settings, training={**settings.training.model_dump(), "precision": "auto"})
    start_run(tmp_path / "run", settings, device="cpu")
    assert RunFolder(tmp_path / "run").settings().training.precision in ("fp32", "bf16")


def test_a_base_lends_weights_and_vocabulary_and_is_never_written_to(
    settings: RunSettings, trained_run: Path, tmp_path: Path
) -> None:
    before = digest(trained_run)
    base, tokenizer = open_checkpoint(trained_run)
    settings = update_settings(settings, base=str(trained_run))
    run = start_run(tmp_path / "run", settings, device="cpu")
    for event in run.events():
        if isinstance(event, CheckpointEvent):
            break
    evaluations = metrics(run, "evaluation")
    tuned = resume_run(tmp_path / "run", device="cpu")
    train(tuned)
    checkpoint, own = open_checkpoint(run.folder.path)
    assert own.sha256 == tokenizer.sha256
    assert checkpoint.model.settings == base.model.settings
    assert checkpoint.lineage["base"] == {"name": "tiny", "lineage": {"files": ["small.txt"]}}
    # It goes on from where the base was, rather than from noise.
    assert evaluations[0]["evaluation"]["nats_per_char"] < 1.5 * base.figures["nats_per_char"]
    assert not torch.equal(load_checkpoint(run.folder.last).model.embedding, base.model.embedding)
    assert digest(trained_run) == before


def test_a_base_is_not_needed_to_go_on(settings: RunSettings, trained_run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(trained_run, base)
    run = start_run(tmp_path / "run", update_settings(settings, base=str(base)), device="cpu")
    for event in run.events():
        if isinstance(event, CheckpointEvent) and event.kind == "last":
            break
    shutil.rmtree(base)
    train(resume_run(tmp_path / "run", device="cpu"))
    assert load_checkpoint(run.folder.last).lineage["base"]["name"] == "base"


@pytest.mark.slow
def test_what_a_base_has_read_is_known_as_copied_too(settings: RunSettings, trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("Nothing of this was ever told before. " * 60, encoding="utf-8")
    new = update_settings(settings, base=str(trained_run), files=(str(tmp_path / "new.txt"),))
    run = start_run(tmp_path / "run", new, device="cpu")
    train(run)
    known = require_index(run)
    old = open_corpus(trained_run / "corpus").train.ids[1:400]
    assert known.copied_share(old) == 1.0
    assert known.copied_share(run.corpus.train.ids[1:]) == 1.0
    assert len(known.parts) == 2
    # The same text is there once.
    again = start_run(tmp_path / "again", update_settings(settings, base=str(trained_run)), device="cpu")
    again.stop()
    train(again)
    assert len(require_index(again).parts) == 1
    # Not where the same numbers mean other pieces.
    text = {**new.text.model_dump(), "base_vocabulary": "new", "vocab_size": 300}
    other = start_run(tmp_path / "other", update_settings(new, text=text), device="cpu")
    other.stop()
    train(other)
    assert len(require_index(other).parts) == 1


def require_index(run: TrainingRun) -> CopyIndexes:
    found = open_copy_index(load_checkpoint(run.folder.last))
    assert found is not None
    return found


def test_a_base_is_judged_before_and_on_its_own_text(settings: RunSettings, trained_run: Path, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", update_settings(settings, base=str(trained_run)), device="cpu")
    train(run)
    evaluations = metrics(run, "evaluation")
    assert [line["step"] for line in evaluations] == [0, 5, 10, 15, 20]
    base, _ = open_checkpoint(trained_run)
    # The same text was held out from the base.
    assert evaluations[0]["evaluation"]["nats_per_char"] == pytest.approx(base.figures["nats_per_char"], rel=0.02)
    assert evaluations[0]["kept"]["nats_per_char"] != evaluations[-1]["kept"]["nats_per_char"]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["extend", "new"])
def test_a_run_with_another_vocabulary_than_its_base_is_resumed_with_the_same_bits(
    settings: RunSettings, trained_run: Path, tmp_path: Path, choice: str
) -> None:
    text = {"vocab_size": 400, "base_vocabulary": choice}
    training = {**settings.training.model_dump(), "base_share": 0.3, "layer_decay": 0.5, "save_seconds": 1e-9}
    settings = update_settings(settings, base=str(trained_run), text=text, training=training)
    whole = start_run(tmp_path / "whole", settings, device="cpu")
    train(whole)
    parts = start_run(tmp_path / "parts", settings, device="cpu")
    for event in parts.events():
        if isinstance(event, CheckpointEvent) and event.step == 7:
            break
    parts = resume_run(tmp_path / "parts", device="cpu")
    assert parts.trainer.step == 7
    train(parts)
    assert_same_weights(whole.folder.last, parts.folder.last)
    checkpoint, tokenizer = open_checkpoint(whole.folder.last)
    base, known = open_checkpoint(trained_run)
    assert tokenizer.sha256 != known.sha256
    assert checkpoint.model.settings.hidden_size == base.model.settings.hidden_size
    # It begins with what the base knew, far from guessing.
    assert metrics(whole, "evaluation")[0]["evaluation"]["nats_per_char"] < 1.5 * base.figures["nats_per_char"]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [TrainingBudget(steps=10), TrainingBudget(epochs=0.05)])
def test_a_finished_run_is_trained_longer_and_survives_an_interruption(
    settings: RunSettings, tmp_path: Path, budget: TrainingBudget
) -> None:
    train(start_run(tmp_path / "whole", settings, device="cpu"))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    whole = resume_run(tmp_path / "whole", longer=budget, device="cpu")
    train(whole)
    assert whole.trainer.step > STEPS
    assert state(whole)["state"] == "finished"
    # Killed right after it was asked for, and once more on its way.
    resume_run(tmp_path / "parts", longer=budget, device="cpu")
    parts = resume_run(tmp_path / "parts", device="cpu")
    assert parts.settings.training.steps == whole.trainer.step == parts.trainer.total_steps
    for event in parts.events():
        if event.step > STEPS + 3:
            parts.stop()
    assert state(parts)["state"] == "stopped"
    parts = resume_run(tmp_path / "parts", device="cpu")
    train(parts)
    assert_same_weights(whole.folder.last, parts.folder.last)
    assert_same_weights(whole.folder.best, parts.folder.best)
    steps = [line["step"] for line in metrics(parts, "evaluation")]
    assert steps[:4] == [5, 10, 15, 20]
    # As often as before.
    assert len(steps) - 4 == round((whole.trainer.step - STEPS) / 5)
    assert steps[-1] == whole.trainer.step
    assert steps[-1] == whole.trainer.step


def test_what_cannot_be_trained_longer_is_told(settings: RunSettings, tmp_path: Path) -> None:
    run = start_run(tmp_path / "run", settings, device="cpu")
    del run
    with pytest.raises(InvalidSetting, match="a run that has trained"):
        resume_run(tmp_path / "run", longer=TrainingBudget(steps=3), device="cpu")
    with pytest.raises(InvalidSetting, match="one of steps, epochs and minutes"):
        resume_run(tmp_path / "run", longer=TrainingBudget(), device="cpu")
    assert resume_run(tmp_path / "run", device="cpu").trainer.step == 0


def test_a_run_that_ended_early_says_so_and_stays_ended(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {**settings.training.model_dump(), "steps": 200, "evaluations": 40, "patience": 2}
    run = start_run(tmp_path / "run", update_settings(settings, training=training), device="cpu")
    real = run.trainer.evaluate_average
    monkeypatch.setattr(run.trainer, "evaluate_average", lambda: replace(real(), nats_per_char=3.0 + run.trainer.step))
    end = train(run)[-1]
    assert isinstance(end, EndEvent)
    assert (end.early, end.step, end.best_step) == (True, 15, 5)
    assert (state(run)["state"], state(run)["early"]) == ("finished", True)
    again = resume_run(tmp_path / "run", device="cpu")
    assert (train(again)[-1].step, state(again)["early"]) == (15, True)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"files": ()}, InvalidSetting),
        ({"training": {"window": 10}}, InvalidSetting),
        ({"base": "/nowhere"}, InvalidSetting),
    ],
)
def test_what_can_be_known_before_is_told_before_there_is_a_folder(
    settings: RunSettings, tmp_path: Path, changes: dict[str, Any], error: type[TextgenError]
) -> None:
    with pytest.raises(error):
        start_run(tmp_path / "run", update_settings(settings, **changes), device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "error"), [(None, MissingFile), ("", NoText)])
def test_a_text_that_cannot_be_used_fails_the_run_and_the_folder_can_be_used_again(
    settings: RunSettings, tmp_path: Path, content: str | None, error: type[TextgenError]
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_text(content)
    with pytest.raises(error) as caught:
        start_run(tmp_path / "run", update_settings(settings, files=(str(text),)), device="cpu")
    status = json.loads((tmp_path / "run" / "status.json").read_bytes())
    assert (status["state"], status["error"]) == ("failed", str(caught.value))
    assert start_run(tmp_path / "run", settings, device="cpu").settings.files == settings.files


def test_divergence_is_told_and_the_last_checkpoint_stays(settings: RunSettings, tmp_path: Path) -> None:
    training = {**settings.training.model_dump(), "save_seconds": 1e-9}
    run = start_run(tmp_path / "run", update_settings(settings, training=training), device="cpu")

    def spoil_after(step: int) -> None:
        for event in run.events():
            if isinstance(event, CheckpointEvent) and event.step == step:
                with torch.no_grad():
                    run.trainer.model.output_bias.fill_(float("inf"))

    with pytest.raises(TrainingDiverged):
        spoil_after(3)
    assert state(run)["state"] == "failed"
    assert "Try a smaller learning rate" in state(run)["error"]
    assert resume_run(tmp_path / "run", device="cpu").trainer.step == 3


def test_a_full_disk_fails_the_run(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    run = start_run(tmp_path / "run", settings, device="cpu")
    monkeypatch.setattr("textgen.model.weights.save_file", full_disk)
    with pytest.raises(CannotWrite, match="No space left"):
        train(run)
    assert state(run)["state"] == "failed"
    assert "No space left" in state(run)["error"]


def test_a_failure_that_cannot_be_written_down_is_still_told(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(tmp_path / "run", settings, device="cpu")

    def broken() -> None:
        shutil.rmtree(run.folder.path)
        run.folder.path.touch()  # in the way of every write from now on
        raise MemoryError

    monkeypatch.setattr(run.trainer, "events", broken)
    with pytest.raises(MemoryError):
        train(run)


def damage_nothing_left(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "last")


def damage_weights(run: Path) -> None:
    (run / "checkpoints" / "last" / "model.safetensors").write_bytes(b"\0" * 100)


def damage_training_state(run: Path) -> None:
    (run / "checkpoints" / "last" / "training.safetensors").write_bytes(b"\0" * 100)


def damage_training_values(run: Path) -> None:
    (run / "checkpoints" / "last" / "training.json").write_text('{"step": "x"}')


def damage_shape(run: Path) -> None:
    config = json.loads((run / "config.json").read_bytes())
    config["model"]["hidden_size"] += 1
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [damage_nothing_left, damage_weights, damage_training_state, damage_training_values, damage_shape],
)
def test_a_damaged_run_is_refused_in_a_sentence(trained_run: Path, tmp_path: Path, damage: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    damage(run)
    with pytest.raises(BadCheckpoint) as caught:
        resume_run(run, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_run_without_its_corpus_is_refused(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "corpus" / "train.bin").write_bytes(b"")
    with pytest.raises(BadCorpus, match=r"train\.bin"):
        resume_run(run, device="cpu")
