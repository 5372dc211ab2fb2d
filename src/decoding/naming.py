"""The names of a policy: in the name of a run's folder, in a sentence, in tables and figures.

Tables and figures name policies of runs that may have been made elsewhere, with a measure or a setting that is not
registered here; so `method` and `label` read what `Policy.describe` wrote into the results, and nothing else.
"""

from __future__ import annotations

from decoding.confidence import CONFIDENCES
from decoding.policy_fields import PolicyFields
from decoding.settings import written
from decoding.thresholds import THRESHOLDS


def folder_name(policy: PolicyFields) -> str:
    """A policy in a few words that can stand in the name of a folder, such as softmax-0.9-min2."""
    if not policy.exits:
        return "full"
    if policy.confidence is None:
        return f"static-{policy.static_exit}"
    emitted = "-emitted" if policy.emits_contrast else ""
    exits = f"min{policy.first_exit}" if policy.last_exit is None else f"at{policy.first_exit}"
    verified = {"rollback": f"-rollback{policy.rollback_threshold}", "exact": "-lossless"}
    skipped = verified.get(policy.verification, "-recompute") if policy.recomputes else ""
    always = "-always" if policy.draft_always else ""
    return f"{policy.confidence}-{_threshold_name(policy)}{_pruning_name(policy)}{emitted}-{exits}{skipped}{always}"


def _threshold_name(policy: PolicyFields) -> str:
    """The level, and what becomes of it: 0.9, 0.9-decay4, or 0.9 with a kind and its own settings."""
    kind, row = policy.threshold_kind, THRESHOLDS[policy.threshold_kind]
    if row.name:
        return row.name.format(**policy.named_values)
    own = "-".join(written(policy.named_values[setting.name]) for setting in row.settings)
    return f"{policy.threshold:g}-{kind}{own}"


def _pruning_name(policy: PolicyFields) -> str:
    if policy.pruning is None:
        return ""
    own = "-".join(written(policy.named_values[setting.name]) for setting in policy.pruning.settings)
    return f"-{policy.vocabulary}{own}"


def sentence(policy: PolicyFields, num_layers: int) -> str:
    """A policy as a person would say it, of a decoder of so many layers."""
    if not policy.exits:
        return f"the full model, {num_layers} layers for every token"
    if policy.confidence is None:
        return f"every token leaves after {policy.static_exit} of {num_layers} layers"
    layers = policy.exit_layers(num_layers)
    where = f"the first of layers {layers.start} to {layers.stop - 1} of {num_layers}"
    if policy.last_exit is not None:
        where = f"layer {layers.start} of {num_layers}"
    emitted = ", tokens read from the contrastive distribution" if policy.emits_contrast else ""
    exits = f"a token leaves after {where} whose {policy.confidence} is above {_threshold_words(policy)}"
    return f"{exits}{_pruning_words(policy)}{emitted}{_skipped_words(policy)}"


def _threshold_words(policy: PolicyFields) -> str:
    kind, row = policy.threshold_kind, THRESHOLDS[policy.threshold_kind]
    if row.words:
        return row.words.format(**policy.named_values)
    return f"{policy.threshold:g}, {kind} threshold{_own(policy, row.settings)}"


def _pruning_words(policy: PolicyFields) -> str:
    if policy.pruning is None:
        return ""
    return f", {policy.vocabulary} pruning of the vocabulary{_own(policy, policy.pruning.settings)}"


def _own(policy: PolicyFields, settings) -> str:
    """Own settings of a row behind its name: (slope 0.5)."""
    told = [f"{each.name} {written(policy.named_values[each.name])}" for each in settings]
    return f" ({', '.join(told)})" if told else ""


def _skipped_words(policy: PolicyFields) -> str:
    """What becomes of the layers a token skipped, where they are not filled by copying its state."""
    if not policy.recomputes:
        return ""
    most = "" if policy.num_speculations is None else f" (at most {policy.num_speculations} of them pending)"
    word = {
        "none": "",
        "rollback": f"; one whose cross entropy there is above {policy.rollback_threshold} is replaced",
        "exact": "; only what the full model would emit stands",
    }
    if policy.drafts_where_it_pays:
        word["exact"] += ", and drafting stops where it does not pay"
    pending = f", tokens that left{most} run the layers above together with one that does not leave"
    return pending + word.get(policy.verification, f"; verified by {policy.verification}")


# ------------------------------------------------------------------------------------------------ of described policies
def method(described: dict) -> str:
    """A policy, as `Policy.describe` has it, but for its level, its first exit and how drafts are bounded."""
    if described["method"] != "early_exit":
        return {"full": "full model", "static": "static"}[described["method"]]
    measure = CONFIDENCES.get(described["confidence"])
    name = (measure and measure.label) or described["confidence"]
    if described.get("vocabulary", "none") != "none":
        name += f" + {described['vocabulary']}" + (" (capped)" if described.get("adaptive_cap") else "")
    if described.get("alpha", 0.1) != 0.1:
        name += f", alpha {described['alpha']:g}"
    if described.get("emit", "exit") == "contrastive":
        name += ", token from s"
    name += "".join(f", {setting} {written(value)}" for setting, value in described.get("extra", {}).items())
    return _with_skipped(described, name)


def _with_skipped(described: dict, name: str) -> str:
    """The name of a policy whose measure and pruning have one, with what becomes of skipped layers."""
    one_exit = described.get("last_exit") is not None
    if described.get("skipped", "copy") == "copy":
        return f"{name}, one exit" if one_exit else name
    exact = described.get("verification") == "exact"
    if one_exit:
        name = ("lossless" if exact else "FREE") + ("" if name == "softmax" else f" ({name})")
    else:
        name += ", lossless" if exact else ", recomputed"
    name += " + adaptive threshold" if described.get("adapts") else ""
    return name + (" + rollback" if described.get("verification") == "rollback" else "")


def label(described: dict) -> str:
    """A policy, as `Policy.describe` has it, with its level and its first exit: softmax > 0.9, from layer 2."""
    if described["method"] == "full":
        return "full depth"
    if described["method"] == "static":
        return f"static, layer {described['static_exit']}"
    decay = "" if described["temperature"] is None else f", decay {described['temperature']:g}"
    first = "" if described["first_exit"] == 1 else f", from layer {described['first_exit']}"
    return f"{method(described)} > {described['threshold']:g}{decay}{first}"
