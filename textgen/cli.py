"""The command line: `textgen …` and `python -m textgen …`."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import textgen
from textgen.commands import deploy, evaluation, models, runs, serving, texts, training, writing
from textgen.commands.deploy import add_deploy_options
from textgen.commands.hf_jobs import add_job_options
from textgen.commands.writing import SHIPS
from textgen.config import (
    CELLS,
    AdaptationSettings,
    GenerationSettings,
    ModelSettings,
    TextSettings,
    TrainingSettings,
)
from textgen.errors import (
    BadCheckpoint,
    BadTokenizer,
    InvalidSetting,
    MissingFile,
    NoText,
    NotText,
    TextgenError,
    UnreadableText,
    error_as_dict,
)
from textgen.options import add_settings

_DEVICES = ("auto", "cpu", "cuda", "mps")
_BACKENDS = ("auto", "onnx", "torch")
_RUNS_HELP = "where runs are kept; default: what TEXTGEN_RUNS says, or runs"
# Arguments that cannot work, or that name files that cannot; anything else of ours is a failure of the work itself.
_WRONG_INPUT = (InvalidSetting, MissingFile, UnreadableText, NotText, NoText, BadTokenizer, BadCheckpoint)


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        sentence = message[0].upper() + message[1:]
        self.exit(2, f"{sentence.rstrip('.')}. See: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    options.given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character must not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = options.run(options)
    except TextgenError as error:
        print(error, file=sys.stderr)
        if getattr(options, "json", False):
            print(json.dumps({"error": error_as_dict(error)}, ensure_ascii=False))
        return 2 if isinstance(error, _WRONG_INPUT) else 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        sys.stdout = None
        return 1
    return int(status)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; every setting's default, help and check come from `textgen.config`."""
    parser = _Parser(prog="textgen", description="Write with recurrent language models and train your own.")
    parser.add_argument("--version", action="version", version=f"textgen {textgen.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_train(verbs)
    _add_generate(verbs)
    _add_score(verbs)
    _add_evaluate(verbs)
    _add_export(verbs)
    _add_push(verbs)
    _add_pull(verbs)
    _add_models(verbs)
    _add_import_model(verbs)
    _add_deploy(verbs)
    _add_index(verbs)
    _add_tokenizer(verbs)
    _add_import(verbs)
    _add_runs(verbs)
    _add_serve(verbs)
    _add_bench(verbs)
    return parser


def _add_train(verbs: Any) -> None:
    parser = verbs.add_parser("train", help="train a model on text files, or go on with a run")
    parser.add_argument("files", nargs="*", metavar="FILE", help="text files, in any usual encoding")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the new run")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run in this folder; with --steps, --epochs or --minutes train it that much longer",
    )
    parser.add_argument(
        "--preset", help="quick (3 minutes), balanced (15) or thorough (60); default: what suits --minutes, or quick"
    )
    parser.add_argument("--base", metavar="CHECKPOINT", help="start from this checkpoint")
    parser.add_argument(
        "--teacher",
        action="append",
        dest="teachers",
        metavar="CHECKPOINT",
        help="learn from this one too, of the same vocabulary; may be given again",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; options here win over it")
    parser.add_argument(
        "--heldout-file", action="append", dest="heldout_files", metavar="FILE", help="evaluate on this"
    )
    parser.add_argument(
        "--sample-prompt", action="append", dest="sample_prompts", metavar="TEXT", help="samples begin so"
    )
    parser.add_argument("--quiet", action="store_true", help="show no samples")
    parser.add_argument(
        "--estimate", action="store_true", help="only say how long training will take, and what memory and space"
    )
    parser.add_argument("--json", action="store_true", help="print the result as a last line of JSON")
    _add_device(parser)
    add_job_options(parser)
    _add_torchrun(parser)
    add_settings(parser, "text", TextSettings)
    add_settings(parser, "model", ModelSettings, leave_out=("vocab_size",), choices={"cell": CELLS})
    add_settings(parser, "training", TrainingSettings)
    parser.set_defaults(run=training.train)


def _add_generate(verbs: Any) -> None:
    parser = verbs.add_parser("generate", help="continue a prompt")
    _add_checkpoint(parser, ships=True)
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the text")
    parser.add_argument("--tree", action="store_true", help="with --json: every token that a beam search took")
    _add_device(parser)
    _add_backend(parser)
    add_settings(parser, "generation", GenerationSettings)
    parser.set_defaults(run=writing.generate)


def _add_score(verbs: Any) -> None:
    parser = verbs.add_parser("score", help="show what a model thinks of a text, token by token")
    _add_checkpoint(parser, ships=True)
    parser.add_argument("--text", required=True, metavar="TEXT", help="the text; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    _add_device(parser)
    _add_backend(parser)
    others = [name for name in GenerationSettings.model_fields if name != "top_logprobs"]
    add_settings(parser, "generation", GenerationSettings, leave_out=others)
    parser.set_defaults(run=writing.score)


def _add_evaluate(verbs: Any) -> None:
    parser = verbs.add_parser("evaluate", help="score a model on text it has not seen")
    _add_checkpoint(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="text files")
    parser.add_argument("--json", action="store_true", help="print the figures as a last line of JSON")
    parser.add_argument(
        "--heldout", type=float, metavar="SHARE", help="score only this last share; default: everything"
    )
    parser.add_argument(
        "--streams",
        type=int,
        default=1,
        metavar="N",
        help="read a long text in so many parts side by side, which is faster; each is read after the 256 tokens before"
        " it, and has at least as many; default: 1, all of it in order",
    )
    _add_drawing_seed(parser)
    parser.add_argument(
        "--dynamic", action="store_true", help="report also what a copy of the model reaches that learns as it reads"
    )
    _add_device(parser)
    add_settings(parser, "text", TextSettings, leave_out=("heldout", "tokenizer", "vocab_size", "base_vocabulary"))
    # The text is read once, in order: a second pass would score what was learned from.
    add_settings(parser, "adaptation", AdaptationSettings, leave_out=("passes",))
    parser.set_defaults(run=evaluation.evaluate)


def _add_export(verbs: Any) -> None:
    parser = verbs.add_parser("export", help="copy a checkpoint or a run's best one to hand it on, at half the size")
    _add_checkpoint(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the copy")
    parser.add_argument(
        "--format",
        choices=("checkpoint", "onnx"),
        default="checkpoint",
        help="onnx: for ONNX Runtime, with a page that generates in the browser; default: checkpoint",
    )
    parser.add_argument("--full", action="store_true", help="keep fp32 instead of fp16")
    parser.add_argument(
        "--max-file-mb",
        type=float,
        metavar="X",
        help="spread weights over files of at most so many megabytes (10 pushes without large-file support)",
    )
    parser.set_defaults(run=models.export)


def _add_push(verbs: Any) -> None:
    parser = verbs.add_parser("push", help="put a checkpoint or a run's best one on the Hugging Face Hub")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint or a run")
    _add_repository(parser)
    parser.add_argument("--private", action="store_true", help="for nobody else's eyes")
    parser.set_defaults(run=models.push)


def _add_pull(verbs: Any) -> None:
    parser = verbs.add_parser("pull", help="get a model from the Hugging Face Hub")
    _add_repository(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.add_argument("--revision", metavar="NAME", help="a branch, a tag or a commit; default: the newest")
    parser.set_defaults(run=models.pull)


def _add_models(verbs: Any) -> None:
    parser = verbs.add_parser("models", help="list the models that the page offers")
    parser.add_argument("--models", type=Path, action="append", metavar="DIR", help="folder of checkpoints or runs")
    parser.add_argument("--runs", type=Path, metavar="DIR", help=_RUNS_HELP)
    parser.add_argument("--json", action="store_true", help="print the list as one JSON line")
    parser.set_defaults(run=models.models)


def _add_import_model(verbs: Any) -> None:
    parser = verbs.add_parser("import-model", help="turn a zip of a model, such as the page gives, into a checkpoint")
    parser.add_argument("archive", type=Path, metavar="ZIP", help="the zip file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the checkpoint")
    parser.set_defaults(run=models.import_model)


def _add_deploy(verbs: Any) -> None:
    parser = verbs.add_parser("deploy", help="open the app to others, as a Space on the Hugging Face Hub")
    _add_repository(parser, what="the Space")
    add_deploy_options(parser)
    parser.set_defaults(run=deploy.deploy)


def _add_index(verbs: Any) -> None:
    parser = verbs.add_parser("index", help="let a checkpoint tell what it copies from the text it was trained on")
    _add_checkpoint(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="the text files that it was trained on")
    parser.add_argument(
        "--heldout", type=float, metavar="SHARE", help="share that was held out and is left out here too; default: none"
    )
    _add_drawing_seed(parser)
    add_settings(parser, "text", TextSettings, leave_out=("heldout", "tokenizer", "vocab_size"))
    parser.set_defaults(run=evaluation.index)


def _add_drawing_seed(parser: argparse.ArgumentParser) -> None:
    help_text = "the training's seed, which drew what --heldout-by document holds out; default: 0"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=help_text)


def _add_tokenizer(verbs: Any) -> None:
    parser = verbs.add_parser("tokenizer", help="train or look at a vocabulary")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=_Parser)
    train = actions.add_parser("train", help="train a SentencePiece vocabulary on text files")
    train.add_argument("files", nargs="+", metavar="FILE", help="text files")
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the model goes (.model)")
    add_settings(train, "text", TextSettings, leave_out=("heldout", "heldout_by", "split", "base_vocabulary"))
    train.set_defaults(run=texts.tokenizer_train)
    info = actions.add_parser("info", help="show a vocabulary and how it cuts a text")
    info.add_argument("path", type=Path, metavar="PATH", help="a .model file, a checkpoint or a run")
    info.add_argument("--text", metavar="TEXT", help="text to cut into pieces")
    info.add_argument("--json", action="store_true", help="print one JSON line")
    info.set_defaults(run=texts.tokenizer_info)


def _add_import(verbs: Any) -> None:
    parser = verbs.add_parser("import", help="turn documents into plain text files to train on")
    formats = "txt, md, html, csv, tsv, jsonl, docx, epub, pdf, srt, or zip of these"
    parser.add_argument("files", nargs="+", metavar="FILE", help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the texts")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of the files; default: found out for each")
    parser.add_argument("--column", metavar="NAME", help="column of tables that holds the text; default: found out")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON line")
    parser.set_defaults(run=texts.import_files)


def _add_runs(verbs: Any) -> None:
    parser = verbs.add_parser("runs", help="see and steer the runs that train on their own, as the page does")
    parser.add_argument("action", nargs="?", choices=runs.RUN_ACTIONS, default="list", help="what to do")
    parser.add_argument("run_id", nargs="?", metavar="ID", help="which run; the list names them")
    parser.add_argument("--runs", type=Path, metavar="DIR", help=_RUNS_HELP)
    parser.add_argument("--minutes", type=float, metavar="N", help="with resume: train so many minutes more")
    parser.add_argument("--json", action="store_true", help="print the list as one JSON line")
    _add_device(parser)
    parser.set_defaults(run=runs.runs)


def _add_serve(verbs: Any) -> None:
    parser = verbs.add_parser("serve", help="open the app")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument(
        "--root-path", metavar="PATH", help="where a proxy in front has put the app, like /studio; GRADIO_ROOT_PATH too"
    )
    parser.add_argument("--models", type=Path, action="append", metavar="DIR", help="folder of checkpoints or runs")
    parser.add_argument("--runs", type=Path, metavar="DIR", help=_RUNS_HELP)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--nproc-per-node", type=int, metavar="N", help="processes that train a run together, at most; default 1"
    )
    _add_device(parser)
    _add_backend(parser)
    parser.set_defaults(run=serving.serve)


def _add_bench(verbs: Any) -> None:
    parser = verbs.add_parser("bench", help="measure; the last line of each benchmark is JSON")
    modules = pkgutil.iter_modules(_benchmark_path())
    names = sorted(module.name for module in modules if not module.name.startswith("_"))
    parser.add_argument("name", choices=names, help="what to measure")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the benchmark's own options")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    module = importlib.import_module(f"textgen.benchmarks.{options.name}")
    return int(module.main(options.arguments) or 0)


def _benchmark_path() -> list[str]:
    return [str(Path(__file__).parent / "benchmarks")]


def _add_checkpoint(parser: argparse.ArgumentParser, *, ships: bool = False) -> None:
    told = "a checkpoint or a run" + (f" (default {SHIPS.as_posix()})" if ships else "")
    parser.add_argument("--checkpoint", type=Path, required=not ships, metavar="DIR", help=told)


def _add_repository(parser: argparse.ArgumentParser, *, what: str = "the model on the Hub") -> None:
    parser.add_argument("repo_id", metavar="USER/NAME", help=what)
    parser.add_argument(
        "--token-stdin",
        action="store_true",
        help="read the token from standard input; default: HF_TOKEN, or the login of `hf auth login`",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=_DEVICES, default="auto", help="where to compute")


def _add_torchrun(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes", "They share the streams of each batch; torchrun starts them."
    )
    group.add_argument("--nproc-per-node", type=int, default=1, metavar="N", help="processes on each host (default 1)")
    group.add_argument("--nnodes", type=int, default=1, metavar="M", help="hosts that share the folder (default 1)")
    group.add_argument("--node-rank", type=int, default=0, metavar="R", help="which host this is, from 0 (default 0)")
    group.add_argument("--rdzv-endpoint", metavar="HOST:PORT", help="where host 0 is found, with --nnodes")
    group.add_argument(
        "--max-restarts", type=int, default=3, metavar="K", help="go on from the last save so often (default 3)"
    )


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=_BACKENDS, default="auto", help="what runs the model; auto: the fastest")
    parser.add_argument("--threads", type=_threads, metavar="N", help="processor threads of onnx; default: all cores")


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not a number of threads from 1 to 1024")
    return int(text)
