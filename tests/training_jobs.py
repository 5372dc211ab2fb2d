"""Several jobs of the run scripts in one start of a launcher's processes, since a start is what takes time.

    torchrun --standalone --nproc_per_node 2 tests/training_jobs.py plan.json

plan.json: {name: [script, flag, value, ...]}. The main process writes plan.done.json: {name: {"losses", "metrics"}}, or
{name: {"error"}} of a job that was refused.
"""

import interrupts  # noqa: F401 - before what takes time

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from training.processes import end_together, process_index
from util import (
    LanguageModelingArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TranslationArguments,
    parse_arguments,
)

ARGUMENTS = {
    "run_question_answering": QuestionAnsweringArguments,
    "run_summarization": SummarizationArguments,
    "run_translation": TranslationArguments,
    "run_language_modeling": LanguageModelingArguments,
}


def run(script: str, *flags: str) -> dict[str, Any]:
    """The losses that a job logged, step by step, and its metrics; or the sentence that refused it."""
    try:
        arguments = parse_arguments(ARGUMENTS[script], ["--use_cpu", "True", *flags])
        trainer, metrics = importlib.import_module(script).main(*arguments)
    except ValueError as error:
        return {"error": str(error)}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "metrics": metrics}


def main(plan: Path) -> None:
    """All jobs of a plan, in its order."""
    done = {name: run(*words) for name, words in json.loads(plan.read_text()).items()}
    if process_index() == 0:
        plan.with_suffix(".done.json").write_text(json.dumps(done))
    end_together()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
