"""The command `stepopsd`: reads the command line, then imports what the command needs.

A user's mistake ends with one line and exit status 2, a run that failed with 1. Everything else is
a fault of this package and keeps its traceback.

It lives outside the package because importing `stepopsd_rllib` registers its algorithms with Ray
Tune, which takes seconds: `stepopsd --help` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

USER_MISTAKE, INTERRUPTED, NOBODY_READS = 2, 130, 141
"""Exit statuses: the user has something to correct (argparse uses the same); Ctrl-C; whoever read
the output has gone, as `head` does."""

WITHOUT_RAY = ("index", "serve-retriever")
"""Commands that start at once and run where no training does."""

DESCRIPTION = "Train, evaluate and compare language-model agents with Ray RLlib."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0; 1 for a run that failed; 2 for a user's mistake; 130 and 143 for a run that Ctrl-C and
    SIGTERM ended, with a checkpoint.
    """
    options = parser().parse_args(arguments)
    # Modules of the current folder can be named (env: my_game:MyEnv), behind all that is installed.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        if options.command in WITHOUT_RAY:
            from stepopsd_envs.search_qa import commands

            return commands.run(options)
        from stepopsd_rllib.commands import cli

        return cli.run(options)
    except KeyboardInterrupt:
        print("stepopsd: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Or Python would complain once more when it flushes the output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except Exception as error:
        from stepopsd_rllib.commands import failures

        mistake = failures.users_mistake(error)
        if mistake is None:
            raise
        print(f"stepopsd: {mistake}", file=sys.stderr)
        return USER_MISTAKE


def parser() -> argparse.ArgumentParser:
    """The whole command line, with one subparser a command."""
    top = argparse.ArgumentParser(prog="stepopsd", description=DESCRIPTION)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_compare(commands)
    _add_runs(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_inspect(commands)
    _add_watch(commands)
    _add_keys(commands)
    _add_play(commands)
    _add_build_tiny(commands)
    _add_warm_start(commands)
    _add_plan(commands)
    _add_export(commands)
    _add_index(commands)
    _add_serve_retriever(commands)
    return top


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="run a tuned example",
        description="Run a tuned example (YAML) with Ray Tune, or go on with a run (--resume); end "
        "with a table and a picture.",
    )
    _add_what_to_run(train, "for example tuned_examples/grpo/alfworld_tiny.yaml")
    _add_overrides(train, "lr=1.0e-6, env_config.size=small, stop.training_iteration=5")
    _add_run_options(train, "the example's, with the time")


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    compare = commands.add_parser(
        "compare",
        help="run several methods with several seeds",
        description="Run a comparison (YAML) as one Tune experiment, or go on with one (--resume); "
        "end with tables, a picture.",
    )
    compare.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="for example tuned_examples/compare/alfworld_tiny.yaml; run folders of a comparison, "
        "or of its parts, show it again",
    )
    _add_resume(compare)
    compare.add_argument(
        "--only", metavar="METHOD", nargs="+", help="run a part: these methods of the file"
    )
    compare.add_argument(
        "--seeds", metavar="SEED", nargs="+", type=int, help="run a part: these seeds of the file"
    )
    _add_overrides(compare, "with --resume alone: stop.training_iteration=80")
    _add_run_options(compare, "the comparison's")


def _add_what_to_run(command: argparse.ArgumentParser, example: str) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("file", metavar="FILE", nargs="?", help=example)
    _add_resume(what)


def _add_resume(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the unfinished trials of a run folder, from their last checkpoints",
    )


def _add_runs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    runs = commands.add_parser(
        "runs",
        help="list run folders",
        description="List run folders with state, iteration, success and last checkpoint.",
    )
    runs.add_argument(
        "directory", metavar="DIR", nargs="?", default="runs", help="folder of runs (default: runs)"
    )


def _add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust",
        action="store_true",
        help="read a checkpoint from outside of a run folder; a checkpoint is code",
    )


