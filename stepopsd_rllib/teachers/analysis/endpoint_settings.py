"""Settings of the endpoint's analyzer, apart from its client, which takes a second to import."""

from __future__ import annotations

from dataclasses import dataclass

from stepopsd_rllib.config_keys import Check, number, or_none, require, whole


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSettings:
    """Where the analyzing model is, and what may be spent on it.

    Attributes:
        model: Name of the model, as the endpoint knows it.
        base_url: Address up to and including `/v1`; None for OpenAI's own.
        api_key_variable: Environment variable that holds the key. Unset, the placeholder "none" is
            sent, which local servers accept.
        max_step_skills: K, step skills an episode (authors' scripts: 5 ALFWorld, 2 Search-QA).
        max_completion_tokens: Length limit of a reply, tokens (authors' scripts: 4096).
        temperature: Sampling temperature; None leaves it to the endpoint.
        concurrency: Episodes analysed at a time (authors' scripts: 128).
        max_retries: Repeated requests after a failed one, for one reply (authors' code: 5).
        parse_attempts: Replies asked for; from the second on the error is shown (authors' code: 2).
        request_timeout_seconds: Longest wait for one reply.
        deadline_seconds: Longest wait for all the episodes of one call; what is not done is given
            up.
        first_backoff_seconds: Wait before the first retry; doubles each time, with jitter.
        price_per_million_prompt_tokens: For the cost counter.
        price_per_million_completion_tokens: For the cost counter.
    """

    model: str
    base_url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"
    max_step_skills: int = 5
    max_completion_tokens: int = 4096
    temperature: float | None = None
    concurrency: int = 128
    max_retries: int = 5
    parse_attempts: int = 2
    request_timeout_seconds: float = 60.0
    deadline_seconds: float = 300.0
    first_backoff_seconds: float = 0.5
    price_per_million_prompt_tokens: float = 0.0
    price_per_million_completion_tokens: float = 0.0

    def __post_init__(self) -> None:
        """Refuses settings that no request could be made with."""
        if not isinstance(self.model, str) or not self.model.strip():
            raise ValueError(
                f"config.analyzer.model={self.model!r}: the endpoint cannot be asked without a "
                "model name. Set it to a model that the endpoint serves."
            )
        require(self, _CHECKS, section="config.analyzer")


_CHECKS = {
    "base_url": Check(
        lambda v: v is None or (isinstance(v, str) and v.startswith(("http://", "https://"))),
        "an address that begins with http:// or https://, or none",
    ),
    "api_key_variable": Check(lambda v: isinstance(v, str), "the name of an environment variable"),
    "temperature": or_none(number(0)),
    "max_completion_tokens": whole(1),
    "concurrency": whole(1),
    "parse_attempts": whole(1),
    "max_step_skills": whole(0),
    "max_retries": whole(0),
    "request_timeout_seconds": number(above=0, unit="seconds"),
    "deadline_seconds": number(above=0, unit="seconds"),
    "first_backoff_seconds": number(0),
    "price_per_million_prompt_tokens": number(0),
    "price_per_million_completion_tokens": number(0),
}
