import textwrap

import pytest
from stepopsd_envs.text_env import require_choice

from stepopsd_rllib.commands.failures import refusal, users_mistake

REMOTE_REFUSAL = """\
\x1b[36mray::GRPO.train()\x1b[39m (pid=1, ip=1.2.3.4)
  File "/site-packages/ray/tune/trainable/trainable.py", line 190, in __init__
    self.setup(copy.deepcopy(self.config))
  File "/clone/envs/stepopsd_envs/alfworld/game.py", line 70, in load_game
    raise ValueError(
ValueError: a.tw-pddl: the grammar is not known.
Use a game of alfworld 0.4.
"""


def test_a_remote_refusal_becomes_its_message_on_one_line():
    message = refusal(REMOTE_REFUSAL)
    assert message == "a.tw-pddl: the grammar is not known. Use a game of alfworld 0.4."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/clone/envs/stepopsd_envs/alfworld/game.py", "/site-packages/torch/nn.py"),
        ("    raise ValueError(\n", "    for a, b in zip(x, y, strict=True):\n"),
        ("ValueError: a.tw", "KeyError: a.tw"),
    ],
)
def test_the_same_error_that_nobody_wrote_for_the_user_is_a_fault(old, new):
    assert old in REMOTE_REFUSAL
    assert refusal(REMOTE_REFUSAL.replace(old, new)) is None


def test_advice_to_switch_validation_off_is_cut():
    text = textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "/site-packages/ray/rllib/algorithms/algorithm_config.py", line 4923, in _value_error
            raise ValueError(msg)
        ValueError: config.group_size=1: a group of one has advantage 0.
        To suppress all validation errors, set `config.experimental(_validate_config=False)`.
        """
    )
    assert refusal(text) == "config.group_size=1: a group of one has advantage 0."


def test_an_error_raised_here_is_recognised():
    with pytest.raises(ValueError) as caught:
        require_choice("engine", "fsat", ("fast", "textworld"))
    assert users_mistake(caught.value) == str(caught.value)
    with pytest.raises(ValueError) as fault:
        int("not a number")
    assert users_mistake(fault.value) is None


@pytest.mark.parametrize(
    "place",
    [
        "/home/user/miniconda3/envs/rl/lib/python3.11/site-packages",
        "/home/user/stepopsd_rllib/.venv/lib/python3.11/site-packages",
        "/home/user/stepopsd_envs/lib",
        "/usr/lib/python3.11/site-packages",
    ],
)
def test_a_librarys_error_is_a_fault_wherever_the_library_lies(place):
    text = textwrap.dedent(
        f"""\
        Traceback (most recent call last):
          File "{place}/torch/nn/functional.py", line 9, in batch_norm
            raise ValueError("no")
        ValueError: Expected more than 1 value per channel
        """
    )
    assert refusal(text) is None


def test_a_disk_without_room_is_no_fault_of_the_program():
    text = textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "/usr/lib/python3.11/pathlib.py", line 9, in write_text
            return f.write(data)
        OSError: [Errno 28] No space left on device: '/runs/a'
        """
    )
    assert "No space left on device: '/runs/a'" in str(refusal(text))
