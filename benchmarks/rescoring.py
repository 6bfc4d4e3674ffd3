"""What a StepOPSD teacher costs: rescoring against one pass a turn, and whole training steps.

    python benchmarks/rescoring.py passes [--turns 20 50] [--sizes tiny full] [--model FOLDER]
    python benchmarks/rescoring.py steps [--updates 8]

`passes` plays generated games: one episode that wins and its failed siblings, all of as many turns,
and scores the actions of the failed ones after the winner's text. Naive is what the authors'
program does: teacher and student of every turn, each forwarded with its whole history. Ours scores
the student once an episode and the teacher's turns as branches. Seconds are processor time, of the
same model on the same tokens. "full" turns have instructions, reasoning and admissible commands,
"tiny" ones the bare texts of the embedded model.

`steps` trains the tiny ALFWorld example with GRPO and with StepOPSD, an update of each in turn, and
compares processor time.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stepopsd_envs.alfworld.env import ALFWorldEnv
from transformers import AutoConfig, AutoTokenizer

from stepopsd_rllib.connectors.teacher_contexts import TeacherRow
from stepopsd_rllib.episodes import AgentEpisode, Status, Turn
from stepopsd_rllib.episodes.packing import micro_batches, pack_episodes
from stepopsd_rllib.episodes.row_layout import RowLayout
from stepopsd_rllib.episodes.segmentation import token_span, turn_targets
from stepopsd_rllib.models.causal_lm import CausalLMModule
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.scoring.scored_sequences import NOT_SCORED, BranchedSequence, ScoredSequence
from stepopsd_rllib.scoring.scorer import Scorer
from stepopsd_rllib.teachers.contexts import hindsight_text, render_episode

TINY_MODEL = Path(__file__).parent.parent / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
MICRO_BATCH_TOKENS = 16384
HINDSIGHT_MAX_TOKENS = 1024
LONGEST_CONTEXT = 65536
THOUGHT = (
    "<think>I need to find the object first. The places that I have not looked at yet are the most "
    "likely ones, so I go to the nearest of them and look at what is there before I search "
    "elsewhere.</think>"
)
TINY = {"size": "tiny", "think": "off", "instructions": False}
FULL = {"size": "full", "think": "required", "instructions": True}


def play(size: str, chat: ChatFormat, *, turns: int, wins: bool, seed: int) -> AgentEpisode:
    """One episode of exactly `turns` turns that walks about, and at last wins if it shall."""
    rng = random.Random(seed)
    env = ALFWorldEnv(**(TINY if size == "tiny" else FULL), max_turns=turns)
    task = env.tasks("train")[0]
    observation, info = env.reset(seed=0, options={"task": task})
    walkthrough = env.game.walkthrough or ()
    prompt = chat.first_prompt([{"role": "user", "content": env.first_message(observation, info)}])
    records: list[Turn] = []
    for k in range(turns):
        is_end = wins and turns - k <= len(walkthrough)
        walks = [c for c in info["admissible_commands"] if c.startswith("go to")]
        command = walkthrough[k - turns] if is_end else rng.choice(walks)
        response = f"{'' if size == 'tiny' else THOUGHT}<action>{command}</action>"
        ids = chat.tokenizer(response, add_special_tokens=False)["input_ids"]
        ids = np.asarray([*ids, chat.end_of_turn_ids[0]], dtype=np.int32)
        seen = observation
        observation, reward, _, _, info = env.step(response)
        records.append(
            Turn(
                prompt_ids=np.asarray(prompt, dtype=np.int32),
                response_ids=ids,
                behaviour_log_probs=np.zeros(len(ids), dtype=np.float32),
                observation=seen,
                response=response,
                action=info["action"],
                is_action_valid=True,
                reward=reward,
                finish_reason="stop",
                weights_version=0,
            )
        )
        prompt = chat.continuation(env.append_message(observation, info), response_ended=True)
    if info["won"] != wins:
        raise RuntimeError(f"The walk of {turns} turns with seed {seed} should end won={wins}.")
    return AgentEpisode(
        task_id=task,
        task_type=info["task_type"],
        group=0,
        rollout=seed,
        seed=seed,
        context="append",
        status=Status.SUCCESS if wins else Status.TURN_LIMIT,
        won=wins,
        turns=tuple(records),
    )


def action_columns(episodes: list[AgentEpisode], chat: ChatFormat) -> dict[str, Any]:
    """Columns of the episodes with their actions as spans."""
    columns: dict[str, Any] = pack_episodes(episodes).columns()
    columns["step_index"] = torch.full_like(columns["turn_index"], -1)
    first = 0  # of the turn's tokens
    for episode in episodes:
        spans = turn_targets([turn.response for turn in episode.turns], "action_only")
        for k, (turn, span) in enumerate(zip(episode.turns, spans, strict=True)):
            assert span is not None
            start, stop = token_span(chat.text, turn.response_ids.tolist(), span)
            columns["step_index"][first + start : first + stop] = k
            first += len(turn.response_ids)
    return columns


def rows_of(columns: dict[str, Any], hindsight: np.ndarray) -> list[TeacherRow]:
    """Every episode's row with the hindsight put into it."""
    step_R, layout = columns["step_index"], RowLayout.of(columns)
    token_R = torch.arange(len(step_R)).masked_fill(step_R < 0, NOT_SCORED)
    return [
        TeacherRow(
            columns["input_ids"][layout.tokens_of(b)].numpy(),
            layout.row(token_R, b, fill=NOT_SCORED).numpy(),
            layout.row(step_R, b, fill=NOT_SCORED).numpy(),
            hindsight,
            max_positions=None,
        )
        for b in range(layout.num_rows)
    ]


