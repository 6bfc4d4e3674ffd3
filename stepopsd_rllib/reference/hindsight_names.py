"""Names of hindsight sources that the authors' program knows, aliases included."""

from __future__ import annotations

from stepopsd_rllib.teachers.contexts import InfoMode

_INFO_MODES: dict[str, InfoMode] = {
    "none": "none",
    "off": "none",
    "disabled": "none",
    "peer_traj": "peer_traj",
    "peer": "peer_traj",
    "peer_correct_trajectory": "peer_traj",
    "golden_rollout": "golden_rollout",
    "golden": "golden_rollout",
    "gold": "golden_rollout",
}


def info_mode(name: str) -> InfoMode:
    """The mode that a configuration of the authors' program means, aliases included.

    Follows their code in taking an unknown name for "none". This package's own configuration
    refuses it.
    """
    return _INFO_MODES.get(name.strip().lower(), "none")
