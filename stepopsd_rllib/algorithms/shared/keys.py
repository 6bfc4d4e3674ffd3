"""Keys that several methods have; `dataclasses.replace` gives one another default."""

from __future__ import annotations

from typing import get_args

from stepopsd_rllib.config_keys import (
    FLAG,
    Check,
    is_int,
    is_number,
    key,
    number,
    of_type,
    one_of,
    or_none,
    whole,
)
from stepopsd_rllib.teachers.skill_retrieval import SKILL_RETRIEVALS
from stepopsd_rllib.teachers.text_control import TeacherText

PACKAGED = "packaged"

HALF_WIDTH = Check(
    lambda v: is_number(v, 0) and v < 1, "in [0, 1), or the sign of the advantage could flip"
)
UPDATE = Check(lambda v: is_int(v, 1), "the number of an update, at least 1")

SKILLS = key(
    PACKAGED,
    of_type(str, "'packaged', a name, or a path"),
    "skills: 'packaged', the first library that the environment brings; the name of another; or a "
    "folder of Markdown files or a JSON bank",
)
SKILL_RETRIEVAL = key(
    "task",
    one_of(*SKILL_RETRIEVALS),
    "choice of skills: as the environment says, by the words of the task, at random, or all",
)
EVAL_SKILLS = key(
    False, FLAG, "skills in the evaluation prompts (the starred rows of the published tables)"
)
TEACHER = key("live", one_of("live", "stale"), "teacher: the current policy, or a snapshot of it")
REFRESH_INTERVAL = key(
    10,
    whole(1, "updates"),
    "updates between snapshots of a stale teacher; the first ones use the initial weights",
    paper="10",
)
TOP_TOKENS = key(
    128, whole(1, "tokens"), "most likely tokens of the teacher that are told apart", symbol="K"
)
ANALYZER = key(
    "rules",
    Check(lambda v: isinstance(v, str | dict), "'rules', 'policy', or a mapping"),
    "analyzer of finished episodes: 'rules'; 'policy', or a mapping with `engine: policy` and keys "
    "of `PolicySettings`; or the keys of `EndpointSettings`, of which `model` is needed",
)
STEP_DISCOUNT = key(
    0.95, number(0, 1), "discount a turn of the returns of states", symbol="γ", paper="0.95"
)
LARGEST_RETURN = key(
    None,
    or_none(number(above=0)),
    "return of a perfect episode; none takes what the environment says",
)
TEACHER_TEXT = key(
    "own",
    one_of(*get_args(TeacherText)),
    "text that the teacher is told: its own, another task's of the batch, an unrelated one of "
    "about as many tokens, or none; the last three are controls",
)
