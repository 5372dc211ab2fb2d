"""Which settings are refused, with the reason: flags that contradict each other, and flags whose feature is missing."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from decoding.confidence import CONFIDENCES
from decoding.fields import wrong_types
from decoding.policy import Policy
from decoding.thresholds import THRESHOLDS
from losses.exits import LOSSES, layer_problems
from util.files import folder_problem
from util.packages import package_problems
from util.ranges import range_problems


class Later(NamedTuple):
    """A flag that parses but whose feature is not there: the values that ask for nothing, and what it will be."""

    off: tuple
    feature: str


# The row of a flag goes when its feature comes.
LATER = {
    "time_breakdown": Later((False,), "the timing of a layer's parts"),
}

# Flags that act only while --use_early_exit is True, and the values that ask for nothing.
EARLY_EXIT_ONLY = {
    "exit_conf_type": None,
    "exit_conf_threshold": None,
    "exit_position_temp": None,
    "exit_min_layer": None,
    "type_vocab_reduct": None,
}
# Flags that act only while --use_shallow_deep is True, and those that act only while tokens leave early at all.
SHALLOW_ONLY = {
    "shallow_exit_layer": None,
    "shallow2deep_conf_type": None,
    "shallow2deep_conf_threshold": None,
    "use_adapt_threshold": False,
    "copy_skipped_hidden_states": False,
}
EXITS_ONLY = {
    "skipped_states": None,
    "rollback_conf_threshold": None,
    "lossless": False,
    "draft_always": False,
    "num_speculations": None,
    "parallel_causal_mask": True,
}
# Of pruning and of contrastive measures: flag -> the value that asks for nothing.
PRUNING_ONLY = {"k": None, "k_min": None, "k_max": None, "adaptive_scale": 0.9, "adaptive_cap": False}
CONTRAST_ONLY = {"contrastive_alpha": 0.1, "emit": "exit"}


# Of distillation between layers.
LOSS_ONLY = {"distill_layer_alpha": None, "do_layer_transformation": False}
# Of adapters of low rank.
LORA_ONLY = {"lora_rank": 8, "lora_alpha": 8.0, "lora_dropout": 0.1, "lora_target_modules": None}
LORA_FLAGS = ("use_lora", *LORA_ONLY)


def raise_together(problems: list[str]) -> None:
    """Raises one ValueError that lists every problem, or nothing where there is none."""
    if problems:
        raise ValueError(" ".join(problems))


def contradictions(args: Any) -> list[str]:
    """Sentences on what `args` (AdditionalArguments) asks for and cannot have; the model's depth is not looked at."""
    mistyped = wrong_types(args)
    if mistyped:  # of which no range can be told
        return [*_unavailable(args), *mistyped]
    told = [*_unavailable(args), *range_problems(args), *_own_problems(args), *_unknown(args), *_exclusive(args)]
    return told or _policy_problems(args)


def without_effect(args: Any) -> list[str]:
    """Sentences on flags of `args` (AdditionalArguments) that change nothing as the others stand."""
    if not args.use_early_exit and not args.use_shallow_deep:
        sentences = _idle(args, EARLY_EXIT_ONLY | PRUNING_ONLY | CONTRAST_ONLY, "Without --use_early_exit True")
        sentences += _idle(args, _not_of_loss(args, SHALLOW_ONLY), "Without --use_shallow_deep True")
        sentences += _idle(args, EXITS_ONLY, "Without --use_early_exit True or --use_shallow_deep True")
        return sentences + _idle_training(args) + _idle_own(args, None)
    policy = args.policy()
    lossless = [] if args.lossless else _idle(args, {"draft_always": False}, "Without --lossless True")
    of_exits = _idle_with_one_exit if args.use_shallow_deep else _idle_with_several
    return [
        *_idle_threshold(args, policy),
        *of_exits(args, policy),
        *lossless,
        *_idle_training(args),
        *_idle_own(args, policy),
    ]


