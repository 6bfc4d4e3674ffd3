"""Settings that all tests share."""

import logging
from pathlib import Path

import pytest
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


@pytest.fixture(scope="module")
def local_ray():
    """A small Ray of this test module's own, without dashboard."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def build(local_ray):
    """Builds algorithms of configs, and ends them after the test."""
    algorithms = []

    def make(config):
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield make
    for algorithm in algorithms:
        algorithm.stop()


@pytest.fixture(scope="session")
def real_run(tmp_path_factory) -> Path:
    """The folder of one real run; see `tests.helpers.real_run`."""
    from tests.helpers.real_run import make_real_run

    return make_real_run(tmp_path_factory.mktemp("real"))
