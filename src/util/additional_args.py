"""The flags of early exit: what decides where a token leaves, how exits are trained, what a run measures and keeps."""

import logging
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

from decoding import policy_checks
from decoding.confidence import CONFIDENCES
from decoding.policy import Policy, vocabulary_of
from decoding.pruning import VOCABULARIES
from decoding.ranges import layers_named
from decoding.settings import Setting
from decoding.states import SKIPPED_STATES
from decoding.thresholds import THRESHOLDS
from losses import exits as losses
from losses.exits import LOSSES
from util import groups
from util.checks import LATER, contradictions, raise_together, without_effect

logger = logging.getLogger(__name__)


def flag(default: Any, help: str, *aliases: str, group: str | None = None) -> Any:
    """A dataclass field that is a flag.

    Args:
        help: What --help says of it.
        aliases: Other spellings, without the dashes; one letter takes one dash.
        group: Where --help lists it, one of `util.groups`; that of its class where not given.
    """
    spelt = [f"-{alias}" if len(alias) == 1 else f"--{alias}" for alias in aliases]
    return field(default=default, metadata={"help": help, "aliases": spelt, "group": group})


@dataclass
class PolicyArguments:
    """Where a token leaves and what is done about the layers it skipped."""

    _argument_group_name = groups.LEAVING

    use_early_exit: bool = flag(
        False,
        "Let each token leave at the first exit whose confidence is above the threshold (CALM, arXiv:2207.07061). "
        "Exits stand after every layer from --exit_min_layer to the last but one.",
    )
    exit_conf_type: str | None = flag(
        None,
        f"What is measured at an exit: one of {', '.join(CONFIDENCES)}; softmax where nothing is given. 'meta' needs a "
        "checkpoint with a trained confidence head (--train_meta_cm_head).",
    )
    exit_conf_threshold: float | None = flag(
        None,
        "A token leaves where its confidence is strictly above this number between 0 and 1: 1.0 is the full model, "
        "token for token, and lower is faster. Where not given 1.0, and 0 with --lossless, which drafts every token.",
    )
    exit_position_temp: float | None = flag(
        None,
        "Let the threshold decay with the position t of the token: threshold * (0.9 + 0.1 * exp(-temp * t / N)), N the "
        "longest answer allowed (CALM, Eq. 5; 4 is usual). Without it the threshold is constant.",
    )
    exit_min_layer: int | None = flag(
        None, "The first layer a token may leave after, from 1 to the number of layers minus one; 1 where not given."
    )
    static_exit_layer: int | None = flag(
        None, "Every token leaves after this many layers, whatever its confidence. Not together with --use_early_exit."
    )
    type_vocab_reduct: str | None = flag(
        None,
        f"Vocabulary pruning, one of {', '.join(VOCABULARIES)}: after the first exit only the likeliest k tokens "
        "survive and only their rows of the head are multiplied. fixed keeps --k at every exit, decaying fewer "
        "and fewer, adaptive the fewer the more confident the last exit was; True is fixed (arXiv:2410.18952). "
        "frequent keeps the --k most frequent of --frequent_tokens at every exit, the first too (arXiv:2502.14856).",
        group=groups.PRUNING,
    )
    k: int | None = flag(
        None,
        "Tokens kept by fixed pruning; where not given, what the decaying formula gives at --exit_min_layer. By "
        "frequent pruning, an eighth of the vocabulary where not given.",
        group=groups.PRUNING,
    )
    k_min: int | None = flag(
        None,
        "Lowest k of the decaying formula; 250, scaled where the vocabulary is smaller than 32128.",
        group=groups.PRUNING,
    )
    k_max: int | None = flag(
        None,
        "k of the decaying formula at layer 0; 35000, scaled where the vocabulary is smaller than 32128.",
        group=groups.PRUNING,
    )
    adaptive_scale: float = flag(
        0.9, "In adaptive pruning, the share of the vocabulary dropped at confidence 1.", group=groups.PRUNING
    )
    adaptive_cap: bool = flag(
        False,
        "Never let adaptive pruning keep more tokens than fixed pruning would, as the published runs did.",
        group=groups.PRUNING,
    )
    copy_share: float = flag(
        0.25,
        "Copy the rows of the head that pruning left while they are, over the batch, at most this share of the "
        "vocabulary; otherwise multiply the whole head and read the survivors out. It changes no result.",
        group=groups.PRUNING,
    )
    contrastive_alpha: float = flag(
        0.1,
        "Contrastive measures compare two layers on tokens whose probability is at least alpha times the highest "
        "(arXiv:2210.15097); 0 compares them on all surviving tokens.",
        group=groups.CONTRAST,
    )
    emit: str = flag(
        "exit",
        "What the token of an exit is read from: 'exit' for the exit's own distribution, 'contrastive' for the one "
        "that a contrastive --exit_conf_type makes of it.",
        group=groups.CONTRAST,
    )
    use_shallow_deep: bool = flag(
        False,
        "One exit only, after --shallow_exit_layer; tokens that left are run through the deep layers together when one "
        "does not leave (FREE, arXiv:2310.05424).",
        group=groups.SKIPPED,
    )
    shallow_exit_layer: int | None = flag(
        None, "Layers of the shallow model, in decoding and in shallow-deep losses.", group=groups.SKIPPED
    )
    shallow2deep_conf_type: str | None = flag(
        None, "What is measured at the shallow exit, as --exit_conf_type.", group=groups.SKIPPED
    )
    shallow2deep_conf_threshold: float | None = flag(
        None,
        "Threshold of the shallow exit, between 0 and 1; where not given as --exit_conf_threshold.",
        group=groups.SKIPPED,
    )
    use_adapt_threshold: bool = flag(
        False,
        "Refit the shallow exit's threshold on the tokens seen so far (two Beta components, FREE section 4.3).",
        "use_adap_threshold",
        "use-adap-threshold",
        group=groups.SKIPPED,
    )
    parallel_gen_token: bool = flag(
        True, "Run pending tokens through the deep layers in one block. Only True is valid.", group=groups.SKIPPED
    )
    skipped_states: str | None = flag(
        None,
        f"What fills the layers a token skipped, one of {', '.join(SKIPPED_STATES)}: 'copy' projects keys and values "
        "from the state it left with (CALM), 'recompute' runs the layers later on, together with a token that needs "
        "them (FREE). Where not given: recompute with --use_shallow_deep or --lossless, otherwise copy.",
        group=groups.SKIPPED,
    )
    copy_skipped_hidden_states: bool = flag(
        False,
        "In shallow-deep decoding, fill skipped layers from the state a token left with instead of running them.",
        group=groups.SKIPPED,
    )
    parallel_causal_mask: bool = flag(True, "Mask the block of pending tokens causally.", group=groups.SKIPPED)
    rollback_conf_threshold: float | None = flag(
        None,
        "Replace a pending token whose cross entropy under the deep model is above this, and what follows it.",
        group=groups.SKIPPED,
    )
    lossless: bool = flag(
        False, "Verify every token with the full model, whose output results (self-speculation).", group=groups.SKIPPED
    )
    num_speculations: int | None = flag(
        None,
        "Most drafted tokens that may be pending; 8 with --lossless where not given, else no bound.",
        group=groups.SKIPPED,
    )
    draft_always: bool = flag(
        False,
        "With --lossless, draft whatever it costs. Otherwise tokens run at full depth where the acceptance seen so far "
        "says that drafts cost more than they save, and a draft is tried again after 8, 16, 32, ... tokens. It changes "
        "nothing but speed.",
        group=groups.SKIPPED,
    )


