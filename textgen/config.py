"""One place for every setting: default, help and check. The command line, the page and the config files all read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from textgen.errors import InvalidSetting

CellName = Literal["lstm", "mogrifier-lstm", "gru", "rnn", "update-gate-lstm"]
CELLS: tuple[CellName, ...] = get_args(CellName)
PrecisionName = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
BackendName = Literal["auto", "onnx", "torch"]
Rate = Annotated[float, Field(ge=0.0, le=0.95)]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextSettings(Settings):
    """How files become token ids."""

    encoding: str | None = Field(None, description="encoding of the files; guessed for each file when not given")
    split: str = Field(
        "file",
        min_length=1,
        description="where a document ends: file, blank-line, line, or any separator text",
    )
    heldout: float = Field(0.1, ge=0.0, lt=1.0, description="share of the text held out for evaluation")
    heldout_by: Literal["text", "file", "document"] = Field(
        "text",
        description="what is held out: the end of the whole text, the end of every file, or whole documents",
    )
    tokenizer: Literal["unigram", "bpe", "char"] = Field("unigram", description="how text is cut into pieces")
    vocab_size: int = Field(1000, ge=8, le=200_000, description="number of pieces in the vocabulary")
    base_vocabulary: Literal["keep", "extend", "new"] = Field(
        "keep",
        description="with a base: keep its vocabulary, extend it by pieces of the new text, or make a new one",
    )


class ModelSettings(Settings):
    """The shape of a language model."""

    cell: CellName = Field("lstm", description="recurrent cell")
    vocab_size: int = Field(1000, ge=4, le=1_000_000, description="number of pieces in the vocabulary")
    embedding_size: int = Field(256, ge=1, le=16_384, description="width of the tied embedding")
    hidden_size: int = Field(512, ge=1, le=16_384, description="units per recurrent layer")
    num_layers: int = Field(1, ge=1, le=32, description="stacked recurrent layers")
    members: int = Field(
        1, ge=1, le=16, description="networks of this shape side by side, each learns for itself; text is their average"
    )


class DropoutSettings(Settings):
    """Shares dropped in training (AWD-LSTM, Merity et al. 2017)."""

    embedding_dropout: Rate = Field(0.0, description="share of vocabulary rows dropped from the embedding")
    input_dropout: Rate = Field(0.0, description="share of embedding features dropped, one mask per sequence")
    hidden_dropout: Rate = Field(0.0, description="the same between recurrent layers")
    output_dropout: Rate = Field(0.0, description="the same before the softmax")
    weight_dropout: Rate = Field(0.0, description="share of recurrent weights dropped")

    def scaled(self, share: float) -> DropoutSettings:
        """The same with `share` of each rate."""
        return DropoutSettings(**{name: share * getattr(self, name) for name in DropoutSettings.model_fields})


class TrainingBudget(Settings):
    """For how long is trained: at most one of steps, epochs and minutes."""

    steps: int | None = Field(None, ge=1, description="train for so many optimizer steps")
    epochs: float | None = Field(None, gt=0, le=100_000, description="train for so many passes over the text")
    minutes: float | None = Field(None, gt=0, le=1_000_000, description="train for so many minutes")

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingBudget:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidSetting("budget", " and ".join(given), "one of steps, epochs and minutes")
        return self

    def check_budget(self) -> None:
        """Raises `InvalidSetting` when there is none."""
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise InvalidSetting("budget", "nothing", "one of steps, epochs and minutes")


class TrainingSettings(DropoutSettings, TrainingBudget):
    """How a model is trained. The budget is exactly one of steps, epochs and minutes."""

    dropout_passes: float = Field(
        0.0, ge=0, le=100_000, description="passes over the text in which the dropouts rise from nothing to their rates"
    )
    batch_size: int = Field(16, ge=1, le=65_536, description="text streams trained side by side")
    window: int = Field(48, ge=1, le=65_536, description="steps of back-propagation through time")
    accumulation: int = Field(1, ge=1, le=4096, description="windows whose gradients make one optimizer step")
    learning_rate: float = Field(5e-3, gt=0, le=10, description="peak learning rate")
    schedule: Literal["cosine", "triangular", "trapezoidal"] = Field(
        "cosine",
        description="how the learning rate falls after its peak: along a cosine, a line, or a line that starts late",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="share of the budget in which the learning rate rises")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="how much slower each recurrent layer learns than the one above it; 1: as fast"
    )
    embedding_rate: float = Field(
        1.0, ge=0, le=1, description="the embedding's share of the learning rate; 0 leaves it as it is"
    )
    weight_decay: float = Field(0.1, ge=0, le=10, description="decoupled weight decay of the matrices")
    clip_norm: float = Field(1.0, gt=0, le=1e6, description="largest gradient norm")
    average_decay: float = Field(
        0.998, ge=0, lt=1, description="decay of the moving average of weights; 0 turns it off"
    )
    base_share: float = Field(
        0.0, ge=0, lt=1, description="share that the weights training began with have in the averaged ones"
    )
    reset_at_document_ends: bool = Field(False, description="forget the state where a document ends")
    precision: PrecisionName = Field("auto", description="number format of the matrix products; auto measures")
    evaluations: int = Field(10, ge=1, le=10_000, description="evaluations spread over the run")
    patience: int = Field(
        4, ge=0, le=10_000, description="end after so many evaluations that got worse since the best; 0 never does"
    )
    save_seconds: float = Field(60.0, gt=0, description="longest time between two saves")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")
    teacher_share: float = Field(
        0.5, ge=0, le=1, description="with teachers: their part in what is learned of the text, the rest is its own"
    )
    written_rows: int = Field(
        16, ge=0, le=65_536, description="with teachers: streams that they write, trained on beside those of the text"
    )
    self_teaching: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="after so many passes over the text the model teaches itself, too, as it was by then; 0: never",
    )


class AdaptationSettings(Settings):
    """Dynamic evaluation: gradient steps on a private copy of the weights (Krause et al. 2018)."""

    passes: int = Field(1, ge=1, le=20, description="times the text is learned from")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="how far weights move at each step")
    decay: float = Field(3e-3, ge=0, lt=1, description="share of the way back to the original weights at each step")
    window: int = Field(32, ge=1, le=1024, description="tokens for each step")


class GenerationSettings(Settings):
    """How text is generated. Ranges are those of the page's controls; a value at its default does nothing."""

    temperature: float = Field(0.8, ge=0.0, le=5.0, description="0 always takes the likeliest token; higher is wilder")
    top_k: int = Field(0, ge=0, description="keep only the k likeliest tokens; 0 keeps all")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="keep the likeliest tokens that together reach this share")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="drop tokens below this share of the likeliest one")
    typical_p: float = Field(
        1.0, gt=0.0, le=1.0, description="keep the tokens closest to the expected surprise that reach this share"
    )
    epsilon_cutoff: float = Field(0.0, ge=0.0, lt=1.0, description="drop tokens below this probability")
    eta_cutoff: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="the same, lower where the model is unsure: min(eta, sqrt(eta) * exp(-entropy))",
    )
    repetition_penalty: float = Field(
        1.0, gt=0.0, le=10.0, description="divide the scores of tokens already in prompt or text; above 1 avoids them"
    )
    frequency_penalty: float = Field(
        0.0, ge=-5.0, le=5.0, description="subtracted from a token's score for each time it was written"
    )
    presence_penalty: float = Field(
        0.0, ge=-5.0, le=5.0, description="subtracted once from the score of each token already written"
    )
    no_repeat_ngram_size: int = Field(0, ge=0, le=100, description="never write the same n tokens twice; 0 allows it")
    dry_multiplier: float = Field(0.0, ge=0.0, le=10.0, description="strength of the penalty for loops (DRY); 0 is off")
    dry_base: float = Field(1.75, ge=1.0, le=10.0, description="growth of that penalty with each repeated token")
    dry_allowed_length: int = Field(2, ge=1, le=100, description="repeated tokens that it still allows")
    logit_bias: dict[int, float] = Field({}, max_length=10_000, description="added to the scores of token ids")
    banned: tuple[str, ...] = Field((), max_length=64, description="texts that are never written")
    avoid_copying: bool = Field(False, description="forbid eight tokens in a row from the training text")
    min_new_tokens: int = Field(0, ge=0, description="do not end before so many tokens")
    max_new_tokens: int = Field(200, ge=1, description="end after so many tokens")
    stop: tuple[str, ...] = Field((), max_length=16, description="end where one of these texts appears")
    ignore_eos: bool = Field(False, description="go on where the model would end the text")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="the same seed gives the same text; random when not given"
    )
    num_samples: int = Field(1, ge=1, description="continuations of the prompt, each its own")
    top_logprobs: int = Field(0, ge=0, le=50, description="likeliest alternatives to report for each token")
    num_beams: int = Field(1, ge=1, description="hypotheses of the beam search; 1 samples instead")
    beam_sampling: bool = Field(False, description="draw the beams' tokens by chance, with the sampling settings")
    num_beam_groups: int = Field(1, ge=1, description="groups of beams that keep apart; must divide the beams")
    diversity_penalty: float = Field(
        0.5, ge=0.0, le=100.0, description="subtracted for each time an earlier group took the same token at the step"
    )
    early_stopping: Literal["no", "yes", "never"] = Field(
        "no",
        description="end a search with enough finished beams (yes), if better are unlikely (no) or impossible (never)",
    )
    length_penalty: float = Field(1.0, ge=-5.0, le=5.0, description="above 0 favours longer hypotheses")
    num_return: int = Field(1, ge=1, description="finished hypotheses to return, at most the beams")
    adapt: bool = Field(False, description="learn from the prompt first, in a private copy of the model")

    @model_validator(mode="after")
    def _consistent(self) -> GenerationSettings:
        if self.min_new_tokens > self.max_new_tokens:
            raise InvalidSetting(
                "min_new_tokens", self.min_new_tokens, f"at most max_new_tokens ({self.max_new_tokens})"
            )
        if self.num_return > self.num_beams:
            raise InvalidSetting("num_return", self.num_return, f"at most num_beams ({self.num_beams})")
        if self.num_beams % self.num_beam_groups:
            raise InvalidSetting("num_beam_groups", self.num_beam_groups, f"a divisor of num_beams ({self.num_beams})")
        if self.num_samples > 1 and self.num_beams > 1:
            raise InvalidSetting("num_samples", self.num_samples, "1 with beams; ask for num_return results instead")
        for field in ("stop", "banned"):
            for text in getattr(self, field):
                if not text:
                    raise InvalidSetting(field, "an empty text", "texts of at least one character")
                if any("\ud800" <= character <= "\udfff" for character in text):
                    raise InvalidSetting(field, "a lone surrogate", "complete Unicode characters")
        return self


