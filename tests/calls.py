"""What tests let worker processes call; it imports nothing slow."""

import os
import signal
import time
from pathlib import Path


def square(number):
    return number**2


def square_and_process(i):
    return i * i, os.getpid()


def slow_for_even(number):
    """Return the number, even ones later: calls end in another order than they began."""
    time.sleep(0.1 * (number % 2 == 0))
    return number


def raise_at_three(number):
    if number == 3:
        raise OverflowError("three")
    return number


class KillsOnce:
    """Returns the number, but the first process that gets the number 5 is killed meanwhile."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, number):
        if number == 5 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.folder / "calls", "a") as file:
            file.write(f"{number}\n")
        return number


def kill_at_five(number):
    """Kill every process that gets the number 5."""
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
