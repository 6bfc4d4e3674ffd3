"""What a teacher is told of every turn, as texts with a cap (SERL)."""

from __future__ import annotations

from typing import Any

from ray.rllib.utils.annotations import override

from stepopsd_rllib.connectors.episode_analysis import EPISODE_SKILLS
from stepopsd_rllib.connectors.hindsight import control_texts
from stepopsd_rllib.connectors.learner_connector import LearnerBatch, LearnerConnector
from stepopsd_rllib.episodes import Turn
from stepopsd_rllib.prompts.chat import ChatFormat
from stepopsd_rllib.teachers.analysis.analyzer import EpisodeSkills
from stepopsd_rllib.teachers.feedback import CLOSING, FeedbackSource, turn_texts
from stepopsd_rllib.teachers.text_control import TextControl


class TurnFeedback(LearnerConnector):
    """Puts the text of every turn into `shared_data[EPISODE_SKILLS]`, as its step skill.

    What stands at the end of the turn's message, closing sentence included, has at most
    `max_tokens`. A text beyond it is cut from its own end, and counted: a cut of the whole context
    would take what opens the response, and the teacher would score behind a broken prompt. A turn
    whose text has no room left is told nothing, and counted as cut.
    """

    def __init__(
        self,
        *,
        source: FeedbackSource,
        chat: ChatFormat,
        max_tokens: int,
        control: TextControl | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.source: FeedbackSource = source
        self.chat = chat
        self.max_tokens = max_tokens
        self.control = control

    @override(LearnerConnector)
    def fill(self, batch: LearnerBatch) -> None:
        """Collects the texts, caps them, and logs how many turns are told something."""
        episodes = batch.episodes
        texts = turn_texts(episodes, self.source, message_of=self._message)
        flat = control_texts(
            batch,
            self.control,
            [text for found in texts for text in found],
            [episode.task_id for episode in episodes for _ in episode.turns],
        )
        closing = f"\n\n{CLOSING}"
        room = max(0, self.max_tokens - len(self._encode(closing)))
        cut = {text: self._cut(text, room) for text in dict.fromkeys(flat)}
        told, rest = [], iter(flat)
        for found in texts:
            mine = {k: cut[text] for k, text in zip(range(len(found)), rest, strict=False)}
            step_skills = {k: text + closing for k, text in mine.items() if text.strip()}
            told.append(
                EpisodeSkills(episode_summary="", episode_skill="", step_skills=step_skills)
                if step_skills
                else None
            )
        batch.shared[EPISODE_SKILLS] = told
        num_due = sum(bool(text) for text in flat)
        num_told = sum(len(skills.step_skills) for skills in told if skills is not None)
        batch.log(
            {
                "told_turn_share": num_told / max(1, len(flat)),
                "told_cut_share": sum(cut[text] != text for text in flat) / max(1, num_due),
            }
        )

    def _encode(self, text: str) -> list[int]:
        return self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _cut(self, text: str, room: int) -> str:
        ids = self._encode(text) if text else []
        return text if len(ids) <= room else self.chat.text(ids[:room])

    def _message(self, turn: Turn) -> str:
        return self.chat.last_message(turn.prompt_ids.tolist())