def _add_run_options(command: argparse.ArgumentParser, default_name: str) -> None:
    command.add_argument(
        "--storage",
        metavar="DIR",
        default="runs",
        help="where run folders go: a folder, or an address such as s3://bucket/runs "
        "(default: runs)",
    )
    command.add_argument(
        "--name", metavar="NAME", help=f"name of the run folder (default: {default_name})"
    )
    command.add_argument("--dashboard", action="store_true", help="start Ray's dashboard too")
    command.add_argument(
        "--log-to",
        action="append",
        default=[],
        metavar="TRACKER",
        help="send results to wandb:PROJECT, mlflow:EXPERIMENT, comet:PROJECT or aim:EXPERIMENT "
        "too; may be repeated (settings: wandb:PROJECT,mode=offline)",
    )


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on a fixed list of tasks",
        description="Play each task of a split once and print the success rate with its interval.",
    )
    evaluate.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, trial or run folder"
    )
    evaluate.add_argument("--split", help="train, valid_seen or valid_unseen (default: as trained)")
    evaluate.add_argument(
        "--tasks",
        type=int,
        metavar="N",
        help="N tasks, evenly spaced over the split (default: as trained)",
    )
    _add_trust(evaluate)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="draw the table and the curves of a run again",
        description="Read a run folder and write its table and curves.png again; needs no Ray.",
    )
    report.add_argument("run", metavar="RUN", help="a run folder or one trial folder in it")
    report.add_argument(
        "--figures",
        metavar="FORMAT",
        choices=("svg", "pdf", "png"),
        help="write figures for a paper into RUN/figures too: svg, pdf or png",
    )
    report.add_argument(
        "--baseline", metavar="METHOD", help="of a comparison's figures (default: GRPO)"
    )


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="look at a run: curves, episodes, the credit of every token",
        description="Write one self-contained HTML page about a run, or about several to compare "
        "them; needs no Ray and no network.",
    )
    inspect.add_argument("runs", metavar="RUN", nargs="+", help="a run folder or a trial folder")
    inspect.add_argument(
        "--output", metavar="FILE", help="the page (default: inspect.html in the first folder)"
    )
    inspect.add_argument(
        "--serve", action="store_true", help="serve the page instead, made anew at every visit"
    )
    inspect.add_argument("--port", type=int, default=8080, help="port of --serve (default: 8080)")


def _add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    watch = commands.add_parser(
        "watch",
        help="follow a run in the terminal",
        description="Follow a run from its files: progress, time left, last values. Ctrl-C ends "
        "the watching, not the run.",
    )
    watch.add_argument("run", metavar="RUN", help="a run folder or a trial folder")
    watch.add_argument("--once", action="store_true", help="show what there is, and end")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = commands.add_parser(
        "keys",
        help="show the keys of a method",
        description="Show every key of a method with default, range and meaning; needs no Ray.",
    )
    keys.add_argument(
        "method", metavar="METHOD", nargs="?", help="for example StepOPSD, or module:Class"
    )
    keys.add_argument("key", metavar="KEY", nargs="?", help="one key of it")
    keys.add_argument(
        "--markdown", action="store_true", help="all keys of all methods, as docs/configuration.md"
    )


