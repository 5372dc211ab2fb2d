r"""Start a script in several processes as torchrun does, and end with the exit code that they end with.

    python src/scripts/cluster/launch.py --processes 4 src/run_summarization.py --do_eval --output_dir save/four
    srun --ntasks-per-node=1 python src/scripts/cluster/launch.py --nodes 2 --processes gpu --meet node01:29500 \
        src/run_summarization.py --do_train --output_dir save/eight

torchrun itself ends with 1 whatever happened. Here SIGTERM and SIGUSR1 go to the processes, which save and end with 75,
and so does this, as it does where one of them was told alone: a scheduler then starts the same command again. Called
once on each of several nodes, the nodes find each other at --meet.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout
from interrupts import CODE, REQUEUE

import argparse
import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from decoding.ranges import COUNT
from util import groups
from util.commands import CommandParser
from util.terminal import terminal

HANDED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    group = parser.add_argument_group(groups.RUN)
    group.add_argument("--processes", default="gpu", help="on each node: a number, or gpu for one on each GPU")
    group.add_argument("--nodes", type=COUNT, default=1, help="nodes on which this is called")
    group.add_argument("--meet", metavar="HOST:PORT", help="where several nodes find each other, on one of them")
    group.add_argument("--job", default="job", help="what several nodes know each other by, such as $SLURM_JOB_ID")
    group.add_argument(
        "--grace", type=COUNT, default=100, help="seconds in which processes that were told to leave may save"
    )
    group.add_argument("command", nargs=argparse.REMAINDER, help="the script and its flags")
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.error("give a script and its flags behind those of the launcher, such as src/run_summarization.py.")
    if arguments.nodes > 1 and arguments.meet is None:
        parser.error(f"--nodes {arguments.nodes} needs --meet HOST:PORT, which is the same on all of them.")
    return arguments


def torchrun_flags(arguments: argparse.Namespace) -> list[str]:
    """The same for torchrun."""
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", arguments.meet, "--rdzv_id", arguments.job]
    flags = ["--standalone"] if arguments.meet is None else meeting
    flags += ["--nnodes", str(arguments.nodes), "--nproc_per_node", arguments.processes]
    return [*flags, "--signals_to_handle", HANDED_ON, "--shutdown_timeout", str(arguments.grace)]


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, that of the process that failed first, or `REQUEUE` where a signal ended them."""
    arguments = parse_arguments(argv)
    try:
        run.main([*torchrun_flags(arguments), *arguments.command])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return CODE if error.sigval == signal.SIGINT else REQUEUE
    except ValueError as error:
        sys.stderr.write(f"launch.py: error: {error}\n")
        return 2
    return 0


def command() -> None:
    """The console command."""
    with terminal():
        sys.exit(main())


if __name__ == "__main__":
    command()
