"""The algorithms, one paper a file, and the names under which Tune and tuned examples know them."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm

from stepopsd_rllib.algorithms.adrs import ADRS, ADRSConfig
from stepopsd_rllib.algorithms.agentopsd import AgentOPSD, AgentOPSDConfig
from stepopsd_rllib.algorithms.g2po import G2PO, G2POConfig
from stepopsd_rllib.algorithms.gigpo import GiGPO, GiGPOConfig
from stepopsd_rllib.algorithms.graphgpo import GraphGPO, GraphGPOConfig
from stepopsd_rllib.algorithms.grpo import GRPO, GRPOConfig
from stepopsd_rllib.algorithms.grsd import GRSD, GRSDConfig
from stepopsd_rllib.algorithms.hgpo import HGPO, HGPOConfig
from stepopsd_rllib.algorithms.icsd import ICSD, ICSDConfig
from stepopsd_rllib.algorithms.opid import OPID, OPIDConfig
from stepopsd_rllib.algorithms.opsd import OPSD, OPSDConfig
from stepopsd_rllib.algorithms.rlsd import RLSD, RLSDConfig
from stepopsd_rllib.algorithms.sdar import SDAR, SDARConfig
from stepopsd_rllib.algorithms.seed import SEED, SEEDConfig
from stepopsd_rllib.algorithms.serl import SERL, SERLConfig
from stepopsd_rllib.algorithms.skill_grpo import SkillGRPO, SkillGRPOConfig
from stepopsd_rllib.algorithms.skill_sd import SkillSD, SkillSDConfig
from stepopsd_rllib.algorithms.stepopsd import StepOPSD, StepOPSDConfig
from stepopsd_rllib.algorithms.ucob import UCOB, UCOBConfig

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.__name__: algorithm
    for algorithm in (
        GRPO,
        StepOPSD,
        SDAR,
        OPSD,
        SkillSD,
        SkillGRPO,
        RLSD,
        OPID,
        AgentOPSD,
        GiGPO,
        HGPO,
        GraphGPO,
        G2PO,
        GRSD,
        ADRS,
        UCOB,
        SERL,
        ICSD,
        SEED,
    )
}

__all__ = [
    "ADRS",
    "ALGORITHMS",
    "G2PO",
    "GRPO",
    "GRSD",
    "HGPO",
    "ICSD",
    "OPID",
    "OPSD",
    "RLSD",
    "SDAR",
    "SEED",
    "SERL",
    "UCOB",
    "ADRSConfig",
    "AgentOPSD",
    "AgentOPSDConfig",
    "G2POConfig",
    "GRPOConfig",
    "GRSDConfig",
    "GiGPO",
    "GiGPOConfig",
    "GraphGPO",
    "GraphGPOConfig",
    "HGPOConfig",
    "ICSDConfig",
    "OPIDConfig",
    "OPSDConfig",
    "RLSDConfig",
    "SDARConfig",
    "SEEDConfig",
    "SERLConfig",
    "SkillGRPO",
    "SkillGRPOConfig",
    "SkillSD",
    "SkillSDConfig",
    "StepOPSD",
    "StepOPSDConfig",
    "UCOBConfig",
]