def _add_play(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    play = commands.add_parser(
        "play",
        help="be the policy: type the actions yourself, alone or beside a checkpoint's",
        description="Play one task in the terminal, seeing what the model sees. A text with tags "
        "is sent as it is; a bare action gets its tags.",
    )
    play.add_argument(
        "env", metavar="ENV", nargs="?", help="for example stepopsd/ALFWorld-v0; or --policy"
    )
    play.add_argument(
        "--policy",
        metavar="CHECKPOINT",
        help="a checkpoint, trial or run folder, whose policy plays until you take over",
    )
    play.add_argument(
        "--samples",
        type=int,
        default=64,
        metavar="N",
        help="with --policy: responses drawn to tell its likely actions (64)",
    )
    _add_trust(play)
    _add_overrides(play, "size=small; keys of the environment")
    play.add_argument("--split", default="train", help="split of the tasks (default: train)")
    play.add_argument("--task", metavar="ID", help="task id (default: drawn with --seed)")
    play.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")


def _add_build_tiny(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = commands.add_parser(
        "build-tiny",
        help="make the embedded model from nothing",
        description="Clone expert turns of training tasks into a new model and tokenizer, offline.",
    )
    build.add_argument(
        "env", metavar="ENV", nargs="?", default="alfworld", help="alfworld (default)"
    )
    build.add_argument(
        "--output", metavar="DIR", help="folder to write (default: the package data)"
    )
    build.add_argument("--seed", type=int, help="in place of the recipe's")


def _add_warm_start(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    warm = commands.add_parser(
        "warm-start",
        help="teach a model the form of an environment's turns",
        description="Clone expert turns of training tasks into a Hugging Face model.",
    )
    warm.add_argument(
        "model", metavar="MODEL", help="a folder, a name of the hub, smollm2, or tiny"
    )
    warm.add_argument("env", metavar="ENV", help="for example stepopsd/ALFWorld-v0")
    warm.add_argument("output", metavar="OUT", help="folder to write; must not exist yet")
    _add_overrides(warm, "size=tiny; keys of the environment, as the run that follows has them")
    numbers: tuple[tuple[str, int, str], ...] = (
        ("--episodes", 200, "expert episodes of training tasks"),
        ("--epochs", 1, "passes over them"),
        ("--lora", 0, "rank of adapters, merged at the end; 0 trains all weights"),
        ("--tasks", 16, "unseen tasks played before and after; 0 plays none"),
        ("--seed", 0, "seed of tasks, expert and batches"),
    )
    for name, default, meaning in numbers:
        metavar = "RANK" if name == "--lora" else "N"
        warm.add_argument(
            name, type=int, default=default, metavar=metavar, help=f"{meaning} ({default})"
        )
    warm.add_argument("--lr", type=float, help="peak learning rate (3e-5; 5e-4 with --lora)")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what a run will need",
        description="Memory by process and kind, seconds of an iteration, size of a checkpoint; "
        "estimates from the sizes of the model, nothing is started.",
    )
    plan.add_argument("file", metavar="FILE", help="a tuned example")
    plan.add_argument(
        "--gpus", metavar="NxCARD", help="for example 4xH100-80GB (default: what this machine has)"
    )
    _add_overrides(plan, "lora.rank=64, micro_batch_tokens=8192")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="write a checkpoint's model in Hugging Face format",
        description="Write the trained model and its tokenizer for vLLM and Transformers.",
    )
    export.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, trial or run folder"
    )
    export.add_argument("directory", metavar="DIR", help="folder to write; must not exist yet")
    export.add_argument(
        "--merged", action="store_true", help="of a run with LoRA, the whole model, not the adapter"
    )
    _add_trust(export)


def _add_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    index = commands.add_parser(
        "index",
        help="index a corpus for Search-QA",
        description="Build a tantivy index of a corpus of passages (extra: search).",
    )
    index.add_argument("corpus", metavar="CORPUS", help="JSON lines with id and contents")
    index.add_argument(
        "--output", metavar="DIR", help="folder to make (default: beside the corpus)"
    )


def _add_serve_retriever(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve-retriever",
        help="serve a corpus or an index over HTTP",
        description="Serve a retriever in the dialects of Search-R1 and verl-agent.",
    )
    serve.add_argument(
        "retriever",
        metavar="RETRIEVER",
        nargs="+",
        help="a corpus file, an index folder, addresses of servers, or a kind (bm25, tantivy, "
        "http, dense) with its settings",
    )
    _add_overrides(serve, "index=e5.index corpus=wiki.jsonl encoder=FOLDER, for dense")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="port to bind (default: 8000)")


def _add_overrides(command: argparse.ArgumentParser, examples: str) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"replace one value; may be repeated ({examples})",
    )


if __name__ == "__main__":
    sys.exit(main())
