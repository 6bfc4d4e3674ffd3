"""Text environments for language-model agents, registered with Gymnasium by importing this.

The ids point at their classes by name, so that importing this package imports no
environment:

    import gymnasium as gym
    import stepopsd_envs
    env = gym.make("stepopsd/ALFWorld-v0", size="tiny")

`gym.make` adds no wrapper: the text methods of `TextEnv` (`tasks`, `first_message`, ...) are not
part of Gymnasium and wrappers would hide them, and the environments end an episode themselves.
"""

import gymnasium

from stepopsd_envs.checks import TextEnvContractError, check_text_env
from stepopsd_envs.skill_rules import EpisodeSkills, RecordedTurn
from stepopsd_envs.text_env import HistoryTurn, TextEnv
from stepopsd_envs.text_space import UnicodeText

__all__ = [
    "EpisodeSkills",
    "HistoryTurn",
    "RecordedTurn",
    "TextEnv",
    "TextEnvContractError",
    "UnicodeText",
    "check_text_env",
]

_ENTRY_POINTS = {
    "stepopsd/ALFWorld-v0": "stepopsd_envs.alfworld.env:ALFWorldEnv",
    "stepopsd/SearchQA-v0": "stepopsd_envs.search_qa.env:SearchQAEnv",
    "stepopsd/WebShop-v0": "stepopsd_envs.webshop.env:WebShopEnv",
}

for _id, _entry_point in _ENTRY_POINTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point=_entry_point,
            order_enforce=False,
            disable_env_checker=True,
        )
