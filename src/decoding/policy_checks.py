"""What a policy may be: the numbers its fields may have, what contradicts itself, and the flags refusals speak of."""

from __future__ import annotations

from collections.abc import Mapping

from decoding.confidence import CONFIDENCES
from decoding.policy_fields import PolicyFields
from decoding.pruning import VOCABULARIES, Pruning
from decoding.ranges import COUNT, FROM_TWO, FROM_ZERO, SHARE, Range
from decoding.settings import Setting, values
from decoding.states import SKIPPED_STATES
from decoding.thresholds import THRESHOLDS, Threshold
from decoding.verification import VERIFICATIONS

# What the token of an exit is read from: its distribution p_l, or the s that a contrastive measure makes of it.
EMISSIONS = ("exit", "contrastive")

# Field of a policy -> the flag it comes from, where that has another name; and where there is one exit.
FLAGS = {
    "confidence": "exit_conf_type",
    "vocabulary": "type_vocab_reduct",
    "threshold": "exit_conf_threshold",
    "temperature": "exit_position_temp",
    "adapts": "use_adapt_threshold",
    "first_exit": "exit_min_layer",
    "static_exit": "static_exit_layer",
    "alpha": "contrastive_alpha",
    "skipped": "skipped_states",
    "rollback_threshold": "rollback_conf_threshold",
}
FLAGS_OF_ONE_EXIT = FLAGS | {
    "confidence": "shallow2deep_conf_type",
    "threshold": "shallow2deep_conf_threshold",
    "first_exit": "shallow_exit_layer",
}
# Field -> the numbers it may have. Settings of a row's own have theirs there.
RANGES = {
    "threshold": SHARE,
    "temperature": FROM_ZERO,
    "first_exit": COUNT,
    "static_exit": COUNT,
    "k": FROM_TWO,
    "k_min": FROM_TWO,
    "k_max": FROM_TWO,
    "adaptive_scale": SHARE,
    "copy_share": SHARE,
    "alpha": SHARE,
    "rollback_threshold": FROM_ZERO,
    "num_speculations": COUNT,
}


def flag_ranges() -> dict[str, Range]:
    """Flag -> the numbers it may have."""
    return {flags.get(name, name): valid for flags in (FLAGS, FLAGS_OF_ONE_EXIT) for name, valid in RANGES.items()}


def settings_of(table: Mapping[str, Pruning | Threshold | None]) -> dict[str, Setting]:
    """Name -> every setting that a row of a table brings along."""
    return {setting.name: setting for row in table.values() if row is not None for setting in row.settings}


def own_settings() -> dict[str, Setting]:
    """Name -> every setting that a kind of pruning or of threshold brings along."""
    return settings_of(VOCABULARIES) | settings_of(THRESHOLDS)


def problems_in_model(
    policy: PolicyFields, num_layers: int, vocabulary: int | None, tokenizer: str | None = None
) -> list[str]:
    """A sentence per setting that a model of `num_layers` decoder layers, which knows so many tokens, those of such a
    tokenizer, does not have."""
    problems = [*_exit_problems(policy, num_layers), *_vocabulary_problems(policy, vocabulary)]
    problems += _own_pruning_problems(policy, vocabulary, tokenizer)
    if policy.static_exit is not None and not 1 <= policy.static_exit <= num_layers:
        problems.append(f"static_exit_layer is {policy.static_exit}: valid are 1 to {num_layers} for this decoder.")
    return problems


def _exit_problems(policy: PolicyFields, num_layers: int) -> list[str]:
    first, tried = _flags(policy)["first_exit"], len(policy.exit_layers(num_layers))
    if policy.confidence is None:
        return []
    if policy.first_exit >= num_layers:
        return [
            f"{first} is {policy.first_exit}, but the decoder has {num_layers} layers: valid are 1 to {num_layers - 1}."
        ]
    if not tried:
        return [
            f"{_flags(policy)['confidence']} is {policy.confidence!r}, which tries no exit below layer "
            f"{policy.measure.first_layer}, so with {first} {policy.first_exit} of {num_layers} layers no token would "
            "ever leave."
        ]
    if policy.pruning is not None and policy.pruning.first is None and tried == 1:
        lower = "" if policy.last_exit is not None else f"lower {first} or "
        return [
            f"type_vocab_reduct is {policy.vocabulary!r}, but with {first} {policy.first_exit} of {num_layers} "
            f"layers there is a single exit and nothing to prune after it: {lower}leave pruning out."
        ]
    return []


def _vocabulary_problems(policy: PolicyFields, vocabulary: int | None) -> list[str]:
    """Of tokens to keep more than there are; k_max, which is but a number of the formula, may be any."""
    return [
        f"{name} is {value}, but the model knows {vocabulary} tokens: valid are 2 to {vocabulary}."
        for name, value in (("k", policy.k), ("k_min", policy.k_min))
        if value is not None and vocabulary is not None and value > vocabulary
    ]


def problems(policy: PolicyFields) -> list[str]:
    """A sentence per field that may not be as it is, whatever the model."""
    found = []
    if policy.confidence is not None and policy.static_exit is not None:
        exits = "use_early_exit" if policy.last_exit is None else "use_shallow_deep"
        found.append(
            f"static_exit_layer and {exits} exclude each other: a static exit is always taken, so no confidence is "
            "ever asked."
        )
    if policy.confidence is not None and policy.confidence not in CONFIDENCES:
        found.append(f"{_flags(policy)['confidence']} is {policy.confidence!r}: valid are {', '.join(CONFIDENCES)}.")
    if policy.vocabulary not in VOCABULARIES:
        found.append(f"type_vocab_reduct is {policy.vocabulary!r}: valid are {', '.join(VOCABULARIES)}.")
    found += _range_problems(policy) or _extra_problems(policy)
    if found:
        return found
    return [
        *_pruning_problems(policy),
        *_contrast_problems(policy),
        *_skipped_problems(policy),
        *_threshold_problems(policy),
    ]


