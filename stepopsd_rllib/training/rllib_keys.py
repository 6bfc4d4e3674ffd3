"""What becomes of every key of RLlib's AlgorithmConfig here: it acts, or it is refused if changed.

`HONOURED` act as RLlib documents them. `IGNORED` would do nothing in this package: `validate`
refuses them when they differ from RLlib's default and says what to use instead. `INTERNAL` are no
settings: RLlib or this package keeps its own state in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID

RLLIB_DEFAULTS: Mapping[str, Any] = vars(AlgorithmConfig())
"""Attribute of a plain AlgorithmConfig -> its default."""

HONOURED: Mapping[str, tuple[str, ...]] = {
    "the environment, made once in each runner": ("env", "env_config"),
    "env runners: how many, where, and what happens when one fails": (
        "env_runner_cls",
        "num_env_runners",
        "num_envs_per_env_runner",
        "create_local_env_runner",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "custom_resources_per_env_runner",
        "validate_env_runners_after_construction",
        "sample_timeout_s",
        "restart_failed_env_runners",
        "ignore_env_runner_failures",
        "max_num_env_runner_restarts",
        "delay_between_env_runner_restarts_s",
        "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s",
    ),
    "learners: how many, where, and their own pieces": (
        "num_learners",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "custom_resources_per_learner",
        "local_gpu_idx",
        "torch_ddp_kwargs",
        "learner_config_dict",
        "_learner_class",
        "_learner_connector",
        "_rl_module_spec",
    ),
    "the optimizer": ("lr", "grad_clip", "num_epochs", "minibatch_size"),
    "the main process and its placement group": (
        "num_cpus_for_main_process",
        "custom_resources_for_main_process",
        "placement_strategy",
    ),
    "when tasks are evaluated": ("evaluation_interval",),
    "callbacks": (
        "callbacks_class",
        "callbacks_on_algorithm_init",
        "callbacks_on_checkpoint_loaded",
        "callbacks_on_env_runners_recreated",
        "callbacks_on_environment_created",
        "callbacks_on_episode_created",
        "callbacks_on_episode_start",
        "callbacks_on_episode_step",
        "callbacks_on_episode_end",
        "callbacks_on_evaluate_start",
        "callbacks_on_evaluate_end",
        "callbacks_on_sample_end",
        "callbacks_on_train_result",
    ),
    "seed, logging, metrics, checkpoints": (
        "seed",
        "log_level",
        "stats_cls_lookup",
        "_use_msgpack_checkpoints",
        "_validate_config",
    ),
}

INTERNAL: Mapping[str, tuple[str, ...]] = {
    "state of RLlib": (
        "algo_class",
        "in_evaluation",
        "_is_frozen",
        "_per_module_overrides",
        "_prior_exploration_config",
        "simple_optimizer",
    ),
    "set by this package, whose runners and learners have connectors of their own": (
        "_dont_auto_sync_env_runner_states",
        "add_default_connectors_to_env_to_module_pipeline",
        "add_default_connectors_to_learner_pipeline",
        "add_default_connectors_to_module_to_env_pipeline",
    ),
    "refused with a message of its own": ("num_aggregator_actors_per_learner",),
}

_EVALUATION = (
    "an evaluation plays each task of a fixed list once, on the training runners. Use eval_split, "
    "eval_num_tasks, eval_temperature and evaluation_interval."
)
_BATCH = (
    "a training step takes whole groups of episodes. Use groups_per_step and group_size; "
    "minibatch_size sets the rows of an optimizer step."
)
_ROLLOUT = (
    "the runner plays whole episodes of text; it has no connectors and no vector environment. Use "
    "num_envs_per_env_runner for the number of episodes at a time."
)
_SPACES = (
    "observations and actions are texts, and rewards reach the advantages as the environment gives "
    "them. Change the environment (env_config)."
)
_SYNC = "weights go to the runners in a verified, blocking sync, and runners have no other state."
_EXPLORATION = "the sampler draws from the policy itself. Use temperature, top_p, eval_temperature."
_MODEL = "the model is a language model. Use agent(model=...), or rl_module(rl_module_spec=...)."
_ONE_POLICY = "there is one policy, for one agent."
_OFFLINE = "training is on policy; there is no offline data."
_ITERATION = "an iteration is one update. Use Tune's stop conditions, or groups_per_step."
_METRICS = "every metric is that of one iteration, unsmoothed. Smooth where you read the results."
_COMPILE = "nothing is compiled: micro-batches change their shape. Leave it as it is."
_OLD = "it belongs to RLlib's old API stack or to TensorFlow. Remove it."

_REASONS: tuple[tuple[str, str], ...] = (
    (
        "gamma",
        "returns are not discounted; GiGPO, UCOB and ADRS have step_discount. Remove it.",
    ),
    (
        "grad_clip_by",
        "gradients are clipped by their global norm, over all parameters. Use grad_clip.",
    ),
    (
        "torch_skip_nan_gradients",
        "an update whose gradients are not finite is always left out and counted in "
        "skipped_update_fraction. Remove it.",
    ),
    (
        "shuffle_batch_per_epoch",
        "rows are shuffled before each epoch that has several minibatches. Use minibatch_size.",
    ),
    (
        "algorithm_config_overrides_per_module",
        "there is one module, and it has the keys of this config. Set them here.",
    ),
    (
        "max_requests_in_flight_per_env_runner max_requests_in_flight_per_learner "
        "max_requests_in_flight_per_aggregator_actor",
        "sampling and updates are blocking: there is one request at a time. Remove it.",
    ),
    (
        "num_consecutive_env_runner_failures_tolerance",
        "a step with too few usable groups raises. Use min_groups_fraction.",
    ),
    (
        "_torch_lr_scheduler_classes",
        "the learner steps its own optimizer. Use a schedule as lr, and lr_warmup_steps.",
    ),
    ("num_gpus _fake_gpus", "GPUs belong to runners and learners. Use num_gpus_per_learner."),
    (
        "restart_failed_sub_environments",
        "an environment that fails ends its episode alone, counted. Remove it.",
    ),
    (
        "export_native_model_files",
        "a checkpoint has the weights. Use the command `stepopsd export` for the model's files.",
    ),
    ("checkpoint_trainable_policies_only", "a checkpoint has the whole run. Remove it."),
    ("log_gradients", "the norm is always logged (gradient_norm). Remove it."),
    ("log_sys_usage fake_sampler", "RLlib itself no longer reads it. Remove it."),
    (
        "_torch_grad_scaler_class",
        "gradients are float32 (bfloat16 arithmetic needs no scaler). Use autocast_dtype.",
    ),
    (
        "evaluation_config evaluation_duration evaluation_duration_unit evaluation_num_env_runners "
        "evaluation_num_episodes evaluation_auto_duration_max_env_steps_per_sample "
        "evaluation_auto_duration_min_env_steps_per_sample custom_evaluation_function "
        "evaluation_error_after_n_consecutive_skips evaluation_force_reset_envs_before_iteration "
        "evaluation_parallel_to_training evaluation_unhealthy_workers_timeout_s "
        "custom_async_evaluation_function enable_async_evaluation always_attach_evaluation_results",
        _EVALUATION,
    ),
    ("evaluation_sample_timeout_s", "evaluation waits as training does. Use sample_timeout_s."),
    ("train_batch_size _train_batch_size_per_learner rollout_fragment_length batch_mode", _BATCH),
    (
        "_env_to_module_connector _module_to_env_connector gym_env_vectorize_mode "
        "remote_worker_envs remote_env_batch_wait_ms episodes_to_numpy episode_lookback_horizon "
        "create_env_on_local_worker",
        _ROLLOUT,
    ),
    (
        "observation_space action_space clip_rewards clip_actions normalize_actions _is_atari "
        "action_mask_key disable_env_checking render_env observation_filter preprocessor_pref "
        "observation_fn compress_observations",
        _SPACES,
    ),
    (
        "merge_env_runner_states broadcast_env_runner_states use_env_runner_state_server "
        "env_runner_state_server_max_concurrency sync_filters_on_rollout_workers_timeout_s "
        "update_worker_filter_stats use_worker_filter_stats",
        f"{_SYNC} Use weight_sync_timeout_s for its limit.",
    ),
    ("explore exploration_config", _EXPLORATION),
    ("model _model_config", _MODEL),
    ("optimizer", "the optimizer is AdamW. Use lr, weight_decay, adam_betas and adam_eps."),
    (
        "policies policy_mapping_fn policies_to_train policy_states_are_swappable count_steps_by "
        "policy_map_capacity",
        f"{_ONE_POLICY} Remove it.",
    ),
    (
        "min_time_s_per_iteration min_train_timesteps_per_iteration "
        "min_sample_timesteps_per_iteration",
        _ITERATION,
    ),
    (
        "keep_per_episode_custom_metrics metrics_episode_collection_timeout_s "
        "metrics_num_episodes_for_smoothing sampler_perf_stats_ema_coef",
        _METRICS,
    ),
    (
        "torch_compile_learner torch_compile_learner_dynamo_backend "
        "torch_compile_learner_dynamo_mode torch_compile_learner_what_to_compile "
        "torch_compile_worker torch_compile_worker_dynamo_backend torch_compile_worker_dynamo_mode",
        _COMPILE,
    ),
    (
        "callbacks_on_offline_eval_runners_recreated callbacks_on_evaluate_offline_start "
        "callbacks_on_evaluate_offline_end dataset_num_iters_per_eval_runner "
        "dataset_num_iters_per_learner input_ input_config input_compress_columns "
        "input_evaluation input_filesystem input_filesystem_kwargs input_read_batch_size "
        "input_read_episodes input_read_method input_read_method_kwargs "
        "input_read_sample_batches input_read_schema input_spaces_jsonable "
        "ignore_final_observation iter_batches_kwargs map_batches_kwargs materialize_data "
        "materialize_mapped_data "
        "actions_in_input_normalized postprocess_inputs shuffle_buffer_size offline_data_class "
        "offline_sampling prelearner_class prelearner_buffer_class prelearner_buffer_kwargs "
        "prelearner_module_synch_period prelearner_use_recorded_module_states output "
        "output_config output_compress_columns output_filesystem output_filesystem_kwargs "
        "output_max_file_size output_max_rows_per_file output_write_episodes output_write_method "
        "output_write_method_kwargs output_write_remaining_data off_policy_estimation_methods "
        "ope_split_batch_by_episode offline_eval_batch_size_per_runner "
        "offline_eval_rl_module_inference_only offline_eval_runner_class "
        "offline_eval_runner_health_probe_timeout_s offline_eval_runner_restore_timeout_s "
        "offline_evaluation_duration offline_evaluation_interval offline_evaluation_timeout_s "
        "offline_evaluation_parallel_to_training offline_evaluation_type "
        "offline_loss_for_module_fn num_offline_eval_runners num_cpus_per_offline_eval_runner "
        "num_gpus_per_offline_eval_runner custom_resources_per_offline_eval_runner "
        "restart_failed_offline_eval_runners ignore_offline_eval_runner_failures "
        "max_num_offline_eval_runner_restarts max_requests_in_flight_per_offline_eval_runner "
        "validate_offline_eval_runners_after_construction broadcast_offline_eval_runner_states "
        "_is_online",
        f"{_OFFLINE} Remove it.",
    ),
    (
        "extra_python_environs_for_driver extra_python_environs_for_worker",
        "RLlib itself no longer reads it. Use Ray's runtime_env (env_vars).",
    ),
    (
        "enable_rl_module_and_learner enable_env_runner_and_connector_v2 enable_connectors "
        "_enable_rl_module_api framework_str eager_tracing eager_max_retraces "
        "enable_tf1_exec_eagerly tf_session_args local_tf_session_args "
        "_tf_policy_handles_more_than_one_loss _disable_action_flattening "
        "_disable_execution_plan_api _disable_initialize_loss_from_dummy_batch "
        "_disable_preprocessor_api auto_wrap_old_gym_envs sample_collector buffer_size "
        "collect_metrics_timeout env_task_fn learning_starts metrics_smoothing_episodes "
        "min_iter_time_s min_sample_timesteps_per_reporting min_time_s_per_reporting "
        "min_train_timesteps_per_reporting monitor policy_map_cache prioritized_replay "
        "prioritized_replay_alpha prioritized_replay_beta prioritized_replay_eps "
        "replay_batch_size replay_mode replay_sequence_length "
        "synchronize_filters timesteps_per_iteration worker_cls",
        _OLD,
    ),
)

IGNORED: Mapping[str, str] = {name: reason for names, reason in _REASONS for name in names.split()}
"""Attribute -> why it has no effect here, and what to use instead."""


def changed(attributes: Mapping[str, Any]) -> Iterator[str]:
    """The attributes of a config without an effect here that differ from RLlib's default."""
    for name in IGNORED:
        if name in attributes and not _is_same(name, attributes[name], RLLIB_DEFAULTS.get(name)):
            yield name


def spelled(attribute: str) -> str:
    """The attribute as users write it."""
    return "framework" if attribute == "framework_str" else attribute.strip("_")


def _is_same(name: str, value: Any, default: Any) -> bool:
    if name == "policies":  # a spec, its state, or a name: what counts is that it is the only one
        return list(value or ()) == [DEFAULT_MODULE_ID]
    try:
        return bool(value == default)
    except (TypeError, ValueError):  # values that have no single answer, such as arrays
        return value is default
