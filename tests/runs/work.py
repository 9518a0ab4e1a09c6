"""What the tests of processes have done in them; a module of its own, for it is imported there."""

import os
import signal
import sys


def square(number):
    return number * number


def who(_):
    return os.getpid()


def spin(_):
    while True:
        pass


def fill(size):
    return len(bytearray(size))


def die(number):
    os.kill(os.getpid(), number)


def fail(error):
    raise error


class Strange(Exception):
    """An error that cannot go to another process."""

    def __init__(self, one, two):
        super().__init__(one)
        self.two = two


def strange(_):
    raise Strange("what", "is this")


def limits(_):
    """Whether memory and time are limited here."""
    if sys.platform == "win32":
        return False, False
    import resource

    memory, _hard = resource.getrlimit(resource.RLIMIT_AS)
    return memory != resource.RLIM_INFINITY, signal.getitimer(signal.ITIMER_PROF)[0] > 0