def _flags(policy: PolicyFields) -> dict[str, str]:
    """Field -> the flag that whoever reads a refusal has to change, where it is not called the same."""
    return FLAGS if policy.last_exit is None else FLAGS_OF_ONE_EXIT


def _range_problems(policy: PolicyFields) -> list[str]:
    return [
        f"{_flags(policy).get(name, name)} is {value!r}: {valid.advice(value)}"
        for name, valid in RANGES.items()
        if (value := getattr(policy, name)) is not None and value not in valid
    ]


def _extra_problems(policy: PolicyFields) -> list[str]:
    """Own settings of no kind that there is, or of values they may not have."""
    known = own_settings()
    problems = [
        f"extra holds {name!r}: valid are {', '.join(known) or 'no settings, since no kind brings any along'}."
        for name in policy.extra
        if name not in known
    ]
    given = {name: value for name, value in policy.extra.items() if name in known and value is not None}
    return problems + [
        f"{name} is {value!r}: {known[name].advice(value)}"
        for name, value in given.items()
        if not known[name].allows(value)
    ]


def _pruning_problems(policy: PolicyFields) -> list[str]:
    problems = []
    if policy.k_min is not None and policy.k_max is not None and policy.k_min > policy.k_max:
        problems.append(f"k_min is {policy.k_min} and k_max {policy.k_max}: k_min may be k_max at most.")
    if policy.prunes and policy.confidence is None:
        problems.append(
            f"type_vocab_reduct is {policy.vocabulary!r}, but no confidence is measured that would read the "
            "vocabulary: pruning needs use_early_exit."
        )
    elif policy.prunes and not policy.measure.reads_logits:
        reading = ", ".join(name for name, measure in CONFIDENCES.items() if measure.reads_logits)
        problems.append(
            f"type_vocab_reduct is {policy.vocabulary!r}, but {policy.confidence} reads no probabilities, so there is "
            f"nothing to prune: valid measures are {reading}."
        )
    return problems or _own_pruning_problems(policy, None, None)


def _own_pruning_problems(policy: PolicyFields, vocabulary: int | None, tokenizer: str | None) -> list[str]:
    """What the kind of pruning itself says of its settings, of a model that knows so many tokens."""
    row = policy.pruning
    if row is None or row.check is None:
        return []
    return row.check(vocabulary, tokenizer, **values(row.settings, policy.extra))


def _skipped_problems(policy: PolicyFields) -> list[str]:
    problems = []
    if policy.skipped not in SKIPPED_STATES:
        problems.append(f"skipped_states is {policy.skipped!r}: valid are {', '.join(SKIPPED_STATES)}.")
    if policy.verification not in VERIFICATIONS:
        problems.append(f"verification is {policy.verification!r}: valid are {', '.join(VERIFICATIONS)}.")
    problems += _verification_problems(policy)
    if not policy.recomputes:
        wanting = {
            "lossless": policy.verification == "exact",
            "rollback_conf_threshold": policy.verification == "rollback",
            "num_speculations": policy.num_speculations is not None,
            "use_adapt_threshold": policy.adapts,
        }
        problems += [
            f"{name} needs skipped layers to be run later on: leave copy_skipped_hidden_states out, or give "
            "--skipped_states recompute with several exits."
            for name, wanted in wanting.items()
            if wanted
        ]
    elif policy.looks_ahead:
        problems.append("The oracle runs every layer at once, so none is pending: it goes with skipped_states copy.")
    return problems


def _verification_problems(policy: PolicyFields) -> list[str]:
    problems = []
    if policy.verification == "rollback" and policy.rollback_threshold is None:
        problems.append("verification is 'rollback', which needs a rollback_conf_threshold.")
    if policy.verification == "exact" and policy.rollback_threshold is not None:
        problems.append(
            "lossless and rollback_conf_threshold exclude each other: the one keeps only what the full model "
            "would emit, the other what it finds likely enough."
        )
    verification = VERIFICATIONS.get(policy.verification)
    if policy.draft_always and (verification is None or not verification.exact):
        problems.append(
            f"draft_always is True, but verification is {policy.verification!r}: drafts stop with lossless alone, so "
            "leave it out."
        )
    if policy.verification == "exact" and not policy.causal:
        problems.append("lossless needs parallel_causal_mask True: the full model sees no token that is to come.")
    return problems


def _threshold_problems(policy: PolicyFields) -> list[str]:
    problems = []
    chosen = policy.chosen_thresholds
    if len(chosen) > 1:
        flags = " and ".join(_flags(policy).get(name, name) for name in chosen.values())
        problems.append(f"{flags} exclude each other: {' or '.join(chosen)}.")
    if policy.adapts and (policy.last_exit is None or policy.last_exit != policy.first_exit):
        problems.append("use_adapt_threshold is fitted to one exit: it goes with use_shallow_deep.")
    return problems


def _contrast_problems(policy: PolicyFields) -> list[str]:
    problems = []
    if policy.emit not in EMISSIONS:
        problems.append(f"emit is {policy.emit!r}: valid are {', '.join(EMISSIONS)}.")
    elif policy.emits_contrast and (policy.confidence is None or policy.measure.scores is None):
        scoring = ", ".join(name for name, measure in CONFIDENCES.items() if measure.scores is not None)
        problems.append(f"emit is 'contrastive', which needs a contrastive {_flags(policy)['confidence']}: {scoring}.")
    return problems
