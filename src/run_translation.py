"""Translation: IWSLT 2017, or files with a column per language or with `translation` records.

Evaluate or predict with a T5 that may leave its decoder early; --help lists the flags.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import TranslationArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    if training_args.do_train:
        raise ValueError("--do_train is not possible for translation in this version: use --do_eval or --do_predict.")
    return run_job("translation", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(TranslationArguments, main)


if __name__ == "__main__":
    command()
