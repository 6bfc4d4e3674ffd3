from __future__ import annotations

from typing import Any

from stepopsd_envs.alfworld.env import ALFWorldEnv
from stepopsd_envs.skill_rules import Effect, effects, workflow

from stepopsd_rllib.teachers.analysis.analyzer import AnalyzerFailure, EpisodeRecord, Outcome
from stepopsd_rllib.teachers.analysis.rule_analyzer import RuleAnalyzer

GOAL = "put some apple on sidetable"


class Recorded:
    def __init__(self, observation: str, action: str, is_action_valid: bool = True) -> None:
        self.observation = observation
        self.response = f"<action>{action}</action>"
        self.action = action
        self.is_action_valid = is_action_valid


def record(outcome: Outcome, *turns: Any) -> EpisodeRecord:
    return EpisodeRecord(task=GOAL, outcome=outcome, turns=turns)


SOLVED = record(
    "success",
    Recorded("You are in the middle of a room.", "go to drawer 1"),
    Recorded("The drawer 1 is closed.", "open drawer 1"),
    Recorded("You open the drawer 1. In it, you see nothing.", "go to fridge 1"),
    Recorded("The fridge 1 is closed.", "take apple 1 from fridge 1"),
    Recorded("Nothing happens.", "open fridge 1"),
    Recorded("You open the fridge 1. In it, you see a apple 1.", "take apple 1 from fridge 1"),
    Recorded("You pick up the apple 1 from the fridge 1.", "go to sidetable 1"),
    Recorded("On the sidetable 1, you see nothing.", "move apple 1 to sidetable 1"),
)


def test_the_effect_of_a_turn_is_read_off_the_next_observation() -> None:
    turns = [
        Recorded("a", "look"),
        Recorded("b", "look"),
        Recorded("b", "look"),
        Recorded("b", "take it"),
        Recorded("Nothing happens.", "", is_action_valid=False),
        Recorded("c", "go to desk 1"),
    ]
    assert effects(turns, refusals=ALFWorldEnv.refusals or ()) == [
        Effect.PROGRESS,
        Effect.REPEATED,
        Effect.REPEATED,
        Effect.REFUSED,
        Effect.INVALID,
        Effect.PROGRESS,
    ]


def test_the_workflow_leaves_refusals_and_fruitless_visits_out() -> None:
    path = workflow(
        SOLVED.turns,
        effects(SOLVED.turns, refusals=ALFWorldEnv.refusals or ()),
        exploring=ALFWorldEnv.exploring_commands,
        moving=ALFWorldEnv.moving_commands,
    )
    assert [SOLVED.turns[index].action for index in path] == [
        "go to fridge 1",
        "open fridge 1",
        "take apple 1 from fridge 1",
        "go to sidetable 1",
        "move apple 1 to sidetable 1",
    ]


def test_a_success_teaches_its_workflow_and_the_turns_that_acted() -> None:
    skills = RuleAnalyzer(ALFWorldEnv).analyze(SOLVED)
    assert skills is not None
    assert "`take apple 1 from fridge 1`, then `go to sidetable 1`" in skills.episode_skill
    assert "drawer" not in skills.episode_skill
    assert set(skills.step_skills) == {5, 7}
    assert "`move apple 1 to sidetable 1`" in skills.step_skills[7]


def test_a_failure_teaches_what_to_avoid() -> None:
    skills = RuleAnalyzer(ALFWorldEnv).analyze(
        record(
            "failure",
            Recorded("a room", "open apple 1"),
            Recorded("Nothing happens.", "open apple 1"),
            Recorded("Nothing happens.", "let me think", is_action_valid=False),
            Recorded("Nothing happens.", "go to desk 1"),
        )
    )
    assert skills is not None
    assert "`open apple 1` was refused 2 times" in skills.episode_skill
    assert "1 of 4 responses had none" in skills.episode_skill
    assert set(skills.step_skills) == {0, 1, 2}
    assert skills.step_skills[0] == "Do not do `open apple 1` here: it was refused."


def test_a_failure_without_a_wasted_turn_names_what_was_tried() -> None:
    skills = RuleAnalyzer(ALFWorldEnv).analyze(
        record("failure", Recorded("a", "go to desk 1"), Recorded("b", "go to bed 1"))
    )
    assert skills is not None
    assert "`go to desk 1`, `go to bed 1`" in skills.episode_skill
    assert skills.step_skills == {}


def test_every_quoted_action_was_really_taken() -> None:
    skills = RuleAnalyzer(ALFWorldEnv).analyze(SOLVED)
    assert skills is not None
    texts = [skills.episode_skill, *skills.step_skills.values()]
    quoted = {piece for text in texts for piece in text.split("`")[1::2]}
    assert quoted <= {turn.action for turn in SOLVED.turns}


def test_at_most_so_many_step_skills() -> None:
    skills = RuleAnalyzer(ALFWorldEnv, max_step_skills=1).analyze(SOLVED)
    assert skills is not None
    assert list(skills.step_skills) == [7]


def test_no_skill_is_made_up_without_a_record_or_an_outcome() -> None:
    analyzer = RuleAnalyzer(ALFWorldEnv)
    unknown = record("unknown", Recorded("a", "go to desk 1"))
    assert analyzer.analyze_many([record("success"), unknown]) == [None, None]
    assert analyzer.counts.failures == {AnalyzerFailure.NOTHING_RECORDED: 2}
    assert (analyzer.counts.episodes, analyzer.counts.successes) == (2, 0)


def test_rules_that_raise_cost_the_episode_alone() -> None:
    class Odd(ALFWorldEnv):
        """Rules that do not know every action."""

        @classmethod
        def skill_rules(cls, task: str, turns: Any, **settings: Any) -> Any:
            if turns[0].action == "dance":
                raise KeyError("dance")
            return super().skill_rules(task, turns, **settings)

    analyzer = RuleAnalyzer(Odd)
    danced = record("success", Recorded("a", "dance"))
    skills = analyzer.analyze_many([SOLVED, danced, SOLVED])
    assert [found is not None for found in skills] == [True, False, True]
    assert analyzer.counts.failures == {AnalyzerFailure.RULES_FAILED: 1}
    assert analyzer.counts.successes == 2
