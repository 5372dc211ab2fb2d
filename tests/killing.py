"""Kills a command of ours again and again and lets it end at last; what it left is then somebody else's to look at.

    python tests/killing.py PLAN.json MODEL

Everything is imported once; an attempt is a fork of this process, in which SIGKILL comes at a call that was drawn: the
n-th of all calls, or the n-th that touches a file inside some functions, where a name ends with () the n-th of that
function itself; where a file is written, the signal comes when a part is. The plan is a JSON object of lists: a script,
its command line, of which {out} is replaced by a path, those functions, a number of kills and
a seed. Where a number follows, SIGUSR1 comes at that call, as from a scheduler that takes the node back, and SIGKILL at
most so many calls later, unless the command left by itself. Every name of the plan has a folder, in which `whole` is
what an undisturbed attempt left, and 0, 1, ... what attempts left that were killed, until one ended by itself; then
comes the next. Beside 0 stands 0.decoded, with a line for each start and for each batch whose decoding began.
"""

import interrupts

import io
import json
import os
import random
import resource
import signal
import sys
import traceback
from functools import partial, wraps
from pathlib import Path
from pkgutil import resolve_name

FILE_CALLS = {"open", "write", "flush", "close", "fsync", "truncate", "replace", "rename", "mkdir", "unlink", "rmdir"}
FILE_CALLS |= {"write_record", "write_end_of_file", "serialize_file"}  # of torch.save and safetensors


class Countdown:
    """Kills the process at a call.

    Args:
        names: functions, as module:Class.function; what touches a file counts inside these, and of one that ends with
            () every call. All calls count without them.
        left: how many calls count before the one that is not made.
        grace: how many more count where SIGUSR1 comes first.
    """

    def __init__(self, names: list[str], left: float, grace: int | None = None):
        self.names, self.left, self.grace, self.counted = names, left, grace, 0

    def begin(self) -> None:
        """Of named functions no others are watched, which would take several times as long."""
        if not self.names:
            sys.setprofile(self._every_call)
        for name in self.names:
            place, _, called = name.removesuffix("()").rpartition(".")
            owner = resolve_name(place)
            watched = self._counted if name.endswith("()") else self._watched_inside
            setattr(owner, called, watched(getattr(owner, called)))

    def _counted(self, function):
        @wraps(function)
        def called(*args, **kwargs):
            self._count(None)
            return function(*args, **kwargs)

        return called

    def _watched_inside(self, function):
        @wraps(function)
        def called(*args, **kwargs):
            outside = sys.getprofile()
            sys.setprofile(self._file_call)
            try:
                return function(*args, **kwargs)
            finally:
                sys.setprofile(outside)

        return called

    def _every_call(self, frame, event: str, argument) -> None:
        if event in ("call", "c_call"):
            self._count(None)

    def _file_call(self, frame, event: str, argument) -> None:
        if event == "c_call" and argument.__name__ in FILE_CALLS:
            self._count(argument)

    def _count(self, call) -> None:
        self.counted += 1
        if self.counted > self.left:
            self._end(call)

    def _end(self, call) -> None:
        if self.grace is not None:
            self.left, self.grace = self.left + self.grace, None
            os.kill(os.getpid(), signal.SIGUSR1)
            return
        file = getattr(call, "__self__", None)
        if isinstance(file, io.BufferedWriter) and call.__name__ == "write":
            return  # it fills a buffer, which is flushed by the next call
        if isinstance(file, io.BufferedWriter) and call.__name__ == "flush":
            # The system ends a process that writes beyond a limit, when it has written up to it.
            most = os.fstat(file.fileno()).st_size + 1 + self.left % 300
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            return
        os.kill(os.getpid(), signal.SIGKILL)


def attempt(run, out: Path, countdown: Countdown | None = None) -> bool:
    """Whether an attempt came to its end; how many calls counted in one that did stands in OUT.calls then.

    Raises:
        RuntimeError: It neither ended well nor was killed.
    """
    process = os.fork()
    if process:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code not in (0, -signal.SIGKILL, -signal.SIGXFSZ, interrupts.REQUEUE):
            raise RuntimeError(f"An attempt in {out} ended with {code}.")
        return code == 0
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        interrupts.install()
        note_decoding(out.with_suffix(".decoded"))
        if countdown:
            countdown.begin()
        run(out)
        sys.setprofile(None)
        if countdown:
            out.with_suffix(".calls").write_text(str(countdown.counted))
        os._exit(0)
    except interrupts.Leave as left_by_itself:
        os._exit(left_by_itself.code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def note_decoding(path: Path) -> None:
    """Write down each batch whose decoding begins, and this start."""
    from training import evaluation

    decode = evaluation.decode_batch

    def noted(model, tokenizer, batch, *more):
        with path.open("a") as file:
            file.write(" ".join(feature.example_id for feature in batch) + "\n")
        return decode(model, tokenizer, batch, *more)

    with path.open("a") as file:
        file.write("start\n")
    evaluation.decode_batch = noted


def kill(run, out: Path, names: list[str], kills: int, seed: int, grace: int | None = None) -> None:
    """Let a command end once undisturbed and be killed so many times."""
    out.mkdir()
    attempt(run, out / "whole", Countdown(names, float("inf")))
    calls = int((out / "whole.calls").read_text())
    drawn, folder = random.Random(seed), 0
    while kills:
        moment, more = drawn.randrange(calls), None if grace is None else drawn.randrange(grace)
        if attempt(run, out / str(folder), Countdown(names, moment, more)):
            folder += 1
        else:
            kills -= 1
    attempt(run, out / str(folder))


def main(plan: Path, model: str) -> None:
    import torch
    import tqdm

    import generate
    import run_language_modeling
    import run_question_answering
    import run_summarization
    from models import DeployT5ForConditionalGeneration
    from util import (
        LanguageModelingArguments,
        QuestionAnsweringArguments,
        SummarizationArguments,
        parse_arguments,
    )

    tqdm.tqdm.monitor_interval = 0  # no thread of its, which a fork would not have
    torch.set_num_threads(1)
    DeployT5ForConditionalGeneration.from_pretrained(model)  # what the library prepares once is there in every fork
    tasks = {
        "question_answering": (run_question_answering, QuestionAnsweringArguments),
        "summarization": (run_summarization, SummarizationArguments),
        "language_modeling": (run_language_modeling, LanguageModelingArguments),
    }

    def run_task(task: str, argv: list[str]) -> None:
        module, data_class = tasks[task]
        module.main(*parse_arguments(data_class, argv))

    mains = {"generate": generate.main, **{task: partial(run_task, task) for task in tasks}}
    for name, (script, argv, names, kills, seed, *grace) in json.loads(plan.read_text()).items():

        def run(out: Path, script=script, argv=argv) -> None:
            mains[script]([word.replace("{out}", str(out)) for word in argv])

        kill(run, plan.parent / name, names, kills, seed, *grace)
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
