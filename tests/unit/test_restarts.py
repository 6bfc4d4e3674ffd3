"""Which failed trials go on by themselves, how often, and what becomes of what they wrote."""

import json
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial

from stepopsd_rllib.commands import failures, restarts, run_file, storage, tuned
from stepopsd_rllib.commands.progress import StopConditions
from stepopsd_rllib.training.learner_calls import LearnerLost, ask_learners
from tests.unit.test_checkpoint_files import write_checkpoint

BODY = {
    "run": "GRPO",
    "env": "stepopsd/ALFWorld-v0",
    "stop": {"training_iteration": 4},
    "config": {"model": "tiny"},
}
LOST = RayActorError(error_msg="The actor died: its node is gone.")
BUG = KeyError("a bug")


def ended(folder, error):
    """A trial as Tune leaves it."""
    status = Trial.ERROR if error else Trial.TERMINATED
    return SimpleNamespace(status=status, custom_dirname=folder, get_error=lambda: error)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains a run whose trial ends with the given errors, one a session; returns what it did."""

    def train(*errors, **keys):
        where = storage.open_storage(str(tmp_path))
        example = tuned.checked("mine.yaml", "mine", BODY | keys)
        run = run_file.Run(kind="train", trials=run_file.planned(example, [""]))
        storage.reserve(where, "a", "x")
        run_file.write(where, "a", run)
        trial = tmp_path / "a/GRPO_00000"
        trial.mkdir()
        write_checkpoint(trial, 1)
        sessions, waiting = [], list(errors)

        def session(run, where, name, say, restore=None):
            sessions.append(restore and restore["GRPO_00000"])
            results = trial / "result.json"
            if results.exists():
                (trial / "seen").write_text(results.read_text())
            rows = [{"training_iteration": 2}, {"training_iteration": 3}]
            results.write_text("".join(json.dumps(row) + "\n" for row in rows))
            interruption = SimpleNamespace(status=None)
            return [ended("GRPO_00000", waiting.pop(0))], interruption, StopConditions({})

        monkeypatch.setattr(restarts, "run_trials", session)
        said = []
        trials, _, _ = restarts.run_with_restarts(run, where, "a", said.append)
        stored = run_file.parse((tmp_path / "a/run.json").read_bytes(), "a")
        return sessions, trials, said, stored.trials[0].restarts, trial

    return train


def test_a_trial_that_lost_a_process_goes_on_from_its_checkpoint_once(train):
    sessions, trials, said, counted, folder = train(LOST, None)
    assert sessions == [None, str(folder / "checkpoint_000001")]
    assert trials[0].status == Trial.TERMINATED and counted == 1
    where = "from checkpoint_000001, after 2 iterations"
    assert said == [f"GRPO_00000 lost a process and goes on {where}, restart 1"]


def test_what_it_wrote_after_its_checkpoint_is_taken_out_first(train):
    sessions, *_, folder = train(LOST, None)
    assert len(sessions) == 2
    assert (folder / "seen").read_text() == '{"training_iteration": 2}\n'


@pytest.mark.parametrize(
    ("errors", "keys", "sessions"),
    [
        ((LOST, LOST), {}, 2),
        ((LOST, LOST, LOST), {"max_failures": 2}, 3),
        ((BUG,), {}, 1),
        ((BUG, BUG), {"max_failures": 1}, 2),
        ((LOST, LOST, LOST, None), {"max_failures": -1}, 4),
    ],
)
def test_how_often_it_goes_on(train, errors, keys, sessions):
    assert len(train(*errors, **keys)[0]) == sessions


def test_an_error_of_the_constructor_is_no_lost_process():
    text = "The actor died because of an error raised in its creation task, ray::GRPO.__init__()"
    assert not restarts.lost_a_process(RayActorError(error_msg=text))
    assert restarts.lost_a_process(RuntimeError("stepopsd_rllib...LearnerLost: A learner is gone"))


class Learners:
    """A learner group, as RLlib answers: the dead ones are left out, or their error stands."""

    is_local = False

    def __init__(self, *answers):
        self.answers = answers

    def __len__(self):
        return 2

    def foreach_learner(self, call, **kwargs):
        return [SimpleNamespace(ok=ok, get=lambda value=value: value) for ok, value in self.answers]


def test_a_learner_that_does_not_answer_is_an_error():
    assert ask_learners(Learners((True, 1), (True, 2)), len) == [1, 2]
    with pytest.raises(LearnerLost, match="A learner is gone: The actor died"):
        ask_learners(Learners((True, 1), (False, LOST)), len)
    with pytest.raises(LearnerLost, match="1 of 2 learners are gone"):
        ask_learners(Learners((True, 1)), len)


def test_the_text_that_tune_keeps_of_a_dead_trial_tells_that_it_lost_its_process():
    kept = (
        "Failure # 1 (occurred at 2026-01-01_00-00-00)\n"
        "The actor died unexpectedly before finishing this task.\n\tclass_name: GRPO\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    )
    assert restarts.lost_a_process(kept)
    assert failures.users_mistake(kept) is None
    assert failures.last_lines(kept, 1).startswith("The actor is dead")
