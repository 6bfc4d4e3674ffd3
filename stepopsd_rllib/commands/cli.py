"""The commands of `stepopsd` that use the package; the module `stepopsd` reads the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable


def run(options: argparse.Namespace) -> int:
    """Runs the command that was parsed and returns the exit status."""
    return _COMMANDS[options.command](options)


def _train(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import training_run

    if options.resume:
        return _resume(options)
    return training_run.train(
        options.file,
        [*options.overrides, *_log_to(options)],
        storage=options.storage,
        name=options.name,
        dashboard=options.dashboard,
    )


def _log_to(options: argparse.Namespace) -> list[str]:
    """`--log-to` as the override that it stands for."""
    return [f"log_to={json.dumps(options.log_to)}"] if options.log_to else []


def _compare(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import comparison

    if options.resume:
        if options.files or options.only or options.seeds:
            raise ValueError("--resume: a comparison goes on as it began. Leave the rest out.")
        return _resume(options)
    if options.overrides:
        raise ValueError(
            f"--set {options.overrides[0]}: a comparison takes it with --resume alone. Write the "
            "key into the file."
        )
    if not options.files:
        raise ValueError("compare: name a file, or run folders, or --resume RUN.")
    return comparison.run(
        options.files,
        storage=options.storage,
        name=options.name,
        dashboard=options.dashboard,
        only=options.only or (),
        seeds=options.seeds or (),
        log_to=options.log_to,
    )


def _resume(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import resume

    if options.name or options.storage != "runs":
        raise ValueError("--resume: a run stays in its folder; leave --name and --storage out.")
    overrides = [*options.overrides, *_log_to(options)]
    return resume.resume(options.resume, overrides, dashboard=options.dashboard)


def _runs(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import runs

    return runs.show(options.directory)


def _report(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import reporting

    return reporting.report(options.run, file_format=options.figures, baseline=options.baseline)


def _inspect(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import inspection

    if options.serve:
        return inspection.serve(options.runs, port=options.port)
    return inspection.write(options.runs, options.output)


def _watch(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import watching

    return watching.watch(options.run, once=options.once)


def _evaluate(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import checkpoints

    return checkpoints.evaluate(
        options.checkpoint,
        split=options.split,
        num_tasks=options.tasks,
        is_trusted=options.trust,
    )


def _warm_start(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands.tuned import parse_override
    from stepopsd_rllib.commands.warm_start import WarmStart, warm_start

    settings = WarmStart(
        model=options.model,
        env=options.env,
        env_config=dict(parse_override(text) for text in options.overrides),
        episodes=options.episodes,
        epochs=options.epochs,
        lora_rank=options.lora,
        learning_rate=options.lr,
        tasks=options.tasks,
        seed=options.seed,
    )
    warm_start(settings, options.output)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import plan

    return plan.run(options.file, options.overrides, gpus=options.gpus)


def _export(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import checkpoints

    return checkpoints.export(
        options.checkpoint,
        options.directory,
        is_trusted=options.trust,
        merged=options.merged,
    )


def _keys(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import keys

    print(keys.page() if options.markdown else keys.show(options.method, options.key))
    return 0


def _play(options: argparse.Namespace) -> int:
    from stepopsd_rllib.commands import play

    env_config = play.env_config(options.overrides)
    if (options.env is None) == (options.policy is None):
        raise ValueError(
            "play: name an environment, such as stepopsd/ALFWorld-v0, or --policy CHECKPOINT, "
            "which knows its own."
        )
    if options.policy is None:
        return play.play(
            options.env, env_config, split=options.split, task=options.task, seed=options.seed
        )
    from stepopsd_rllib.commands import play_policy

    if options.samples < 1:
        raise ValueError(f"--samples {options.samples}: draw at least 1.")
    return play_policy.play_with_policy(
        options.policy,
        env_config,
        split=options.split,
        task=options.task,
        seed=options.seed,
        samples=options.samples,
        is_trusted=options.trust,
    )


def _build_tiny(options: argparse.Namespace) -> int:
    from stepopsd_rllib.tiny.tiny import build_tiny

    print(f"model       {build_tiny(options.output, options.env, options.seed)}")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "compare": _compare,
    "evaluate": _evaluate,
    "runs": _runs,
    "report": _report,
    "inspect": _inspect,
    "watch": _watch,
    "keys": _keys,
    "play": _play,
    "build-tiny": _build_tiny,
    "export": _export,
    "warm-start": _warm_start,
    "plan": _plan,
}