@dataclass
class ExitTrainingArguments:
    """How exits are trained."""

    _argument_group_name = groups.TRAINING

    output_hidden_states_decoder: bool = flag(
        False,
        "Collect the hidden states of every decoder layer in training. Implied by --intermediate_loss_fn, "
        "--train_meta_cm_head and --train_exit_translators.",
        "ouput_hidden_states_decoder",
        "ouput-hidden-states-decoder",
    )
    intermediate_loss_fn: str | None = flag(
        None,
        "Loss over several layers: ce is the mean of the layers' cross entropies, weighted_ce weights layer l by l "
        "(CALM), shallowdeep_ce takes --shallow_exit_layer and the last, shallowdeep_kd_* also distil deep layers into "
        "shallow ones (FREE), layerskip trains exits by a curriculum and drops layers, one_exit the last layer and one "
        "exit drawn at every step. Valid: "
        f"{', '.join(LOSSES)}; without it the last layer alone is trained.",
    )
    distill_layer_alpha: float | None = flag(
        None, "Weight of the distillation term in the shallowdeep_kd losses; 1.0 where it is not given."
    )
    do_layer_transformation: bool = flag(
        False, "Pass the student's hidden states through one linear map before they are distilled."
    )
    eval_exit_layers: str | None = flag(
        None,
        "Measure loss and token accuracy of exits at every evaluation, in training too: all, or layers such as 1,4,8.",
    )
    train_meta_cm_head: bool = flag(
        False,
        "Train only the confidence head of --exit_conf_type meta, everything else frozen. Not together with "
        "--intermediate_loss_fn: train the exits first.",
    )
    train_exit_translators: bool = flag(
        False,
        "Train only exit translators, an affine map of each layer's states below the last, by how far their exits are "
        "from what the model itself says at last (arXiv:2303.08112); its own weights stay as they are. It starts from "
        "those of --exit_translators or of the checkpoint where there are some, else from no change.",
    )
    use_lora: bool = flag(
        False,
        "Train adapters of low rank beside frozen weights (LoRA, arXiv:2106.09685), which are saved alone: a folder "
        "that --model_name_or_path takes. Where tokens are decoded they are merged into the weights.",
    )
    lora_rank: int = flag(8, "Rank of the adapters.")
    lora_alpha: float = flag(8.0, "Scale of the adapters; they count alpha / rank.")
    lora_dropout: float = flag(0.1, "Dropout before the adapters.")
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the linear layers that get an adapter, such as q v; those of queries and values where "
            "not given."
        },
    )


