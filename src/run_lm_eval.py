"""lm-evaluation-harness with our models: its own command line, and --model early_exit.

    pip install lm_eval
    python src/run_lm_eval.py --model early_exit --tasks arc_easy,gsm8k \
        --model_args pretrained=gpt2-xl,use_early_exit=True,exit_conf_threshold=0.9,likelihood_layer=36

Generation tasks run under the policy that the flags of early exit give; log-likelihoods are taken at likelihood_layer.
"""

import interrupts  # noqa: F401 - before what takes time

import sys
from pathlib import Path

from util.terminal import reason, terminal


def main() -> None:
    """The harness's own main; exits with 2 and a sentence where the package is missing."""
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


def _missing() -> int:
    print("run_lm_eval.py needs lm-evaluation-harness: pip install lm_eval==0.4.13.", file=sys.stderr)
    return 2


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
