"""A sampler that refuses to start: something that only the runner's machine can know."""

from typing import Any

from stepopsd_rllib.sampling.transformers_sampler import TransformersSampler


class RefusingSampler(TransformersSampler):
    """Raises in its constructor."""

    def __init__(self, *_: Any, **__: Any):
        raise ValueError("no such accelerator on this machine")