def _idle(args: Any, flags: dict, reason: str) -> list[str]:
    """A sentence on those of `flags` that were given and have no effect, for a reason."""
    names = [f"--{name}" for name, off in flags.items() if getattr(args, name) not in (off, None)]
    return [f"{reason} these flags have no effect: {', '.join(names)}."] if names else []


def _not_of_loss(args: Any, flags: dict) -> dict:
    """Those of `flags` that the loss over layers does not read."""
    loss = LOSSES.get(args.intermediate_loss_fn)
    return {name: off for name, off in flags.items() if loss is None or name not in loss.reads}


def _idle_training(args: Any) -> list[str]:
    """Sentences on what some losses read and the one in force does not, and on what adapters alone read."""
    loss = args.intermediate_loss_fn
    reason = "Without --intermediate_loss_fn" if loss is None else f"With --intermediate_loss_fn {loss}"
    adapters = [] if args.use_lora else _idle(args, LORA_ONLY, "Without --use_lora True")
    return _idle(args, _not_of_loss(args, LOSS_ONLY), reason) + adapters


def _idle_with_one_exit(args: Any, policy: Policy) -> list[str]:
    both = ("exit_position_temp", "type_vocab_reduct")
    several = {name: off for name, off in EARLY_EXIT_ONLY.items() if name not in both}
    sentences = [*_idle(args, several, "With --use_shallow_deep True"), *_idle_pruning(args, policy)]
    if not policy.measure.contrasts:
        sentences += _idle(args, CONTRAST_ONLY, f"With --shallow2deep_conf_type {policy.confidence}")
    return sentences


def _idle_with_several(args: Any, policy: Policy) -> list[str]:
    shallow = _not_of_loss(args, SHALLOW_ONLY)
    sentences = [*_idle(args, shallow, "Without --use_shallow_deep True"), *_idle_pruning(args, policy)]
    if not policy.measure.contrasts:
        sentences += _idle(args, CONTRAST_ONLY, f"With --exit_conf_type {policy.confidence}")
    return sentences


def _idle_pruning(args: Any, policy: Policy) -> list[str]:
    if policy.pruning is None:
        return _idle(args, PRUNING_ONLY, "Without --type_vocab_reduct")
    if policy.pruning.reads_k or policy.adaptive_cap:
        return []
    return _idle(args, {"k": None}, f"With --type_vocab_reduct {policy.vocabulary}")


def _idle_own(args: Any, policy: Policy | None) -> list[str]:
    """A sentence on settings of rows that were given and are not in force; `policy` is that of exits, if there are."""
    if not args.extra:
        return []
    loss = LOSSES.get(args.intermediate_loss_fn)
    rows = [loss] + ([policy.pruning, THRESHOLDS[policy.threshold_kind]] if policy else [])
    in_force = {setting.name for row in rows if row is not None for setting in row.settings}
    names = [f"--{name}" for name in args.extra if name not in in_force]
    return [f"With the other flags as they are these have no effect: {', '.join(names)}."] if names else []


def _idle_threshold(args: Any, policy: Policy) -> list[str]:
    """A sentence where no confidence can be above the threshold."""
    if policy.threshold < 1:
        return []
    flag = "--shallow2deep_conf_threshold" if args.use_shallow_deep else "--exit_conf_threshold"
    return [f"No token can leave early, since no confidence is above 1: give a {flag} below 1."]


def data_problems(data_args: Any, training_args: Any) -> list[str]:
    """Sentences on stages that were asked for and have no data, and on a command that asks for no stage."""
    files = {"do_train": "train_file", "do_eval": "validation_file", "do_predict": "test_file"}
    stages = [stage for stage in files if getattr(training_args, stage)]
    if not stages:
        return ["There is nothing to do: give --do_train, --do_eval or --do_predict."]
    if data_args.dataset_name is not None:
        return []
    return [
        f"--{stage} needs --dataset_name or --{files[stage]}."
        for stage in stages
        if getattr(data_args, files[stage]) is None
    ]


