"""The sampler contract, checked: what a class must have, and what a sampler must do.

`check_sampler` plays a fresh sampler and raises with the sentence of the contract that it breaks.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch

from stepopsd_rllib.sampling.sampler import (
    NO_VERSION,
    Sampler,
    SampleRequest,
    SampleResult,
    SamplerRefusal,
)

METHODS = ("submit", "step", "is_idle", "load_weights", "score", "close")
ATTRIBUTES = ("weights_version", "max_context_tokens")
ARGUMENTS = ("max_context_tokens", "max_concurrent")
_PROMPT_TOKENS = 4
_RESPONSE_TOKENS = 6
_SPARE_STEPS = 100  # beyond one for each token: prompts may be taken up in pieces


class SamplerContractError(ValueError):
    """A sampler breaks the contract; the message is the sentence that it breaks."""


def sampler_class(name: str) -> type[Sampler]:
    """The class that `sampler: "module:Class"` names.

    Raises:
        ValueError: No such class.
        SamplerContractError: One that lacks a method or an argument of the contract.
    """
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"config.sampler={name!r}: {type(error).__name__}: {error}. Name a class that Python "
            'can import, as "module:Class".'
        ) from error
    if not isinstance(found, type):
        raise ValueError(f"config.sampler={name!r} is no class. Name one, as module:Class.")
    for method in METHODS:
        if not callable(getattr(found, method, None)):
            _broken(f"config.sampler={name!r}: a sampler has a method {method!r}; this has none")
    parameters = inspect.signature(found).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for argument in ARGUMENTS:
        if argument not in parameters and not takes_any:
            _broken(
                f"config.sampler={name!r}: a sampler is made with the model's folder and the "
                f"keywords {' and '.join(ARGUMENTS)}; this takes no {argument!r}"
            )
    return found


def check_result(result: Any, requests: Mapping[str, SampleRequest]) -> None:
    """Raises `SamplerContractError` unless a result belongs to a running request and is sound.

    Args:
        result: What `step` returned, one of it.
        requests: Running requests by their ids.
    """
    if not isinstance(result, SampleResult):
        _broken(f"step returns SampleResults; this returned a {type(result).__name__}")
    request = requests.get(result.request_id)
    if request is None:
        _broken(
            f"step returns each submitted request once; {result.request_id!r} is not running (any "
            "more)"
        )
    where = f"the response to {result.request_id!r}"
    tokens, log_probs = result.token_ids, result.log_probs
    for column, values, dtype in (
        ("token_ids", tokens, np.int32),
        ("log_probs", log_probs, np.float32),
    ):
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype != dtype:
            _broken(f"{where}: {column} is an array [T] of {np.dtype(dtype)}; this is not")
    if len(tokens) != len(log_probs):
        _broken(
            f"{where}: every token has its log-prob; this has {len(tokens)} tokens and "
            f"{len(log_probs)} log-probs"
        )
    if not 1 <= len(tokens) <= request.max_tokens:
        _broken(
            f"{where}: a response has 1 to max_tokens={request.max_tokens} tokens; this has "
            f"{len(tokens)}"
        )
    if result.finish_reason not in ("stop", "length"):
        _broken(f"{where}: ends with 'stop' or 'length', not {result.finish_reason!r}")


def check_sampler(
    sampler: Sampler,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    vocabulary: int = 256,
    tolerance: float = 1e-3,
) -> None:
    """Plays a fresh sampler and raises where it breaks the contract.

    Args:
        sampler: Just made. It is closed at the end.
        weights: A complete set of the model's weights by checkpoint name, to check `load_weights`;
            without it, that is left out.
        vocabulary: Token ids below this are put into prompts.
        tolerance: Largest |log-prob of a sampled token - `score`'s|, nats; 0.1 is usual in
            bfloat16.

    Raises:
        SamplerContractError: With the sentence of the contract that does not hold.
    """
    for name in ATTRIBUTES:
        _require(isinstance(getattr(sampler, name, None), int), f"a sampler has an int {name!r}")
    _require(
        sampler.weights_version == NO_VERSION,
        f"weights_version is {NO_VERSION} until load_weights succeeded",
    )
    _require(sampler.is_idle() is True, "is_idle() is True before the first request")
    check = _Check(sampler, np.random.default_rng(0), vocabulary)
    check.responses()
    check.independence()
    check.stops()
    check.limits()
    check.refusals()
    check.scores(tolerance)
    if weights is not None:
        check.loads(weights)
    sampler.close()


class _Check:
    """A sampler and the prompts that it is played with."""

    def __init__(self, sampler: Sampler, rng: np.random.Generator, vocabulary: int):
        self.sampler = sampler
        self.prompts = [rng.integers(vocabulary, size=_PROMPT_TOKENS).tolist() for _ in range(4)]

    def request(self, i: int = 0, **changes: Any) -> SampleRequest:
        request = SampleRequest(
            request_id=f"check.{i}",
            prompt_ids=self.prompts[i % len(self.prompts)],
            seed=i,
            max_tokens=_RESPONSE_TOKENS,
        )
        return replace(request, **changes)

    def play(self, *requests: SampleRequest) -> list[SampleResult]:
        """Submits requests and steps until the sampler is idle; results in their order."""
        running = {request.request_id: request for request in requests}
        for request in requests:
            self.sampler.submit(request)
        _require(not self.sampler.is_idle(), "is_idle() is False while a request is queued")
        results: dict[str, SampleResult] = {}
        most = sum(request.max_tokens for request in requests) + _SPARE_STEPS
        for _ in range(most):
            for result in self.sampler.step():
                check_result(result, running)
                del running[result.request_id]
                results[result.request_id] = result
            if self.sampler.is_idle():
                break
        _require(
            self.sampler.is_idle() and not running,
            f"step gives every running request at least a token; {len(running)} of {len(requests)} "
            f"had not finished after {most} steps",
        )
        return [results[request.request_id] for request in requests]

    def responses(self) -> None:
        for result in self.play(*(self.request(i) for i in range(4))):
            _require(bool(np.isfinite(result.log_probs).all()), "log-probs are finite")
            _require(bool((result.log_probs <= 1e-4).all()), "log-probs are at most 0 nats")
            _require(
                result.finish_reason == "length" and len(result.token_ids) == _RESPONSE_TOKENS,
                "without stop tokens a response has max_tokens tokens and ends with 'length'",
            )

    def independence(self) -> None:
        requests = [self.request(i) for i in range(4)]
        together, alone = self.play(*requests), [self.play(request)[0] for request in requests]
        for one, other in zip(together, alone, strict=True):
            _require(
                np.array_equal(one.token_ids, other.token_ids),
                "a request's sample depends on its prompt and seed alone, not on what runs beside "
                "it or ran before",
            )
        greedy = [self.request(0, seed=seed, temperature=0.0) for seed in (1, 2)]
        first, second = (self.play(request)[0].token_ids for request in greedy)
        _require(np.array_equal(first, second), "temperature 0 is greedy, whatever the seed")

    def stops(self) -> None:
        greedy = self.request(0, temperature=0.0)
        tokens = self.play(greedy)[0].token_ids
        stop = int(tokens[2])
        where = tokens.tolist().index(stop) + 1
        (stopped,) = self.play(replace(greedy, stop_token_ids=(stop,)))
        _require(
            stopped.finish_reason == "stop"
            and stopped.token_ids.tolist() == tokens[:where].tolist(),
            "a stop token ends the response, is part of it, and its finish_reason is 'stop'",
        )

    def limits(self) -> None:
        length = self.sampler.max_context_tokens - 2
        (result,) = self.play(self.request(0, prompt_ids=(self.prompts[0] * length)[:length]))
        _require(
            len(result.token_ids) == 2 and result.finish_reason == "length",
            "prompt and response together have at most max_context_tokens tokens",
        )

    def refusals(self) -> None:
        whole = (self.prompts[0] * self.sampler.max_context_tokens)[
            : self.sampler.max_context_tokens
        ]
        for what, request in (
            ("an empty prompt", self.request(0, prompt_ids=[])),
            ("a prompt that leaves no room for a response", self.request(0, prompt_ids=whole)),
            ("a token id outside of the vocabulary", self.request(0, prompt_ids=[2**31 - 1])),
            ("max_tokens=0", self.request(0, max_tokens=0)),
            ("a negative temperature", self.request(0, temperature=-1.0)),
        ):
            try:
                self.sampler.submit(request)
            except SamplerRefusal:
                continue
            except Exception as error:
                _broken(f"submit refuses {what} with SamplerRefusal, not {type(error).__name__}")
            _broken(f"submit refuses {what} with SamplerRefusal")
        _require(self.sampler.is_idle(), "a refused request is not queued")

    def scores(self, tolerance: float) -> None:
        request = self.request(1)
        (result,) = self.play(request)
        ids = [*request.prompt_ids, *result.token_ids.tolist()]
        scored = self.sampler.score(ids)
        _require(
            isinstance(scored, np.ndarray) and scored.shape == (len(ids) - 1,),
            "score of T tokens is an array [T-1]",
        )
        difference = float(np.abs(scored[len(request.prompt_ids) - 1 :] - result.log_probs).max())
        _require(
            difference <= tolerance,
            "log-probs of a sample at temperature 1 are score's of the same tokens; they differ by "
            f"{difference:.3g} nats, tolerance={tolerance:g}",
        )

    def loads(self, weights: Mapping[str, torch.Tensor]) -> None:
        sampler, request = self.sampler, self.request(2)
        sampler.load_weights(weights, 7)
        _require(sampler.weights_version == 7, "load_weights records the version")
        before = self.play(request)[0]
        zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        sampler.load_weights(zeros, 8)
        uniform = self.play(request)[0].log_probs
        _require(
            not np.allclose(uniform, before.log_probs) and np.ptp(uniform) < 1e-3,
            "load_weights replaces all weights: with zeros every token is as likely as any other",
        )
        sampler.load_weights(weights, 9)
        again = self.play(request)[0]
        _require(
            np.array_equal(again.token_ids, before.token_ids),
            "load_weights leaves nothing of earlier weights, cached keys and values included",
        )
        part: Sequence[str] = list(weights)[1:]
        try:
            sampler.load_weights({name: weights[name] for name in part}, 10)
        except ValueError:
            pass
        else:
            _broken("load_weights refuses an incomplete set of weights with ValueError")
        sampler.submit(request)
        try:
            sampler.load_weights(weights, 11)
        except RuntimeError:
            pass
        else:
            _broken("load_weights raises RuntimeError while requests are running")
        while not sampler.is_idle():
            sampler.step()


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        _broken(sentence)


def _broken(sentence: str) -> NoReturn:
    raise SamplerContractError(f"{sentence}. See docs/your_own_sampler.md.")
