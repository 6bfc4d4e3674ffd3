"""Samplers: prompts in; token ids, log-probs and finish reasons out. Importing loads no engine."""

from stepopsd_rllib.sampling.contract import SamplerContractError, check_sampler
from stepopsd_rllib.sampling.sampler import (
    NO_VERSION,
    FinishReason,
    Sampler,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
    check_request,
)

__all__ = [
    "NO_VERSION",
    "FinishReason",
    "SampleRequest",
    "SampleResult",
    "Sampler",
    "SamplerContractError",
    "SamplerRefusal",
    "check_request",
    "check_sampler",
]
