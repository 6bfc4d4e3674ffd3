"""UCOB from recorded episodes: teacher contexts, loss and gradient against a slow loop."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from transformers import AutoModelForCausalLM

from stepopsd_rllib import UCOBConfig
from stepopsd_rllib.connectors.branch_teacher import BranchTeacher
from stepopsd_rllib.connectors.token_batch import TokenBatch
from stepopsd_rllib.episodes import AgentEpisode, to_rllib
from stepopsd_rllib.rollout.turn_loop import EpisodeRequest
from tests.helpers.agents import NO_REGULARISATION, SMALL, build_learner, random_groups, update
from tests.helpers.dense import dense
from tests.helpers.houses import BARE

TOP, GAMMA, PENALTY, TEMPERATURE = 5, 0.9, 0.1, 0.8
ALONE = {"policy_coeff": 0.0, "step_weight": 0.0, "grad_clip": None}
STATES = {"penalty": PENALTY, "discount": GAMMA, "similarity": None}


def ucob_config(context: str = "append", **training) -> UCOBConfig:
    config = UCOBConfig().environment(env="stepopsd/ALFWorld-v0", env_config=BARE)
    config.agent(
        **{**SMALL, "temperature": TEMPERATURE, "context": context, "max_sampler_difference": None}
    )
    return config.training(
        **{
            "lr": 3e-4,
            "skills": "alfworld_brief",
            "step_discount": GAMMA,
            "invalid_action_penalty": PENALTY,
            "teacher_top_tokens": TOP,
            "distillation_coeff": 0.5,
            **NO_REGULARISATION,
            **training,
        }
    )


def branched_groups(context: str) -> list[list[AgentEpisode]]:
    """Groups of two branches that meet in some states; every other group the plain one wins."""
    groups = random_groups((4, 3, 4), context=context)

    def with_branch(episode: AgentEpisode) -> AgentEpisode:
        is_informed = (episode.rollout % 2 == 0) == (episode.group % 2 == 0)
        turns = tuple(
            dataclasses.replace(turn, anchor=f"state {min(k, 1)}")
            for k, turn in enumerate(episode.turns)
        )
        return dataclasses.replace(
            episode, turns=turns, preamble="- Look first.\n\n" if is_informed else ""
        )

    return [[with_branch(episode) for episode in group] for group in groups]


@dataclasses.dataclass
class Visit:
    """One turn: whose it is, its return, and the tokens before and in its response."""

    key: tuple[int, str]
    informed: bool
    return_: float
    context: list[int]
    response: list[int]


def visits_of(groups: list[list[AgentEpisode]]) -> list[Visit]:
    visits = []
    for episode in (e for group in groups for e in group):
        chat: list[int] = []
        for k, turn in enumerate(episode.turns):
            chat = (chat if episode.context == "append" else []) + turn.prompt_ids.tolist()
            return_ = sum(GAMMA**j * t.reward for j, t in enumerate(episode.turns[k:]))
            return_ -= PENALTY * (not turn.is_action_valid)
            response = turn.response_ids.tolist()
            key = (episode.group, turn.anchor)
            visits.append(Visit(key, bool(episode.preamble), return_, list(chat), response))
            chat += response
    return visits


def lessons(visits: list[Visit]) -> list[tuple[Visit, Visit, float]]:
    """(student, teacher, weight) of every turn that is taught."""
    found = []
    for student in visits:
        own = [v for v in visits if v.key == student.key and v.informed == student.informed]
        other = [v for v in visits if v.key == student.key and v.informed != student.informed]
        if not other:
            continue
        mean = [sum(v.return_ for v in branch) / len(branch) for branch in (other, own)]
        gap = mean[0] - mean[1]
        if gap > 0.05:
            teacher = max(other, key=lambda v: v.return_)  # the first of equals
            found.append((student, teacher, min(max(gap / 0.2, 0.0), 2.0)))
    return found


def rows(model, context: list[int], response: list[int]) -> torch.Tensor:
    """Log-distribution before each token of a response, [tokens, vocabulary]."""
    logits = model(torch.tensor([context + response])).logits[0] / TEMPERATURE
    return logits[len(context) - 1 : -1].log_softmax(-1)


def slow_loss(model, groups: list[list[AgentEpisode]], *, renormalize: bool = True):
    """0.5 · Σ w · σ(5·(lp_T − lp)) · KL over the top tokens / sampled tokens, in float64."""
    visits = visits_of(groups)
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher, weight in lessons(visits):
        with torch.no_grad():
            teacher_rows = rows(model, teacher.context, student.response)
        for p, q, token in zip(
            teacher_rows,
            rows(model, student.context, student.response),
            student.response,
            strict=True,
        ):
            top = p.topk(TOP).indices
            gate = torch.sigmoid(5.0 * (p[token] - q[token].detach()))
            p, q = p[top], q[top]
            if renormalize:
                p, q = p.log_softmax(0), q.log_softmax(0)
            total = total + weight * gate * (p.exp() * (p - q)).sum()
    return 0.5 * total / sum(len(visit.response) for visit in visits)


def gradient(groups, config: UCOBConfig):
    learner = build_learner(config)
    metrics = update(learner, groups)
    named = learner.language_module.language_model.named_parameters()
    return {name: p.grad.clone() for name, p in named}, metrics


def relative_difference(left, right) -> float:
    scale = max(float(value.abs().max()) for value in left.values())
    return max(float((left[n] - right[n]).abs().max()) for n in left) / scale


@pytest.mark.parametrize("context", ["append", "window"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_loss_and_gradient_are_those_of_a_slow_loop_in_float64(context, renormalize):
    groups = branched_groups(context)
    taught = lessons(visits_of(groups))
    assert {student.informed for student, _, _ in taught} == {True, False}, "both directions"
    config = ucob_config(context, renormalize_top_tokens=renormalize, **ALONE)
    fast, metrics = gradient(groups, config)
    model = AutoModelForCausalLM.from_pretrained(config.model_path(), dtype=torch.float64)
    expected = slow_loss(model, groups, renormalize=renormalize)
    expected.backward()
    slow = {name: p.grad.float() for name, p in model.named_parameters()}
    assert metrics["total_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["distillation_loss"] == pytest.approx(2 * expected.item(), rel=1e-4)
    assert relative_difference(slow, fast) < 1e-3
    assert metrics["taught_turn_share"] == pytest.approx(len(taught) / len(visits_of(groups)))
    informed = sum(not student.informed for student, _, _ in taught) / len(taught)
    assert metrics["taught_by_informed_share"] == pytest.approx(informed)
    weights = [weight for *_, weight in taught]
    assert metrics["branch_weight_mean"] == pytest.approx(sum(weights) / len(weights))
    assert 0 < metrics["gate_mean"] < 1 and metrics["top_token_kl_mean"] > 0


@pytest.mark.parametrize("context", ["append", "window"])
def test_neither_micro_batches_nor_row_order_change_the_gradient(context):
    groups = branched_groups(context)
    whole, _ = gradient(groups, ucob_config(context, grad_clip=None))
    config = ucob_config(context, grad_clip=None)
    config.micro_batch_tokens = 30
    split, metrics = gradient(groups, config)
    # Whole groups in another order: within one, the first of equal visits is the teacher.
    turned, _ = gradient(groups[::-1], ucob_config(context, grad_clip=None))
    assert relative_difference(whole, split) < 1e-5
    assert relative_difference(whole, turned) < 1e-5
    assert metrics["teacher_tokens_forwarded"] > 0


def test_minibatches_and_epochs_take_each_lesson_from_the_old_policy():
    groups = branched_groups("window")
    learner = build_learner(ucob_config("window", minibatch_size=4, num_epochs=2))
    metrics = update(learner, groups)
    assert learner.num_optimizer_steps > 2 and metrics["distillation_loss"] > 0


def columns_of(groups, config: UCOBConfig, **settings):
    learner = build_learner(config)
    episodes = [to_rllib(episode) for group in groups for episode in group]
    shared: dict = {}
    batch = TokenBatch()(rl_module=None, batch={}, episodes=episodes, shared_data=shared)
    piece = BranchTeacher(
        **{
            "num_informed": 2,
            "states": STATES,
            "smallest_gap": 0.05,
            "gap_scale": 0.2,
            "largest_weight": 2.0,
            "top_tokens": TOP,
            "max_tokens": 4096,
            **settings,
        }
    )
    written = piece(rl_module=learner.module, batch=batch, shared_data=shared)
    return dense(written[DEFAULT_MODULE_ID])


def test_nothing_is_as_large_as_tokens_times_top_tokens_and_nothing_has_a_gradient():
    columns = columns_of(branched_groups("append"), ucob_config())
    num_taught = int(columns["is_scored"].sum())
    assert 0 < num_taught < int(columns["response_mask"].sum())
    assert columns["taught_top_ids"].shape == (num_taught, TOP)
    assert columns["taught_top_log_probs"].shape == (num_taught, TOP)
    assert columns["taught_weights"].shape == (num_taught,)
    assert torch.equal(columns["taught_token"][columns["is_scored"]], torch.arange(num_taught))
    assert not any(column.requires_grad for column in columns.values())
    assert bool((columns["is_scored"] <= columns["response_mask"]).all())


def test_gaps_below_the_threshold_teach_nothing_and_leave_gigpo():
    groups = branched_groups("append")
    assert not bool(columns_of(groups, ucob_config(), smallest_gap=9.0)["is_scored"].any())
    silent, metrics = gradient(groups, ucob_config(min_return_gap=9.0, grad_clip=None))
    gigpo, _ = gradient(groups, ucob_config(distillation_coeff=0.0, grad_clip=None))
    assert relative_difference(gigpo, silent) < 1e-6
    assert metrics["distillation_loss"] == metrics["taught_turn_share"] == 0.0


def test_a_branch_whose_skills_are_all_blank_is_refused():
    groups = [[dataclasses.replace(e, preamble="") for e in g] for g in branched_groups("append")]
    with pytest.raises(RuntimeError, match="not one of the 6 rollouts that are to be informed"):
        columns_of(groups, ucob_config())
    # Where these rollouts were lost to errors, the others are plain, and nothing is taught.
    plain = [[e for e in group if e.rollout >= 2] for group in groups]
    assert not bool(columns_of(plain, ucob_config())["is_scored"].any())


@pytest.mark.parametrize(("share", "size", "count"), [(0.5, 8, 4), (0.25, 8, 2), (0.5, 3, 2)])
def test_the_first_rollouts_of_a_group_are_informed_and_evaluation_is_not(share, size, count):
    config = ucob_config(informed_share=share)
    config.group_size = size
    assert config.num_informed_rollouts() == count
    preamble = config.rollout_settings(explore=True).preamble
    info = {"task_id": "t", "task_type": "pick_heat_then_place_in_recep"}

    def text(rollout: int) -> str:
        assert preamble is not None
        request = EpisodeRequest(task_id="t", group=0, rollout=rollout, seed=0)
        return preamble(request, info, "You see a fridge.")

    assert all("microwave" in text(i) for i in range(count))
    assert not any(text(i) for i in range(count, size))
    assert config.rollout_settings(explore=False).preamble is None
    config.eval_skills = True
    assert config.rollout_settings(explore=False).preamble is not None