class RunSettings(Settings):
    """A whole training run: the content of a config file."""

    files: tuple[str, ...] = Field((), description="the text files to train on")
    heldout_files: tuple[str, ...] = Field((), description="files to evaluate on instead of a held-out share")
    base: str | None = Field(None, description="checkpoint to start from")
    teachers: tuple[str, ...] = Field((), max_length=16, description="checkpoints to learn from beside the text")
    sample_prompts: tuple[str, ...] = Field(("",), max_length=16, description="what samples during training begin with")
    text: TextSettings = TextSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


SettingsT = TypeVar("SettingsT", bound=Settings)


def parse_settings(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """Checks `values` and returns settings of `kind`.

    Raises `InvalidSetting` naming the field, what was given and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _as_invalid_setting(error) from None


def update_settings(settings: SettingsT, **changes: Any) -> SettingsT:
    """A checked copy of `settings` with `changes`."""
    return parse_settings(type(settings), {**settings.model_dump(), **changes})


def read_settings_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) config file; `InvalidSetting` when it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSetting("config", str(path), f"a readable file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSetting("config", str(path), f"a YAML file ({str(error).splitlines()[0]})") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidSetting("config", str(path), "a mapping of sections")
    return content


_KINDS = {
    **dict.fromkeys(("int_from_float", "int_parsing", "int_type"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "a number"),
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _as_invalid_setting(error: ValidationError) -> InvalidSetting:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "settings"
    context = first.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, InvalidSetting):
        return inner
    if first["type"] == "extra_forbidden":
        return InvalidSetting(field, "an unknown setting", "the settings of the documentation")
    bounds = [f"{words} {context[key]}" for key, words in _BOUNDS.items() if key in context]
    if first["type"] in _KINDS:
        allowed = _KINDS[first["type"]]
    elif first["type"] == "too_long":
        allowed = f"at most {context['max_length']} items"
    elif "expected" in context:
        allowed = f"one of {context['expected']}"
    elif bounds:
        allowed = " and ".join(bounds)
    else:
        allowed = first["msg"][0].lower() + first["msg"][1:]
    return InvalidSetting(field, first["input"], allowed)
