"""The groups that --help lists flags in, in their order. A flag names its own; see `util.additional_args.flag`."""

MODEL = "model"
DATA = "data"
PROMPTS = "prompts"
RUN = "the run"
STRATEGY = "strategy"
LAYERS = "layers contrasted by a strategy"
LEAVING = "when a token leaves"
PRUNING = "vocabulary pruning"
CONTRAST = "contrastive confidence"
SKIPPED = "skipped layers and verification"
GENERATION = "generation"
TRAINING = "training of exits"
MEASUREMENT = "measurement"
TIMING = "timing"
OUTPUT = "output"
TRAINER = "trainer of transformers"
OLD_TRAINER = "trainer of transformers: old names"

ORDER = (
    *(MODEL, DATA, PROMPTS, RUN, STRATEGY, LAYERS, LEAVING, PRUNING, CONTRAST, SKIPPED, GENERATION, TRAINING),
    *(MEASUREMENT, TIMING, OUTPUT, TRAINER, OLD_TRAINER),
)


def place(title: str) -> int:
    """Where a group stands in --help; what argparse made itself, with --help in it, stands last."""
    return ORDER.index(title) if title in ORDER else len(ORDER)