def naive_sequences(
    rows: list[TeacherRow], columns: dict[str, Any], hindsight: np.ndarray
) -> dict[str, list[ScoredSequence]]:
    """Every turn of every episode with its whole history: teacher (after hindsight) and student."""
    layout = RowLayout.of(columns)
    token_R = torch.arange(len(columns["step_index"]))
    out: dict[str, list[ScoredSequence]] = {"suffix": [], "prefix": [], "student": []}
    for b, row in enumerate(rows):
        ids = columns["input_ids"][layout.tokens_of(b)].long().numpy()
        target_T = layout.row(token_R, b, fill=NOT_SCORED).numpy()
        for start, stop in row.spans:
            target = target_T[start:stop]
            for name, parts in (
                ("suffix", (ids[:start], hindsight, ids[start:stop])),
                ("prefix", (hindsight, ids[:start], ids[start:stop])),
                ("student", (ids[:start], ids[start:stop])),
            ):
                joined = np.concatenate(parts)
                where = np.full(len(joined), -1)
                where[-len(target) :] = target
                out[name].append(ScoredSequence(ids=joined, target=where))
    return out


def naive_scores(
    module: CausalLMModule, sequences: list[ScoredSequence], log_probs: torch.Tensor
) -> int:
    """Forwards every sequence with all of its tokens, in padded batches; returns their number."""
    lengths = torch.tensor([len(sequence.ids) for sequence in sequences])
    for part in micro_batches(lengths, max_tokens=MICRO_BATCH_TOKENS):
        ids_BT = torch.zeros(len(part), int(lengths[part].max()), dtype=torch.int64)
        target_BT = torch.full_like(ids_BT, NOT_SCORED)
        for row, i in enumerate(part.tolist()):
            ids_BT[row, : lengths[i]] = torch.from_numpy(sequences[i].ids)
            target_BT[row, : lengths[i]] = torch.from_numpy(sequences[i].target)
        mask_BT = target_BT != NOT_SCORED
        with torch.no_grad():
            scores_BT, _ = module.score(module.language_model, ids_BT, mask_BT)
        log_probs[target_BT[mask_BT]] = scores_BT[mask_BT]
    return int(lengths.sum())


def timed(score: Callable[[], int]) -> tuple[int, float]:
    """Tokens forwarded and seconds of processor time."""
    begin = time.process_time()
    tokens = score()
    return tokens, time.process_time() - begin


def measure_passes(size: str, turns: int, episodes: int, module: CausalLMModule, chat: ChatFormat):
    """Prints a line for each hindsight position."""
    winner = play(size, chat, turns=turns, wins=True, seed=0)
    failed = [play(size, chat, turns=turns, wins=False, seed=1 + i) for i in range(episodes)]
    text = hindsight_text(peer=render_episode([(t.observation, t.action) for t in winner.turns]))
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    hindsight = np.asarray(ids[:HINDSIGHT_MAX_TOKENS], dtype=np.int64)
    columns = action_columns(failed, chat)
    rows = rows_of(columns, hindsight)
    student_rows = rows_of(columns, hindsight[:0])
    naive = naive_sequences(rows, columns, hindsight)
    size_of_output = len(columns["step_index"])
    scorer = Scorer(module, "policy", max_tokens=MICRO_BATCH_TOKENS)

    def scored(sequences: list[ScoredSequence] | list[BranchedSequence], out: torch.Tensor) -> int:
        scores = scorer.score(sequences, num_tokens=len(out))
        out.copy_(scores.log_probs)
        return scores.num_forwarded

    def blank() -> torch.Tensor:
        return torch.zeros(size_of_output)

    student, naive_student, teacher, naive_teacher = blank(), blank(), blank(), blank()
    student_cost = timed(lambda: scored([r.after() for r in student_rows], student))
    naive_student_cost = timed(lambda: naive_scores(module, naive["student"], naive_student))
    print(
        f"{size}, {turns} turns: {len(failed)} failed episodes of "
        f"{float(columns['lengths'].float().mean()):.0f} tokens, hindsight of {len(ids)} tokens "
        f"(cut at {HINDSIGHT_MAX_TOKENS})"
    )
    for position in ("suffix", "prefix"):
        ours: Callable[[], int] = (
            (lambda: scored([row.branched() for row in rows], teacher))
            if position == "suffix"
            else (lambda: scored([row.after() for row in rows], teacher))
        )
        teacher_cost = timed(ours)
        naive_cost = timed(lambda at=position: naive_scores(module, naive[at], naive_teacher))
        difference = (teacher - student - naive_teacher + naive_student).abs().max()
        tokens, seconds = (a + b for a, b in zip(teacher_cost, student_cost, strict=True))
        naive_tokens, naive_seconds = (
            a + b for a, b in zip(naive_cost, naive_student_cost, strict=True)
        )
        print(
            f"  {position}: {tokens:>9,} of {naive_tokens:>10,} tokens ({tokens / naive_tokens:.3f}"
            f"), {seconds:6.1f} of {naive_seconds:6.1f} s ({seconds / naive_seconds:.3f}), "
            f"without the student's pass {teacher_cost[0] / naive_tokens:.3f}; "
            f"largest difference of a gap {float(difference):.1e} nats",
            flush=True,
        )


