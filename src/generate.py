r"""Continue prompts with any model, under any policy of early exits or by contrasting layers.

    python src/generate.py -p "Once upon a time" --use_early_exit True --exit_conf_threshold 0.8 --show_exits
    python src/generate.py -p "In spring" --strategy contrastive -i 4 --compare

Without --model_name_or_path the small GPT-2 of this repository tells stories. Without -p or --prompt_file a terminal is
asked for prompts until end of file, in a conversation where the tokenizer has a chat template.
"""

import interrupts  # noqa: F401 - before what takes time

import sys

from jobs.generating import generate
from jobs.talking import converse
from util import AdditionalArguments, DecoderArguments
from util.arguments import build
from util.generate_args import GenerateArguments
from util.parser import ArgumentParser
from util.terminal import terminal


def main(argv: list[str] | None = None):
    """Continue the prompts of a command line (`jobs.generating.generate`), or those that are asked for
    (`jobs.talking.converse`). Exits with 2 after a sentence on what is wrong."""
    classes = (DecoderArguments, GenerateArguments, AdditionalArguments)
    parser = ArgumentParser(classes, __doc__)
    try:
        given = parser.given(sys.argv[1:] if argv is None else list(argv))
        model_args, args, additional_args = build(classes, given)
        return (converse if args.converses else generate)(model_args, args, additional_args)
    except (ValueError, OSError, ImportError) as error:
        parser.refuse(error)


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
