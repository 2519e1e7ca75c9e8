"""What tests give workers to do: a worker imports this module, and no library of a test."""

import os
import signal
import time

from cfnsr import InputError


def square(number):
    if number == 3:
        raise InputError("three is refused")
    return number**2


def square_or_die(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number**2


def environment(name):
    return os.environ.get(name)


def process_id(_):
    time.sleep(0.2)
    return os.getpid()