def passes(options: argparse.Namespace) -> None:
    """Measures every size and number of turns with one model."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as folder:
        config = AutoConfig.from_pretrained(options.model)
        config.max_position_embeddings = LONGEST_CONTEXT
        config.save_pretrained(folder)
        torch.manual_seed(0)
        module = CausalLMModule(
            observation_space=None,
            action_space=None,
            inference_only=False,
            model_config={"model_path": folder, "random_weights": True},
        )
    for size in options.sizes:
        for turns in options.turns:
            measure_passes(size, turns, options.episodes, module, ChatFormat(tokenizer))


def steps(options: argparse.Namespace) -> None:
    """Trains GRPO and three variants of StepOPSD, one update of each in turn."""
    import ray

    from stepopsd_rllib import GRPOConfig, StepOPSDConfig
    from stepopsd_rllib.commands import tuned

    example = tuned.read(options.example)
    keys = {**example.config, "env": example.env, "evaluation_interval": None}
    keys |= {"num_env_runners": 0, "sampler": "transformers", "credit_trace_interval": 0}
    own = set(vars(StepOPSDConfig())) - set(vars(GRPOConfig()))
    variants: dict[str, tuple[type[GRPOConfig], dict[str, Any]]] = {
        "GRPO": (GRPOConfig, {}),
        "prefix": (StepOPSDConfig, {"hindsight_position": "prefix"}),
        "prefix, student of the rollout": (
            StepOPSDConfig,
            {"hindsight_position": "prefix", "student_log_probs": "rollout"},
        ),
        "suffix": (StepOPSDConfig, {"hindsight_position": "suffix"}),
    }
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithms = {}
    for name, (config_class, changes) in variants.items():
        given = keys | changes
        if config_class is GRPOConfig:
            given = {key: value for key, value in given.items() if key not in own}
        algorithms[name] = config_class().update_from_dict(given).build_algo()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    update_seconds: dict[str, list[float]] = {name: [] for name in variants}
    for algorithm in algorithms.values():
        algorithm.train()  # warms up, and is the one update whose teacher is the policy
    for _ in range(options.updates):
        for name, algorithm in algorithms.items():
            begin = time.process_time()
            result = algorithm.train()
            seconds[name].append(time.process_time() - begin)
            update_seconds[name].append(float(result["timers"]["update"]))
    for name in variants:
        total = sum(seconds[name]) / options.updates
        ratio = sum(seconds[name]) / sum(seconds["GRPO"])
        print(
            f"{name:>32}: {total:6.2f} s of processor time an iteration ({ratio:.2f} x GRPO); "
            f"update {sum(update_seconds[name]) / options.updates:.2f} s by the clock"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    of_passes = commands.add_parser("passes")
    of_passes.add_argument("--model", default=str(TINY_MODEL), help="its config and tokenizer")
    of_passes.add_argument("--turns", type=int, nargs="+", default=[20, 50])
    of_passes.add_argument("--sizes", nargs="+", choices=["tiny", "full"], default=["tiny", "full"])
    of_passes.add_argument("--episodes", type=int, default=2, help="failed episodes of the group")
    of_passes.set_defaults(run=passes)
    of_steps = commands.add_parser("steps")
    of_steps.add_argument("--example", default="tuned_examples/stepopsd/alfworld_tiny.yaml")
    of_steps.add_argument("--updates", type=int, default=8)
    of_steps.set_defaults(run=steps)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
