"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# Wall-clock limits of single examples would make busy machines fail. Examples are the same in every
# run.
settings.register_profile(
    "repository",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repository")