def beam_problems(data_args: Any, training_args: Any, additional_args: Any) -> list[str]:
    """A sentence where beams and exits are asked for at once, since a beam has no exit layer of its own."""
    flag = "num_beams" if data_args.num_beams else "generation_num_beams"
    beams = data_args.num_beams or training_args.generation_num_beams or 1
    exits = {
        "--use_early_exit True": additional_args.use_early_exit,
        "--use_shallow_deep True": additional_args.use_shallow_deep,
        "--static_exit_layer": additional_args.static_exit_layer is not None,
    }
    return [
        f"Beams cannot be combined with exits: --{flag} {beams} with {name}; use --{flag} 1."
        for name, wanted in exits.items()
        if wanted and beams > 1
    ]


def length_problems(data_args: Any, training_args: Any) -> list[str]:
    """A sentence where the limit of an output leaves no room for a token behind the start token."""
    name, limit = answer_limit(data_args, training_args)
    if limit >= 2:
        return []
    return [f"--{name} {limit} leaves no room for an answer, since the start token counts: valid are 2 and above."]


def smoothing_problems(training_args: Any, additional_args: Any) -> list[str]:
    """A sentence where labels are to be smoothed for a loss of ours: the library smooths those of the last layer's
    logits, in the place of any other loss."""
    wanted = {
        "train_exit_translators": additional_args.train_exit_translators,
        "train_meta_cm_head": additional_args.train_meta_cm_head,
        f"intermediate_loss_fn {additional_args.intermediate_loss_fn}": additional_args.intermediate_loss_fn
        is not None,
    }
    name = next((name for name, asked in wanted.items() if asked), None)
    if not (training_args.do_train and training_args.label_smoothing_factor and name):
        return []
    return [f"--label_smoothing_factor would train the last layer in the place of --{name}: leave it out."]


def sharding_problems(training_args: Any, additional_args: Any) -> list[str]:
    """A sentence where exits are to be scored by a model of which no process has the whole."""
    if not (training_args.shares_weights and additional_args.eval_exit_layers):
        return []
    return ["--eval_exit_layers reads weights that under ZeRO-3 no process has: leave it out, or train with ZeRO-2."]


def answer_limit(data_args: Any, training_args: Any) -> tuple[str, int]:
    """The flag that bounds an answer in evaluation, and its tokens: of training's limit and evaluation's, which says
    the same where it was not given, the former."""
    if training_args.generation_max_length is not None:
        return "generation_max_length", training_args.generation_max_length
    own = next(name for name in vars(data_args) if name.startswith("val_max_"))
    limit, shared = getattr(data_args, own), own.removeprefix("val_")
    return (shared if limit == getattr(data_args, shared) else own), limit


def stop_problems(stop: Sequence[str] | None) -> list[str]:
    """A sentence where --stop has an empty text."""
    return ["--stop is empty: every answer would end at once."] if "" in (stop or ()) else []


def device_problems(device: str | None, flag: str = "--device") -> list[str]:
    """A sentence where this machine has no such device; None is none in particular."""
    valid = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        valid += [kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]
    if device is None or device in valid:
        return []
    return [f"{flag} {device} is not there: valid on this machine are {', '.join(valid)}."]


def folder_problems(folder: str) -> list[str]:
    """A sentence where nothing can be written to `folder`, which need not exist yet and is not created."""
    problem = folder_problem(folder)
    return [f"--output_dir {problem}"] if problem else []


def _unavailable(args: Any) -> list[str]:
    problems = package_problems("--use_lora", "peft") if args.use_lora else []
    for name, (off, feature) in LATER.items():
        value = getattr(args, name)
        if value not in off:
            names = [str(each) for each in off if each is not None]
            advice = f"valid is {' or '.join(names)}" if names else "leave the flag out"
            problems.append(f"--{name} {value} is not available yet in this version ({feature}): {advice}.")
    return problems


