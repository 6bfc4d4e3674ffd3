"""What the environments read and write, against the outputs of the published programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from stepopsd_envs.alfworld import protocol as alfworld
from stepopsd_envs.search_qa import protocol as search_qa
from stepopsd_envs.search_qa import scoring
from stepopsd_envs.search_qa.env import SearchQAEnv
from stepopsd_envs.search_qa.retriever import Passage
from stepopsd_envs.text_env import HistoryTurn

from tests.helpers.golden_vectors import GoldenCase, golden

FEEDBACK_PLACEHOLDER = "<INVALID_FEEDBACK>"


def project_search(response: str) -> tuple[str, bool]:
    parsed = search_qa.parse_window(response)
    return parsed.text(), parsed.is_valid


PROJECTIONS: dict[str, Callable[[str], tuple[str, bool]]] = {
    "alfworld": alfworld.project_action,
    "webshop": lambda response: alfworld.project_action(
        response, fallback_characters=alfworld.WEBSHOP_FALLBACK_CHARACTERS
    ),
    "search": project_search,
}


class TwoPassages:
    """The retriever that the vectors describe."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        return [
            [
                Passage(id="0", contents=f"“T {query}”\nbody of {query}"),
                Passage(id="1", contents=f"second {query}"),
            ]
            for query in queries
        ]

    def close(self) -> None: ...


@golden("action_projection", tags=PROJECTIONS)
def test_projection(case: GoldenCase) -> None:
    action, is_valid = PROJECTIONS[case.tag](case.inputs["text"])
    case.check(action, case.outputs["action"], "action")
    case.check(int(is_valid), case.outputs["valid"], "valid")


@golden("history_format")
def test_history(case: GoldenCase) -> None:
    observations, actions = case.inputs["observations"], case.inputs["actions"]
    first = max(len(actions) - case.inputs["history_length"], 0)
    shown = [
        HistoryTurn(index=index, observation=observation, action=action)
        for index, (observation, action) in enumerate(zip(observations, actions, strict=True))
    ][first:]
    searched = search_qa.history_lines(
        [f"<search>{turn.action}</search>" for turn in shown],
        [f"<information>{turn.observation}</information>" for turn in shown],
        first_index=first,
    )
    case.check(len(shown), case.outputs["shown_steps"], "shown_steps")
    case.check(alfworld.history_lines(shown), case.outputs["embodied_history"], "embodied_history")
    case.check(searched, case.outputs["search_history"], "search_history")


@golden("em_scoring", tags=("pair",), other_tags=("full text",))
def test_match(case: GoldenCase) -> None:
    prediction, targets = case.inputs["prediction"], case.inputs["targets"]
    listed = [targets] if isinstance(targets, str) else targets
    for name, actual in (
        ("normalized_prediction", scoring.normalize_answer(prediction)),
        ("normalized_targets", [scoring.normalize_answer(target) for target in listed]),
        ("exact_match", int(scoring.exact_match(prediction, targets))),
        ("substring_match", int(scoring.substring_match(prediction, targets))),
    ):
        case.check(actual, case.outputs[name], name)


@golden("em_scoring", tags=("full text",), other_tags=("pair",))
def test_extraction(case: GoldenCase) -> None:
    text, targets = case.inputs["text"], case.inputs["targets"]
    for required, word in ((1, "one_match"), (2, "two_matches")):
        answer = scoring.last_answer(text, required_matches=required)
        score = answer is not None and scoring.exact_match(answer, targets)
        case.check(answer, case.outputs[f"answer_needing_{word}"], f"answer, {word}")
        case.check(int(score), case.outputs[f"score_needing_{word}"], f"score, {word}")


@golden("search_turn_protocol")
def test_append_protocol(case: GoldenCase) -> None:
    columns = dict(case.outputs.items())
    for index, response in enumerate(case.inputs["predictions"]):
        expected = {name: values[index] for name, values in columns.items()}
        if not case.inputs["active"][index]:  # such an episode is not stepped again
            assert expected["done"] == 1
            assert expected["observation"] == ""
            continue
        parsed = search_qa.parse_append(response)
        query = parsed.content
        found = [
            Passage(id="0", contents=f'"T {query}"\nbody of {query}\nline2'),
            Passage(id="1", contents=f"only title {query}"),
        ]
        observation = {
            "search": search_qa.append_information(
                found if case.inputs["retrieval_allowed"] else []
            ),
            "answer": "",
            None: FEEDBACK_PLACEHOLDER,
        }[parsed.kind]
        actual = {
            "truncated": search_qa.cut_after_action(response),
            "action": parsed.kind,
            "content": parsed.content,
            "observation": observation,
            "done": int(parsed.kind == "answer"),
            "valid": int(parsed.is_valid),
            "is_search": int(parsed.kind == "search"),
        }
        case.check(actual, expected, f"response {index}")


@golden("search_env_episode")
def test_window_episode(case: GoldenCase, tmp_path: Path) -> None:
    row = {"id": "0", "question": "what is it", "golden_answers": case.inputs["targets"]}
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(row | {"data_source": "nq"}), encoding="utf-8")
    env = SearchQAEnv(
        data={"train": str(file)},
        retriever=TwoPassages(),
        protocol="window",
        max_turns=case.inputs["max_turns"],
    )
    env.reset(options={"task": "nq/0"})
    steps = []
    for action in case.inputs["actions"]:
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        steps.append({"observation": observation, "reward": reward, "done": done})
        steps[-1]["won"] = info["won"]
        if done:
            break
    case.check(steps, case.outputs["steps"], "steps")


def test_every_golden_file_has_a_test() -> None:
    folder = Path(__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("test_*.py"))
    untested = [
        path.stem for path in folder.glob("*.json") if f'golden("{path.stem}"' not in source
    ]
    assert untested == []


def test_unknown_tags_are_refused() -> None:
    with pytest.raises(ValueError, match=r"action_projection\.json: no test knows the tags \['"):
        golden("action_projection", tags=())


def test_fields_that_a_test_does_not_read_are_reported() -> None:
    @golden("turn_index")
    def reads_nothing(case: GoldenCase) -> None: ...

    (mark,) = reads_nothing.pytestmark
    with pytest.raises(AssertionError, match=r"does not know \['traj_id', 'turn_index'\]"):
        reads_nothing(case=mark.args[1][0])
