"""What a session of pytest is told: the seed that random tests draw from, and in how many processes they run."""

import os
import random
from pathlib import Path

import hypothesis
import pytest


# ---------------------------------------------------------------------------------------------------------------- seed
def pytest_addoption(parser):
    parser.addoption("--seed", default="0", help="What random tests draw from: a number, or fresh for a new one.")


def pytest_configure(config):
    given = config.getoption("--seed")
    if given != "fresh" and not given.isdecimal():
        raise pytest.UsageError(f"--seed is {given!r}: valid are whole numbers from 0, and fresh.")
    if is_worker(config):
        config.seed = config.workerinput["seed"]
    else:
        config.seed = random.SystemRandom().randrange(2**32) if given == "fresh" else int(given)
    hypothesis.settings.register_profile("seeded", database=None, deadline=None)
    hypothesis.settings.load_profile("seeded")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Every process of xdist draws from the seed of the one that prints it."""
    node.workerinput["seed"] = node.config.seed


def is_worker(config) -> bool:
    """Whether this is a process that another one tells what to run."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session):
    if not is_worker(session.config):
        session.config.get_terminal_writer().line(_said(session.config))


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(_said(config))


def _said(config) -> str:
    return f"Random tests draw from --seed {config.seed}"


# ----------------------------------------------------------------------------------------------------------- processes
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """What `-n auto` is: a process for every core, or just this one where it has one core or shows what is said."""
    cores = usable_cores()
    return 0 if cores == 1 or config.getoption("capture") == "no" or config.getoption("trace") else cores


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many cores this process may use: those it is bound to, and no more than its group has time on.

    Args:
        quota: where Linux has the group's microseconds, or max, and those of a period; a file that may be absent.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given, period = quota.read_text().split() if quota.is_file() else ("max", "100000")
    return cores if given == "max" else max(1, min(cores, int(given) // int(period)))