def _unknown(args: Any) -> list[str]:
    problems = []
    for name in ("exit_conf_type", "shallow2deep_conf_type"):
        value = getattr(args, name)
        if value is not None and value not in CONFIDENCES:
            problems.append(f"--{name} {value} is no measure of this version: valid are {', '.join(CONFIDENCES)}.")
    loss = args.intermediate_loss_fn
    if loss not in (None, *LOSSES):
        problems.append(f"--intermediate_loss_fn {loss} is no loss of this version: valid are {', '.join(LOSSES)}.")
        return problems
    return problems + layer_problems(loss, SimpleNamespace(**args.flags()), None)


def _own_problems(args: Any) -> list[str]:
    """Settings of rows that are none, or whose values may not be."""
    known = args.own_settings()
    unknown = [name for name in args.extra if name not in known]
    if unknown:
        return [f"extra holds {', '.join(unknown)}: valid are {', '.join(known) or 'none'}."]
    given = {name: value for name, value in args.extra.items() if value is not None}
    return [
        f"--{name} {value!r}: {known[name].advice(value)}"
        for name, value in given.items()
        if not known[name].allows(value)
    ]


def _policy_problems(args: Any) -> list[str]:
    """What the policy itself refuses, also while no exit is in force."""
    asked = copy.copy(args)  # which is not checked again, as another one made of its fields would be
    asked.static_exit_layer = None
    if not args.use_early_exit and not args.use_shallow_deep:
        for name, value in (EXITS_ONLY | {"use_early_exit": True, "use_adapt_threshold": False}).items():
            setattr(asked, name, value)
    try:
        asked.policy()
    except ValueError as error:
        return [str(error)]
    return []


def _exclusive(args: Any) -> list[str]:
    static = args.static_exit_layer is not None
    looks_at_deep_layers = {
        "--lossless": args.lossless,
        "--rollback_conf_threshold": args.rollback_conf_threshold is not None,
        "--use_adapt_threshold": args.use_adapt_threshold,
        "--skipped_states recompute": args.skipped_states == "recompute",
    }
    needing = [name for name, wanted in looks_at_deep_layers.items() if wanted]
    rules = {
        "--static_exit_layer and --use_early_exit exclude each other: the one leaves at a fixed layer, the other where "
        "confidence allows.": static and args.use_early_exit,
        "--static_exit_layer and --use_shallow_deep exclude each other: the one always leaves, the other where "
        "confidence allows.": static and args.use_shallow_deep,
        "--use_early_exit and --use_shallow_deep exclude each other: choose several exits or one.": args.use_early_exit
        and args.use_shallow_deep,
        f"--copy_skipped_hidden_states True never runs the layers a token skipped, but {', '.join(needing)} needs them "
        "run: give one or the other.": args.copy_skipped_hidden_states and bool(needing),
        "--exit_conf_type does not apply with --use_shallow_deep: give --shallow2deep_conf_type.": args.use_shallow_deep
        and args.exit_conf_type is not None,
        "--parallel_gen_token False is not possible: pending tokens always pass the deep layers in one block; "
        "valid is True.": not args.parallel_gen_token,
        "--train_meta_cm_head and --intermediate_loss_fn exclude each other: the head is trained on a frozen "
        "model.": args.train_meta_cm_head and args.intermediate_loss_fn is not None,
    }
    return [sentence for sentence, broken in rules.items() if broken] + _trained_beside_translators(args)


def _trained_beside_translators(args: Any) -> list[str]:
    """A sentence where something else is to be trained with exit translators, which are trained on a frozen model."""
    others = {
        f"--intermediate_loss_fn {args.intermediate_loss_fn}": args.intermediate_loss_fn is not None,
        "--train_meta_cm_head": args.train_meta_cm_head,
        "--use_lora": args.use_lora,
    }
    return [
        f"--train_exit_translators and {name} exclude each other: translators are trained on a model that stays as it "
        "is; train one after the other."
        for name, wanted in others.items()
        if wanted and args.train_exit_translators
    ]
