"""Every metric is on the page of metrics."""

from pathlib import Path

import pytest

from stepopsd_rllib.episodes import Status
from stepopsd_rllib.evaluation.success import episode_metrics
from stepopsd_rllib.report.metric_names import PLACES, is_documented, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    written = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == page(), "python -m stepopsd_rllib.report.metric_names > docs/metrics.md"


@pytest.mark.parametrize("name", episode_metrics([]))
def test_what_episodes_say_is_documented(name: str):
    flat = f"{name}/{Status.SUCCESS}" if name in ("status", "task_type") else name
    assert is_documented("env_runners", flat) or is_documented("env_runners", f"{flat}/x")


def test_no_metric_stands_twice_in_a_place():
    for _, metrics in PLACES.values():
        assert len({metric.name for metric in metrics}) == len(metrics)
