"""Language modeling with decoder-only models: text files, wikitext by name, or invented stories.

Train exits, measure the perplexity of every layer, continue beginnings under a policy; --help lists the flags.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import LanguageModelingArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("language_modeling", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(LanguageModelingArguments, main)


if __name__ == "__main__":
    command()
