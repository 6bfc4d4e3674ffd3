"""HGPO, GraphGPO and G2PO through whole learner pipelines, against loops over plain floats."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
from stepopsd_envs.alfworld.env import ALFWorldEnv

from stepopsd_rllib import ALGORITHMS
from stepopsd_rllib.connectors.turn_states import successors
from stepopsd_rllib.episodes import AgentEpisode
from tests.helpers.agents import SMALL
from tests.helpers.houses import BARE
from tests.helpers.pipelines import Pipeline, config_of, recorded_groups, run_pipeline

LAYOUTS = pytest.mark.parametrize(
    ("context", "rows"), [("append", "episodes"), ("window", "rows")], ids=["append", "window"]
)
SCALES = pytest.mark.parametrize("normalize", [False, True])
Key = tuple[int, int]


def visiting(context: str) -> list[list[AgentEpisode]]:
    """Recorded groups whose episodes meet in states, go round in circles, and end somewhere."""

    def walked(episode: AgentEpisode) -> AgentEpisode:
        texts = ["start", "hall" if episode.rollout % 2 else "room", "start", "desk"]
        turns = [replace(t, anchor=texts[k % 4]) for k, t in enumerate(episode.turns)]
        return replace(episode, turns=tuple(turns), final_anchor="hall")

    return [[walked(episode) for episode in group] for group in recorded_groups(context)]


def centred(values: dict[Key, float], groups: dict[Key, Any], *, scale: bool, less: int) -> dict:
    """Each value less the mean of its group, over the deviation."""
    found = {}
    for key, value in values.items():
        alike = [values[other] for other in values if groups[other] == groups[key]]
        found[key] = value - statistics.fmean(alike)
        if max(alike) - min(alike) < 1e-8:
            found[key] = 0.0
        elif scale:
            found[key] /= (statistics.stdev if less else statistics.pstdev)(alike) + 1e-6
    return found


def expect(pipeline: Pipeline, expected: dict[Key, float]) -> None:
    for (n, k), value in expected.items():
        size = len(pipeline.episodes[n].turns[k].response_ids)
        found = pipeline.tokens("advantages", n, k)
        assert found == pytest.approx([value] * size, abs=2e-5, rel=1e-4), (n, k)
    assert any(pipeline.episodes[n].turns[k].is_action_valid is False for n, k in expected)
    grpo = pipeline.group_advantages()
    assert any(abs(expected[key] - grpo[key]) > 1e-3 for key in expected), "it is not GRPO"


def penalty(pipeline: Pipeline, key: Key) -> float:
    return 0.1 * (not pipeline.episodes[key[0]].turns[key[1]].is_action_valid)


def state(pipeline: Pipeline, key: Key) -> tuple[int, str]:
    episode = pipeline.episodes[key[0]]
    return episode.group, episode.turns[key[1]].anchor


@LAYOUTS
@SCALES
@pytest.mark.parametrize("outcome", [False, True])
def test_hgpo_spelt_out(context, rows, normalize, outcome):
    config = config_of(
        "HGPO",
        context=context,
        advantage_statistics=rows,
        normalize_advantages=normalize,
        step_discount=0.9,
        weight_power=1.5,
        outcome_level=outcome,
        lambda_mix=0.7,
    )
    pipeline = run_pipeline(config, visiting(context))
    returns, grpo = {}, pipeline.group_advantages()
    for n, episode in enumerate(pipeline.episodes):
        following = 0.0
        for k in reversed(range(len(episode.turns))):
            following = episode.turns[k].reward + 0.9 * following
            returns[n, k] = following - penalty(pipeline, (n, k))
    sums = {key: (grpo[key], 1.0) if outcome and grpo[key] else (0.0, 0.0) for key in returns}
    for level in (1, 2, 3):
        histories = {}
        for n, k in returns:
            known = k + 1 >= level
            past = tuple(state(pipeline, (n, j)) for j in range(k - level + 1, k + 1) if j >= 0)
            histories[n, k] = past if known else (n, k)
        found = centred(returns, histories, scale=normalize, less=0)
        for key, value in found.items():
            if abs(value) >= 1e-8:
                weight = (level + 1) ** 1.5
                sums[key] = (sums[key][0] + weight * value, sums[key][1] + weight)
    assert len({weights for _, weights in sums.values()}) > 2, "levels differ from turn to turn"
    mixed = {key: total / (weights + 1e-6) for key, (total, weights) in sums.items()}
    expect(pipeline, {key: 0.3 * grpo[key] + 0.7 * mixed[key] for key in mixed})


def distances(edges: list[tuple[str, str]]) -> dict[str, int]:
    """Shortest paths to "GOAL", by walking backwards from it."""
    found, waiting = {"GOAL": 0}, deque(["GOAL"])
    while waiting:
        node = waiting.popleft()
        for start, end in edges:
            if end == node and start not in found:
                found[start] = found[node] + 1
                waiting.append(start)
    beyond = max(found.values()) + 1
    return {node: found.get(node, beyond) for edge in edges for node in edge}


@LAYOUTS
@SCALES
@pytest.mark.parametrize("measured", [False, True])
def test_graphgpo_spelt_out(context, rows, normalize, measured):
    config = config_of(
        "GraphGPO",
        context=context,
        advantage_statistics=rows,
        normalize_advantages=normalize,
        normalize_distance=measured,
        distance_discount=0.5,
        step_weight=0.8,
        outcome_weight=0.6,
    )
    pipeline = run_pipeline(config, visiting(context))
    edges: dict[int, dict[Key, tuple[str, str]]] = {}
    for n, k in pipeline.turns():
        episode = pipeline.episodes[n]
        ended = "GOAL" if episode.won else "hall"
        after = episode.turns[k + 1].anchor if k + 1 < len(episode.turns) else ended
        edges.setdefault(episode.group, {})[n, k] = (episode.turns[k].anchor, after)
    returns = {}
    for walks in edges.values():
        to_goal = distances(list(walks.values()))
        for key, (before, after) in walks.items():
            exponent = to_goal[after] - (to_goal[before] - 1 if measured else 0)
            returns[key] = 10 * 0.5**exponent - penalty(pipeline, key)
    groups = {key: state(pipeline, key) for key in returns}
    steps = centred(returns, groups, scale=normalize, less=1)
    grpo = pipeline.group_advantages()
    expect(pipeline, {key: 0.8 * steps[key] + 0.6 * grpo[key] for key in steps})


@LAYOUTS
@SCALES
def test_g2po_spelt_out(context, rows, normalize):
    config = config_of(
        "G2PO",
        context=context,
        advantage_statistics=rows,
        normalize_advantages=normalize,
        step_weight=0.8,
        largest_return=2.0,
    )
    pipeline = run_pipeline(config, visiting(context))
    states = {key: state(pipeline, key) for key in pipeline.turns()}
    worth = {
        (n, k): 0.95 ** (len(pipeline.episodes[n].turns) - k) * pipeline.episodes[n].return_
        for n, k in states
    }
    value = {
        key: statistics.fmean(worth[other] for other in states if states[other] == states[key])
        for key in states
    }
    following = {}
    for n, k in states:
        end = 2.0 if pipeline.episodes[n].won else 0.0
        following[n, k] = value.get((n, k + 1), end)
    after = {key: following[key] - penalty(pipeline, key) for key in states}
    change = {key: following[key] - value[key] for key in states}
    tasks = {(n, k): pipeline.episodes[n].group for n, k in states}
    one = centred(after, states, scale=normalize, less=1)
    other = centred(change, tasks, scale=normalize, less=1)
    grpo = pipeline.group_advantages()
    expect(pipeline, {key: grpo[key] + 0.8 * (one[key] + other[key]) for key in states})


def test_an_episode_leads_to_where_it_ended():
    (won, lost, _), *_ = visiting("append")
    assert successors([replace(won, won=True)])[-1] not in {"", "start", "room", "hall", "desk"}
    assert successors([replace(lost, won=False)])[-1] == "hall"
    assert successors([lost])[:-1] == [turn.anchor for turn in lost.turns[1:]]


class Unnamed(ALFWorldEnv):
    """Houses whose states have no name."""

    def _info(self, *args: Any) -> dict[str, Any]:
        return super()._info(*args) | {"anchor": ""}


@pytest.mark.parametrize("name", ["GiGPO", "HGPO", "GraphGPO", "G2PO", "UCOB", "ICSD"])
def test_an_environment_that_does_not_name_its_states_is_refused_before_the_run(name):
    config = ALGORITHMS[name].get_default_config()
    config.environment(Unnamed, env_config=BARE)
    keys = {"UCOB": {"skills": "alfworld_brief", "step_weight": 0.0}}.get(name, {})
    keys |= {"ICSD": {"step_weight": 1.0, "skills": "alfworld_brief"}}.get(name, {})
    config.update_from_dict({**SMALL, "teacher_top_tokens": 5} if name == "UCOB" else SMALL)
    config.update_from_dict(keys | ({"skill_max_tokens": 512} if name == "ICSD" else {}))
    with pytest.raises(ValueError, match=f"{name} compares turns .*info\\['anchor'\\]") as refusal:
        config.check_first_task({"anchor": ""})
    assert len(str(refusal.value).splitlines()) == 1
    neutral = {"GraphGPO": {"step_weight": 0.0}, "HGPO": {"lambda_mix": 0.0}}
    zero = neutral.get(name, {"step_weight": 0.0, "distillation_coeff": 0.0})
    config.update_from_dict({k: v for k, v in zero.items() if hasattr(config, k)})
    config.check_first_task({"anchor": ""})


def test_success_needs_a_value():
    class Silent(ALFWorldEnv):
        """Houses that do not say their largest return."""

        @classmethod
        def says(cls, name: str) -> bool:
            return name != "largest_return" and super().says(name)

    config = ALGORITHMS["G2PO"].get_default_config()
    config.environment(Silent, env_config=BARE)
    config.update_from_dict(SMALL)
    with pytest.raises(ValueError, match=r"largest_return=None: G2PO gives .* set largest_return"):
        config.validate()
    config.largest_return = 1.0
    config.validate()