@dataclass
class MeasurementArguments:
    """What a run measures and keeps beside its scores."""

    _argument_group_name = groups.MEASUREMENT

    deploy_scenario: bool | None = flag(
        None,
        "Say that this run measures deployment (True) or only quality (False). One loop serves both, at any batch "
        "size; seconds per token are comparable at batch size 1.",
    )
    use_synchronize: bool = flag(
        True, "Wait for the device before a clock is read; without it GPU seconds mean little."
    )
    count_flops: bool = flag(
        False,
        "Show the FLOPs of every part per sample in the table of results too; the files hold them always. A "
        "multiply-add is 2.",
        "final_flops",
        "final-flops",
    )
    save_traces: bool = flag(True, "Keep traces.jsonl.gz: exit layer, confidences and head rows of every token.")
    time_breakdown: bool = flag(False, "Time the parts of a decoder layer as well; this slows decoding down.")
    plotting_logits: bool = flag(
        False,
        "Keep layers.jsonl.gz: for every token, the rank of the token emitted, the likeliest token, its probability "
        "and its lead at every layer the token ran; and layers.json: confidence, accuracy and score per layer.",
    )
    render_jsds: bool = flag(
        False,
        "Keep jsds.jsonl.gz: for every token, the Jensen-Shannon divergence of every pair of layers it ran, and what "
        "a contrastive measure compares where it left.",
    )


