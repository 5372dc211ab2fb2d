r"""Run the tasks of lm-evaluation-harness, its own command line, on models under a policy of early exits or a strategy.

    python src/run_lm_eval.py --model early_exit --tasks truthfulqa_mc1,truthfulqa_mc2 --limit 100 \
        --model_args pretrained=gpt2-xl,strategy=dola,early_exit_layers=low
    python src/run_lm_eval.py --model early_exit --tasks gsm8k --limit 5 \
        --model_args pretrained=gpt2-xl,use_early_exit=True,exit_conf_threshold=0.9

Generation tasks run under the policy or the strategy; log-likelihoods are those of likelihood_layer, or the strategy's.
Under torchrun or accelerate launch several processes share out the documents. Data are downloaded. It needs
`pip install lm_eval==0.4.13`, whose own flags `run --help` lists. What follows stands in --model_args, without dashes.
"""

import interrupts  # noqa: F401 - before what takes time

import sys
from pathlib import Path

from util.terminal import reason, terminal


def main() -> None:
    """The harness's own main; exits with 2 and a sentence where the package is missing."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(help_text())
        return
    try:
        from lm_eval.__main__ import cli_evaluate

        import jobs.harness  # noqa: F401 - registers early_exit
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        sys.exit(_missing())
    try:
        cli_evaluate()
    except ValueError as error:
        print(f"{Path(sys.argv[0]).name}: error: {reason(error)}", file=sys.stderr)
        sys.exit(2)


def help_text() -> str:
    """What --help says: the harness has its own, so this lists what goes into --model_args."""
    from util import AdditionalArguments
    from util.harness_args import HarnessArguments
    from util.parser import ArgumentParser

    parser = ArgumentParser((HarnessArguments, AdditionalArguments), __doc__)
    parser.usage = "%(prog)s [run] --model early_exit --tasks NAME,... --model_args name=value,..."
    return parser.format_help()


def _missing() -> int:
    print("run_lm_eval.py needs lm-evaluation-harness: pip install lm_eval==0.4.13.", file=sys.stderr)
    return 2


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
