"""A decoding policy: which exits stand, and the four choices made at them.

A published method is one setting of these fields; the loop has no branch per method. A policy is made once, of flags or
in Python, and handed on; it says itself what it is called (`decoding.naming`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from decoding import naming, policy_checks
from decoding.confidence import CONFIDENCES, Measure
from decoding.fields import wrong_types
from decoding.pruning import VOCABULARIES, First, Pruning, PruningSettings, Schedule
from decoding.settings import values
from decoding.thresholds import THRESHOLDS
from decoding.verification import VERIFICATIONS, Verification

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
class Policy:
    """How a token may leave the decoder early. The default is the full model.

    Attributes:
        confidence: Name in `CONFIDENCES`, or None where no exit is tried.
        vocabulary: Name in `VOCABULARIES`.
        threshold: lam in [0, 1]; a row leaves where its confidence is strictly greater, so 1.0 is the full model.
        temperature: tau of the decaying threshold; None keeps it constant.
        length: N of the decaying threshold in answer tokens; None takes the call's max_new_tokens.
        adapts: Fit the threshold on the way (FREE); `threshold` counts until the first fit.
        first_exit: Lowest layer with an exit (exit_min_layer), at least 1.
        last_exit: Highest layer with an exit; None for the last layer but one.
        static_exit: Every token runs exactly this many layers; None for all.
        k, k_min, k_max, adaptive_scale, adaptive_cap: Of pruning, see `decoding.pruning.PruningSettings`.
        copy_share: Rows of the head are copied while rows * k is at most this share of the vocabulary; otherwise the
            whole head is multiplied and the survivors are read out. It changes no result.
        alpha: V_head of contrastive measures are the tokens of at least alpha times the highest probability.
        emit: One of `EMISSIONS`.
        skipped: Name in `SKIPPED_STATES`, what fills the layers a token skipped.
        verification: Name in `VERIFICATIONS`, what becomes of drafted tokens once the full model's logits are known.
        rollback_threshold: Highest cross entropy of an accepted token, in nats, for rollback.
        num_speculations: Most drafted tokens that may be pending; None for no bound.
        draft_always: Draft whatever it costs; otherwise drafts that are verified exactly stop where they do not pay.
        causal: Whether slots that run the deep layers together see only those before them (parallel_causal_mask).
        extra: Settings that the kind of pruning or of threshold brings along, see `decoding.settings.Setting`.
    """

    confidence: str | None = None
    vocabulary: str = "none"
    threshold: float = 1.0
    temperature: float | None = None
    length: int | None = None
    first_exit: int = 1
    last_exit: int | None = None
    static_exit: int | None = None
    k: int | None = None
    k_min: int | None = None
    k_max: int | None = None
    adaptive_scale: float = 0.9
    adaptive_cap: bool = False
    copy_share: float = 0.25
    alpha: float = 0.1
    emit: str = "exit"
    adapts: bool = False
    skipped: str = "copy"
    verification: str = "none"
    rollback_threshold: float | None = None
    num_speculations: int | None = None
    draft_always: bool = False
    causal: bool = True
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

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
    def exits(self) -> bool:
        """Whether any token can run fewer than all layers."""
        return self.confidence is not None or self.static_exit is not None

    @property
    def measure(self) -> Measure:
        assert self.confidence is not None, "no exit is tried, so nothing is measured"
        return CONFIDENCES[self.confidence]

    @property
    def pruning(self) -> Pruning | None:
        """The kind of pruning; None where the whole head is multiplied at every exit."""
        return VOCABULARIES[self.vocabulary]

    @property
    def prunes(self) -> bool:
        """Whether fewer rows of the head than all are multiplied at exits, the first one perhaps aside."""
        return self.pruning is not None

    @property
    def schedule(self) -> Schedule:
        """The numbers of surviving rows of the kind of pruning."""
        row = self.pruning
        assert row is not None, "nothing is pruned, so there are no numbers of rows"
        return partial(row.schedule, **values(row.settings, self.extra)) if row.settings else row.schedule

    @property
    def first(self) -> First | None:
        """What survives at the first exit, of a kind of pruning that knows it before."""
        row = self.pruning
        if row is None or row.first is None:
            return None
        return partial(row.first, **values(row.settings, self.extra))

    @property
    def threshold_kind(self) -> str:
        """Name in `THRESHOLDS`: the kind that something was given of, else constant."""
        return next(iter(self.chosen_thresholds), "constant")

    @property
    def chosen_thresholds(self) -> dict[str, str]:
        """Kind of threshold -> the field or setting by which it was chosen."""
        chosen = {kind: row.chosen_by for kind, row in THRESHOLDS.items() if row.chosen_by is not None}
        held = vars(self) | dict(self.extra)
        return {kind: name for kind, name in chosen.items() if held.get(name) not in (None, False)}

    @property
    def named_values(self) -> dict[str, Any]:
        """Name -> value of every field, and of `own_values`."""
        return vars(self) | self.own_values

    @property
    def own_values(self) -> dict[str, Any]:
        """Name -> value, as results say it, of what the kinds of pruning and of threshold in force bring along."""
        pruned = () if self.pruning is None else self.pruning.settings
        settings = THRESHOLDS[self.threshold_kind].settings + pruned
        given = {name: value for name, value in values(settings, self.extra).items() if value is not None}
        told = {setting.name: setting.told for setting in settings if setting.told is not None}
        return {name: told[name](value) if name in told else value for name, value in given.items()}

    @property
    def looks_ahead(self) -> bool:
        """Whether the last layer's token must be known before the first exit."""
        return self.confidence is not None and self.measure.looks_ahead

    @property
    def recomputes(self) -> bool:
        """Whether layers that a token skipped are run later on, when another token reaches them."""
        return self.confidence is not None and self.skipped == "recompute"

    @property
    def verifies(self) -> Verification | None:
        """What becomes of drafted tokens once the full model's logits are known; None where they stand as they are."""
        return VERIFICATIONS[self.verification]

    @property
    def catches_up(self) -> bool:
        """Whether the full model's logits of drafted tokens are wanted at all."""
        return self.recomputes and (self.verifies is not None or self.adapts)

    @property
    def drafts_where_it_pays(self) -> bool:
        """Whether drafting may stop, which changes no output: every drafted token is verified exactly."""
        return self.recomputes and self.verifies is not None and self.verifies.exact and not self.draft_always

    @property
    def emits_contrast(self) -> bool:
        """Whether a token that leaves is read from the contrastive distribution."""
        return self.emit == "contrastive"

    def exit_layers(self, num_layers: int) -> range:
        """The layers at which an exit is tried, 1-based; never the last one, where every token leaves anyway."""
        if self.confidence is None:
            return range(0)
        end = num_layers if self.last_exit is None else min(num_layers, self.last_exit + 1)
        return range(max(self.first_exit, self.measure.first_layer), end)

    def pruning_settings(self, num_layers: int, vocabulary: int) -> PruningSettings:
        """What the numbers of surviving rows depend on, for a model of these sizes."""
        return PruningSettings(
            vocabulary,
            num_layers,
            self.exit_layers(num_layers).start,
            self.k,
            self.k_min,
            self.k_max,
            self.adaptive_scale,
            self.adaptive_cap,
        )

    def threshold_at(self, position: int, max_new_tokens: int) -> float:
        """The threshold for the answer token at `position`, counted from 1."""
        row = THRESHOLDS[self.threshold_kind]
        read = {name: getattr(self, name) for name in row.reads}
        return row.at(
            self.threshold, position, self.length or max_new_tokens, **read, **values(row.settings, self.extra)
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