@dataclass
class AdditionalArguments(MeasurementArguments, ExitTrainingArguments, PolicyArguments):
    """Every flag of early exit. A setting that contradicts another is refused when the object is made.

    Attributes:
        extra: Flags that a kind of pruning or of threshold, or a loss, brings along: name -> value, see `own_settings`.

    Raises:
        ValueError: one sentence per problem, all of them at once.
    """

    extra: dict[str, Any] = field(default_factory=dict, metadata={"flag": False})

    def __post_init__(self) -> None:
        vocabulary = vocabulary_of(self.type_vocab_reduct)
        self.type_vocab_reduct = None if vocabulary == "none" else vocabulary
        raise_together(contradictions(self))

    @staticmethod
    def hidden_flags() -> dict[str, str | None]:
        """Name -> the missing feature of every flag that --help does not list, since its value is refused."""
        return {name: later.feature for name, later in LATER.items()} | {"parallel_gen_token": None}

    @staticmethod
    def grouped_settings() -> dict[str, dict[str, Setting]]:
        """Group of flags -> name -> every setting that a row of the tables of that group brings along.

        Raises:
            ValueError: One has the name of a flag.
        """
        grouped = {
            groups.PRUNING: policy_checks.settings_of(VOCABULARIES),
            groups.LEAVING: policy_checks.settings_of(THRESHOLDS),
            groups.TRAINING: losses.own_settings(),
        }
        flags = {each.name for each in fields(AdditionalArguments)}
        taken = [name for settings in grouped.values() for name in settings if name in flags]
        if taken:
            raise ValueError(f"A row brings a setting called {', '.join(taken)}, which is a flag already: rename it.")
        return grouped

    @classmethod
    def own_settings(cls) -> dict[str, Setting]:
        """Name -> every setting that a row of the tables of prunings, thresholds and losses brings along."""
        return {name: setting for settings in cls.grouped_settings().values() for name, setting in settings.items()}

    @classmethod
    def flag_names(cls) -> list[str]:
        """Every flag, those of `own_settings` last."""
        return [each.name for each in fields(cls) if each.name != "extra"] + list(cls.own_settings())

    def flags(self) -> dict[str, Any]:
        """Name -> value of every flag; None of an own setting that was not given."""
        held = vars(self) | {name: self.extra.get(name) for name in self.own_settings()}
        return {name: held[name] for name in self.flag_names()}

    def policy(self, longest_answer: int | None = None) -> Policy:
        """The policy that the flags ask for.

        Args:
            longest_answer: N of the decaying threshold, in tokens; None takes a call's max_new_tokens.
        """
        return Policy.from_config(SimpleNamespace(**self.flags(), max_answer_length=longest_answer))


def policy_for(config: Any, additional_args: AdditionalArguments, longest_answer: int | None = None) -> Policy:
    """The policy that flags ask for, of a model of this config; flags that change nothing are told.

    Raises:
        ValueError: settings that contradict each other or that this model has too few layers for.
    """
    raise_together(contradictions(additional_args))
    policy = additional_args.policy(longest_answer)
    num_layers = getattr(config, "num_decoder_layers", None) or getattr(config, "num_hidden_layers", None)
    if num_layers is not None:
        policy.check(num_layers, getattr(config, "vocab_size", None))
        raise_together(
            losses.layer_problems(
                additional_args.intermediate_loss_fn, SimpleNamespace(**additional_args.flags()), num_layers
            )
        )
    for sentence in without_effect(additional_args):
        logger.warning(sentence)
    return policy


def exit_layers_of(text: str | None, num_layers: int) -> tuple[int, ...]:
    """The layers that --eval_exit_layers names in a decoder of so many.

    Raises:
        ValueError: One of them is not there, or the text is no list of layers.
    """
    return () if text is None else layers_named(text, "--eval_exit_layers", num_layers)


def update_autoconfig(
    config: Any,
    additional_args: AdditionalArguments,
    max_answer_length: int | None = None,
    max_target_length: int | None = None,
) -> Any:
    """Writes every flag onto a Hugging Face config, defaults too, so that flags saved in a checkpoint are overruled.

    For whoever loads a model that is to leave early without being told so at every call.

    Args:
        config: the config of the model to load; changed in place.
        additional_args: the flags.
        max_answer_length: tokens of the longest answer, N of the decaying threshold.
        max_target_length: the same under the name that summarization and translation use.

    Returns:
        `config`.

    Raises:
        ValueError: settings that contradict each other or that this model has too few layers for.
    """
    longest = max_answer_length if max_answer_length is not None else max_target_length
    policy_for(config, additional_args, longest)
    for name, value in additional_args.flags().items():
        setattr(config, name, value)
    trained = ("intermediate_loss_fn", "train_meta_cm_head", "train_exit_translators")
    trains_exits = any(getattr(additional_args, name) for name in trained)
    config.output_hidden_states_decoder = additional_args.output_hidden_states_decoder or trains_exits
    config.max_answer_length = longest
    return config
