"""Every metric of a result: where it stands, unit, meaning. `docs/metrics.md` is made from it.

python -m stepopsd_rllib.report.metric_names > docs/metrics.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, or several that share a meaning.

    Attributes:
        name: Last part of its name; `{}` stands for what depends on the run, such as a task type.
        unit: Unit of its values.
        meaning: Meaning, a noun first.
    """

    name: str
    unit: str
    meaning: str


PLACES: dict[str, tuple[str, tuple[Metric, ...]]] = {
    "env_runners": (
        "What was sampled in the iteration. `evaluation/` has the same for the evaluation tasks, "
        "each once, with Wilson intervals.",
        (
            Metric("success_rate", "0 to 1", "won episodes of those that ended as an outcome"),
            Metric("success_rate_low", "0 to 1", "lower end of the 95 % interval (evaluation)"),
            Metric("success_rate_high", "0 to 1", "upper end of the 95 % interval (evaluation)"),
            Metric("num_wins", "episodes", "won tasks (evaluation)"),
            Metric("iteration", "updates", "updates before the evaluation (evaluation)"),
            Metric("seconds", "seconds", "time that the evaluation took (evaluation)"),
            Metric("task_score_mean", "0 to 1", "mean graded score, where the environment grades"),
            Metric("task_score_low", "0 to 1", "lower end of its 95 % interval (evaluation)"),
            Metric("task_score_high", "0 to 1", "upper end of its 95 % interval (evaluation)"),
            Metric("task_type_mean/{}", "0 to 1", "success, every task type the same weight"),
            Metric("task_type/{}/{}", "as above", "episodes, success, score of one task type"),
            Metric("episode_return_mean", "reward", "undiscounted return before penalties"),
            Metric("num_episodes", "episodes", "episodes that ended as an outcome of the policy"),
            Metric("turns_mean", "turns", "turns of an episode"),
            Metric("response_tokens_mean", "tokens", "sampled tokens of a turn"),
            Metric("valid_action_ratio", "0 to 1", "turns whose action was valid"),
            Metric("response_limit_rate", "0 to 1", "turns that ran into `max_response_tokens`"),
            Metric("malformed_response_rate", "0 to 1", "turns that ended without a valid action"),
            Metric("status/{}", "episodes", "episodes by how they ended"),
            Metric("tool_error/{}", "episodes", "failed tools by the first word of the error"),
            Metric("environment_error/{}", "episodes", "broken environments, likewise"),
            Metric("tool_error_lifetime/{}", "episodes", "failed tools since the run began"),
            Metric("environment_error_lifetime/{}", "episodes", "the same since the run began"),
            Metric("groups_lost", "groups", "lost with a runner, and sampled again"),
            Metric("groups_given_up", "groups", "lost a second time, alone"),
            Metric("tasks_skipped_lifetime", "tasks", "draws of tasks that were given up"),
            Metric("groups_broken", "groups", "groups with fewer than two usable episodes"),
            Metric("groups_without_signal", "groups", "groups of equal returns sampled again"),
            Metric("runners_restarted_lifetime", "runners", "restarts of runners or samplers"),
            Metric("num_env_steps_sampled_lifetime", "turns", "turns since the run began"),
        ),
    ),
    "learners/default_policy": (
        "The update, as means over the iteration's sampled tokens unless said otherwise.",
        (
            Metric("policy_loss", "loss", "clipped surrogate"),
            Metric("distillation_loss", "loss", "a method's second loss, before its coefficient"),
            Metric("total_loss", "loss", "all terms"),
            Metric("gradient_norm", "norm", "before clipping"),
            Metric("skipped_update_fraction", "0 to 1", "optimizer steps with no finite gradient"),
            Metric("no_signal_fraction", "0 to 1", "optimizer steps without anything to learn"),
            Metric("clip_fraction", "0 to 1", "tokens whose ratio was clipped"),
            Metric("dual_clip_fraction", "0 to 1", "tokens at the dual clip"),
            Metric("approximate_kl", "nats", "old minus new log-prob"),
            Metric("kl_to_reference", "nats", "estimate of KL to the reference"),
            Metric("entropy", "nats", "of the policy's next-token distribution"),
            Metric("advantage_magnitude", "advantage", "mean absolute advantage"),
            Metric("sampler_log_prob_difference_mean", "nats", "learner against sampler"),
            Metric("sampler_log_prob_difference_max", "nats", "the largest of any token"),
            Metric("sampler_importance_ratio_mean", "ratio", "learner over sampler; 1 is equal"),
            Metric(
                "effective_sample_size",
                "share",
                "of the tokens, (Σ r)² / (N Σ r²) of that ratio; 1 is equal",
            ),
            Metric("default_optimizer_learning_rate", "rate", "before warm-up"),
            Metric("weights_seq_no", "updates", "number of the weights"),
            Metric("num_trainable_parameters", "parameters", "that the optimizer steps on"),
            Metric("num_non_trainable_parameters", "parameters", "of frozen copies"),
            Metric("teacher_version", "updates", "update of the teacher's snapshot"),
            Metric("update_tokens_forwarded", "tokens", "of an optimizer step, without padding"),
            Metric("teacher_tokens_forwarded", "tokens", "that the teacher's passes took"),
            Metric("student_tokens_forwarded", "tokens", "that the policy's scoring took"),
            Metric("lambda", "0 to 1", "λ of the update"),
            Metric("effect_size", "share", "mean of |Ã − A| / |A|"),
            Metric("changed_share", "0 to 1", "scored tokens with |Δ| above 1e-4"),
            Metric("clipped_share", "0 to 1", "scored tokens whose weight is at a bound"),
            Metric("weight_{}", "weight", "mean, least and largest weight; histogram"),
            Metric("gap_{}", "nats", "Δ: mean, deviation, percentiles, histogram"),
            Metric("num_scored_tokens", "tokens", "with a Δ"),
            Metric("num_positive", "tokens", "Δ above 1e-4"),
            Metric("num_negative", "tokens", "Δ below −1e-4"),
            Metric("num_unchanged", "tokens", "the others"),
            Metric("task_type/{}/{}", "as above", "the shaping of one task type"),
            Metric("hindsight_{}", "0 to 1", "what the teacher was told, and what was cut of it"),
            Metric("hindsight_tokens_mean", "tokens", "of the text that it was told"),
            Metric("skill_{}", "0 to 1", "skills told, cut, and their share of the advantage"),
            Metric("skill_tokens_mean", "tokens", "of the skills that the teacher was told"),
            Metric("episode_share", "0 to 1", "outcome's share of the advantage (OPID)"),
            Metric("episode_skill_log_prob_mean", "nats", "under the episode's skill (OPID)"),
            Metric("step_skill_log_prob_mean", "nats", "under the turn's skill (OPID)"),
            Metric("step_skill_turn_share", "0 to 1", "turns with a skill of their own (OPID)"),
            Metric("analyzer/{}", "count", "episodes, requests, tokens, failures by reason"),
            Metric("guidance_cut_share", "0 to 1", "guidance that was cut (GRSD)"),
            Metric("guided_group_share", "0 to 1", "groups with guidance (GRSD)"),
            Metric("mixed_group_share", "0 to 1", "groups that won and lost (GRSD)"),
            Metric("teacher_gap_mean", "nats", "teacher minus policy in a distillation loss"),
            Metric("teacher_gap_square_mean", "nats²", "its mean square"),
            Metric("teacher_top_share", "0 to 1", "teacher's mass on its top tokens (OPSD)"),
            Metric("gate_mean", "0 to 1", "gate of the distillation loss"),
            Metric("gate_active_share", "0 to 1", "tokens with a gate above 1/2"),
            Metric("top_token_kl_mean", "nats", "KL over the teacher's top tokens (UCOB)"),
            Metric("anchor_group_size_mean", "turns", "turns that share a state"),
            Metric("anchor_shared_turn_share", "0 to 1", "turns whose state was seen twice"),
            Metric("step_advantage_magnitude", "advantage", "mean absolute step advantage"),
            Metric("history_shared_turn_share", "0 to 1", "turns of one longest history (HGPO)"),
            Metric("goal_distance_mean", "turns", "of a turn's state from the goal (GraphGPO)"),
            Metric("nearing_turn_share", "0 to 1", "turns that led nearer to the goal (GraphGPO)"),
            Metric("state_value_mean", "reward", "value of a turn's state (G2PO)"),
            Metric("value_step_magnitude", "reward", "mean absolute change of value (G2PO)"),
            Metric("action_token_share", "0 to 1", "sampled tokens that spell an action (SERL)"),
            Metric("action_turn_share", "0 to 1", "turns with an action (SERL)"),
            Metric("told_turn_share", "0 to 1", "turns that the teacher was told of (SERL)"),
            Metric("told_cut_share", "0 to 1", "told texts that were cut (SERL)"),
            Metric("selected_fraction", "0 to 1", "tokens of told rows that were weighted (SERL)"),
            Metric("clipped_fraction", "0 to 1", "weighted tokens at a bound (SERL)"),
            Metric("conflicting_gate_share", "0 to 1", "gate of liked tokens with A < 0 (ICSD)"),
            Metric("teacher_text_replaced_share", "0 to 1", "texts that a control replaced"),
            Metric("teacher_reward_weight", "reward", "weight of the teacher's reward (ADRS)"),
            Metric("branch_weight_mean", "weight", "of a taught turn (UCOB)"),
            Metric("informed_{}", "share, reward", "episodes with skills in the prompt (UCOB)"),
            Metric("plain_return_mean", "reward", "of episodes without (UCOB)"),
            Metric("return_gap_mean", "reward", "between branches of a state (UCOB)"),
            Metric("paired_turn_share", "0 to 1", "turns with a branch of the other kind (UCOB)"),
            Metric("taught_{}", "0 to 1", "turns that a better branch teaches (UCOB)"),
        ),
    ),
    "timers": (
        "Seconds of the parts of the step, unsmoothed.",
        (
            Metric("sample", "seconds", "all rollouts; with `off_policy_steps` the wait for them"),
            Metric("sample_ahead", "seconds", "rollouts beside the update, `off_policy_steps: 1`"),
            Metric("sleep", "seconds", "engines that give their GPU to the learner"),
            Metric("update", "seconds", "connectors, scoring, optimizer steps"),
            Metric("weight_sync", "seconds", "weights to every sampler"),
        ),
    ),
}
"""The metrics by place in a result. RLlib's and Tune's own, such as `perf/` and
`learners/__all_modules__`, are documented by Ray."""


def is_documented(place: str, name: str) -> bool:
    """Whether a metric is on the page.

    Args:
        place: A key of `PLACES`.
        name: What follows the place in the result's flat key.
    """
    return any(_pattern(metric.name).fullmatch(name) for metric in PLACES[place][1])


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, name.split("{}"))))


def page() -> str:
    """The page of all metrics, in Markdown."""
    lines = [
        "# Metrics",
        "",
        "Where the metrics of an iteration stand in `result.json`, TensorBoard and Tune's results. "
        "`{}` stands for a name that depends on the run. Made by",
        "`python -m stepopsd_rllib.report.metric_names`.",
    ]
    for place, (about, metrics) in PLACES.items():
        lines += [
            "",
            f"## `{place}/`",
            "",
            about,
            "",
            "| metric | unit | meaning |",
            "|---|---|---|",
        ]
        lines += [f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in metrics]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
