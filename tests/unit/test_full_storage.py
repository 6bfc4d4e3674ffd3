"""A storage that ends in the middle of a run is told once, with the command that goes on."""

import subprocess
import sys
import traceback

import pytest
from ray.tune.error import TuneError

from stepopsd_rllib.commands.full_storage import writable


def test_a_full_storage_is_one_line_with_the_command_that_goes_on():
    message = r"^runs/a b: cannot .*No space left on device\)\. .* train --resume 'runs/a b'$"
    with pytest.raises(ValueError, match=message), writable("runs/a b", "train"):
        raise OSError(28, "No space left on device")


def test_tune_may_wrap_what_its_loop_raises():
    def loop():
        try:
            raise OSError(30, "Read-only file system")
        except OSError:
            raise TuneError(traceback.format_exc()) from None

    with (
        pytest.raises(ValueError, match=r"written any more .*Read-only"),
        writable("a", "train"),
    ):
        loop()


def test_other_errors_stay_what_they_are():
    with pytest.raises(PermissionError), writable("runs/a", "train"):
        raise PermissionError(13, "Permission denied")


def test_log_writers_do_not_repeat_it_at_exit_and_other_faults_are_still_shown():
    script = """
import atexit, threading
from stepopsd_rllib.commands.full_storage import writable
def flush(number):
    raise OSError(number, "as told")
atexit.register(flush, 30)
atexit.register(flush, 5)
try:
    with writable("runs/a", "train"):
        flush(28)
except ValueError as error:
    print(error)
for number in (28, 7):
    thread = threading.Thread(target=flush, args=[number])
    thread.start()
    thread.join()
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot be written any more" in run.stdout
    assert "[Errno 28]" not in run.stderr and "[Errno 30]" not in run.stderr
    assert "[Errno 7]" in run.stderr and "[Errno 5]" in run.stderr
