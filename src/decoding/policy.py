"""A decoding policy: which exits stand, and the four choices made at them.

A published method is one setting of these fields; the loop has no branch per method. A policy is made once, of flags or
in Python, and handed on; it says itself what it is called (`decoding.naming`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from decoding import naming, policy_checks
from decoding.fields import wrong_types
from decoding.policy_fields import PolicyFields
from decoding.pruning import VOCABULARIES
from decoding.settings import values
from decoding.thresholds import THRESHOLDS

PRUNING = ("k", "k_min", "k_max", "adaptive_scale", "adaptive_cap", "copy_share")
CONTRAST = ("alpha", "emit")
# Left out of a description where they ask for nothing: field -> the value that does.
UNSAID: dict[str, Any] = {
    "last_exit": None,
    "adapts": False,
    "skipped": "copy",
    "verification": "none",
    "rollback_threshold": None,
    "num_speculations": None,
    "draft_always": False,
    "causal": True,
    "extra": {},
}
# Drafted tokens that may be pending at most, where every one of them is verified.
LOSSLESS_SPECULATIONS = 8


@dataclass(frozen=True, kw_only=True)
class Policy(PolicyFields):
    """How a token may leave the decoder early: `PolicyFields` that go together. The default is the full model.

    Raises:
        ValueError: A field has a value it may not have, or two contradict each other; a sentence for each.
    """

    def __post_init__(self):
        problems = wrong_types(self) or policy_checks.problems(self)
        if problems:
            raise ValueError(" ".join(problems))

    @classmethod
    def from_config(cls, config) -> Policy:
        """The policy that `update_autoconfig`, or an older checkpoint's config.json, wrote into a model's config."""
        static = getattr(config, "static_exit_layer", None)
        one_exit, several = _switch(config, "use_shallow_deep"), _switch(config, "use_early_exit")
        if not one_exit and not several:
            return cls(static_exit=static)
        shared = {
            "vocabulary": vocabulary_of(_given(config, "type_vocab_reduct", None)),
            "temperature": _given(config, "exit_position_temp", None),
            "length": _given(config, "max_answer_length", None),
            "static_exit": static,
            "k": _given(config, "k", None),
            "k_min": _given(config, "k_min", None),
            "k_max": _given(config, "k_max", None),
            "adaptive_scale": _given(config, "adaptive_scale", 0.9),
            "adaptive_cap": _given(config, "adaptive_cap", False),
            "copy_share": _given(config, "copy_share", 0.25),
            "alpha": _given(config, "contrastive_alpha", 0.1),
            "emit": _given(config, "emit", "exit"),
            "adapts": _switch(config, "use_adapt_threshold"),
            "extra": _extra(config),
            **_skipped(config, one_exit),
        }
        if one_exit:
            layer = _given(config, "shallow_exit_layer", None)
            if layer is None:
                raise ValueError("use_shallow_deep needs a shallow_exit_layer: give the layer of its one exit.")
            return cls(
                confidence=_given(config, "shallow2deep_conf_type", "softmax"),
                threshold=_given(config, "shallow2deep_conf_threshold", _default_threshold(config)),
                first_exit=layer,
                last_exit=layer,
                **shared,
            )
        return cls(
            confidence=_given(config, "exit_conf_type", "softmax"),
            threshold=_given(config, "exit_conf_threshold", _default_threshold(config)),
            first_exit=_given(config, "exit_min_layer", 1),
            **shared,
        )

    @property
    def name(self) -> str:
        """A few words that can stand in the name of a folder, such as softmax-0.9-min2."""
        return naming.folder_name(self)

    @property
    def method(self) -> str:
        """What tables and figures call it: JSD + fixed."""
        return naming.method(self.describe())

    def explain(self, num_layers: int) -> str:
        """The policy as a person would say it, of a decoder of so many layers."""
        return naming.sentence(self, num_layers)

    def describe(self) -> dict:
        """Every setting that shapes a run, for results, logs and the name of a run's folder."""
        if self.confidence is None:
            return {"method": "static", "static_exit": self.static_exit} if self.exits else {"method": "full"}
        idle = {"static_exit", *(() if self.prunes else PRUNING), *(() if self.measure.contrasts else CONTRAST)}
        held = asdict(self) | {"extra": self.own_values}
        idle |= {name for name, off in UNSAID.items() if held[name] == off}
        return {"method": "early_exit", **{name: value for name, value in held.items() if name not in idle}}

    def check(self, num_layers: int, vocabulary: int | None = None, tokenizer: str | None = None) -> None:
        """Refuse exits that a model of `num_layers` decoder layers does not have, more tokens than it knows, and tokens
        of another tokenizer.

        Args:
            vocabulary: V, rows of the head; None where it is not known.
            tokenizer: What stands for its tokenizer's vocabulary, see `decoding.frequent.vocabulary_digest`; None where
                it is not known.

        Raises:
            ValueError: One sentence per setting that does not fit.
        """
        problems = policy_checks.problems_in_model(self, num_layers, vocabulary, tokenizer)
        if problems:
            raise ValueError(" ".join(problems))


def _extra(config) -> dict:
    """Own settings of the kinds of pruning and of threshold that are in force, those with a default too: so results say
    them all."""
    given = {name: getattr(config, name, None) for name in policy_checks.own_settings()}
    pruning = VOCABULARIES.get(vocabulary_of(_given(config, "type_vocab_reduct", None)))
    settings = () if pruning is None else pruning.settings
    for kind in THRESHOLDS.values():
        if kind.chosen_by is not None and given.get(kind.chosen_by) not in (None, False):
            settings += kind.settings
    return {name: value for name, value in values(settings, given).items() if value is not None}


def _skipped(config, one_exit: bool) -> dict:
    """What fills skipped layers, and how it is verified: one exit recomputes unless told to copy, several copy unless
    told to recompute; verification needs recomputing."""
    lossless = _switch(config, "lossless")
    rollback = _given(config, "rollback_conf_threshold", None)
    copies = _switch(config, "copy_skipped_hidden_states")
    default = "recompute" if lossless or (one_exit and not copies) else "copy"
    return {
        "skipped": _given(config, "skipped_states", default),
        "verification": "exact" if lossless else "none" if rollback is None else "rollback",
        "rollback_threshold": rollback,
        "num_speculations": _given(config, "num_speculations", LOSSLESS_SPECULATIONS if lossless else None),
        "draft_always": lossless and _switch(config, "draft_always"),
        "causal": _switch(config, "parallel_causal_mask", True),
    }


def _default_threshold(config) -> float:
    """Without a threshold nothing leaves early, but where the full model verifies every token, which changes no
    output: there every token is drafted."""
    return 0.0 if _switch(config, "lossless") else 1.0


def vocabulary_of(value: str | bool | None) -> str:
    """The name in `VOCABULARIES` of a `type_vocab_reduct`: True is fixed, False and None are none."""
    text = str(value).lower()
    return {"true": "fixed", "false": "none", "none": "none"}.get(text, str(value))


def _given(config, name: str, default):
    value = getattr(config, name, None)
    return default if value is None else value


def _switch(config, name: str, default: bool = False) -> bool:
    """A flag that is on or off; a text such as "False" would be on."""
    value = _given(config, name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}: valid is True or False.")
    return value
