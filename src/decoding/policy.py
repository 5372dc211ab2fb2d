"""A decoding policy: which exits stand, and the four choices made at them.

A published method is one setting of these fields (DESIGN's table); the loop has no branch per method.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from decoding.confidence import CONFIDENCES, Measure
from decoding.fields import wrong_types
from decoding.pruning import VOCABULARIES, Budget
from decoding.ranges import COUNT, FROM_TWO, FROM_ZERO, SHARE
from decoding.states import SKIPPED_STATES
from decoding.thresholds import THRESHOLDS
from decoding.verification import VERIFICATIONS, Verification

# What the token of an exit is read from: its distribution p_l, or the s that a contrastive measure makes of it.
EMISSIONS = ("exit", "contrastive")

PRUNING = ("k", "k_min", "k_max", "adaptive_scale", "adaptive_cap", "copy_share")
CONTRAST = ("alpha", "emit")
# Of recomputed states and their verification, left out of a description where they ask for nothing.
WAITING = {
    "last_exit": None,
    "adapts": False,
    "skipped": "copy",
    "verification": "none",
    "rollback_threshold": None,
    "num_speculations": None,
    "causal": True,
}
# Tokens that wait for the deep layers at most, where every one of them is verified.
LOSSLESS_SPECULATIONS = 8

# Field of a policy -> the flag it comes from, where that has another name; and where there is one exit.
FLAGS = {
    "confidence": "exit_conf_type",
    "vocabulary": "type_vocab_reduct",
    "threshold": "exit_conf_threshold",
    "temperature": "exit_position_temp",
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
# Flag -> the numbers it may have.
RANGES = {
    "exit_conf_threshold": SHARE,
    "shallow2deep_conf_threshold": SHARE,
    "exit_position_temp": FROM_ZERO,
    "exit_min_layer": COUNT,
    "shallow_exit_layer": COUNT,
    "k": FROM_TWO,
    "k_min": FROM_TWO,
    "k_max": FROM_TWO,
    "adaptive_scale": SHARE,
    "copy_share": SHARE,
    "contrastive_alpha": SHARE,
    "rollback_conf_threshold": FROM_ZERO,
    "num_speculations": COUNT,
}


@dataclass(frozen=True)
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
        k, k_min, k_max, adaptive_scale, adaptive_cap: Of pruning, see `decoding.pruning.Budget`.
        copy_share: Rows of the head are copied while rows * k is at most this share of the vocabulary; otherwise the
            whole head is multiplied and the survivors are read out. It changes no result.
        alpha: V_head of contrastive measures are the tokens of at least alpha times the highest probability.
        emit: One of `EMISSIONS`.
        skipped: Name in `SKIPPED_STATES`, what fills the layers a token skipped.
        verification: Name in `VERIFICATIONS`, what is done with the full model's word on tokens that had left early.
        rollback_threshold: Highest cross entropy of a token that stands, in nats, for rollback.
        num_speculations: Most tokens that may wait for the deep layers; None for no bound.
        causal: Whether slots that run the deep layers together see only those before them (parallel_causal_mask).
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
    causal: bool = True

    def __post_init__(self):
        problems = wrong_types(self) or self._problems()
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
    def prunes(self) -> bool:
        """Whether fewer rows of the head are multiplied after the first exit."""
        return VOCABULARIES[self.vocabulary] is not None

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
        """What is done with the full model's word on tokens that had left early."""
        return VERIFICATIONS[self.verification]

    @property
    def catches_up(self) -> bool:
        """Whether the full model's word on such tokens is wanted at all."""
        return self.recomputes and (self.verifies is not None or self.adapts)

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

    def budget(self, num_layers: int, vocabulary: int) -> Budget:
        """What the numbers of tokens to keep depend on, for a model of these sizes."""
        return Budget(
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
        kind = "constant" if self.temperature is None else "decaying"
        return THRESHOLDS[kind](self.threshold, position, self.length or max_new_tokens, self.temperature)

    def describe(self) -> dict:
        """Every setting that shapes a run, for results, logs and the name of a run's folder."""
        if self.confidence is None:
            return {"method": "static", "static_exit": self.static_exit} if self.exits else {"method": "full"}
        idle = {"static_exit", *(() if self.prunes else PRUNING), *(() if self.measure.contrasts else CONTRAST)}
        idle |= {name for name, off in WAITING.items() if getattr(self, name) == off}
        return {"method": "early_exit", **{name: value for name, value in asdict(self).items() if name not in idle}}

    def check(self, num_layers: int, vocabulary: int | None = None) -> None:
        """Refuse exits that a model of `num_layers` decoder layers does not have, and more tokens than it knows.

        Raises:
            ValueError: One sentence per setting that does not fit.
        """
        problems = [*self._exit_problems(num_layers), *self._vocabulary_problems(vocabulary)]
        if self.static_exit is not None and not 1 <= self.static_exit <= num_layers:
            problems.append(f"static_exit_layer is {self.static_exit}: valid are 1 to {num_layers} for this decoder.")
        if problems:
            raise ValueError(" ".join(problems))

    def _exit_problems(self, num_layers: int) -> list[str]:
        first, tried = self._flags["first_exit"], len(self.exit_layers(num_layers))
        if self.confidence is None:
            return []
        if self.first_exit >= num_layers:
            return [
                f"{first} is {self.first_exit}, but the decoder has {num_layers} layers: "
                f"valid are 1 to {num_layers - 1}."
            ]
        if not tried:
            return [
                f"{self._flags['confidence']} is {self.confidence!r}, which tries no exit below layer "
                f"{self.measure.first_layer}, so with {first} {self.first_exit} of {num_layers} layers no token would "
                "ever leave."
            ]
        if self.prunes and tried == 1:
            lower = "" if self.last_exit is not None else f"lower {first} or "
            return [
                f"type_vocab_reduct is {self.vocabulary!r}, but with {first} {self.first_exit} of {num_layers} "
                f"layers there is a single exit and nothing to prune after it: {lower}leave pruning out."
            ]
        return []

    def _vocabulary_problems(self, vocabulary: int | None) -> list[str]:
        """Of tokens to keep more than there are; k_max, which is but a number of the formula, may be any."""
        return [
            f"{name} is {value}, but the model knows {vocabulary} tokens: valid are 2 to {vocabulary}."
            for name, value in (("k", self.k), ("k_min", self.k_min))
            if value is not None and vocabulary is not None and value > vocabulary
        ]

    def _problems(self) -> list[str]:
        problems = []
        if self.confidence is not None and self.static_exit is not None:
            exits = "use_early_exit" if self.last_exit is None else "use_shallow_deep"
            problems.append(
                f"static_exit_layer and {exits} exclude each other: a static exit is always taken, so no confidence is "
                "ever asked."
            )
        if self.confidence is not None and self.confidence not in CONFIDENCES:
            problems.append(f"{self._flags['confidence']} is {self.confidence!r}: valid are {', '.join(CONFIDENCES)}.")
        if self.vocabulary not in VOCABULARIES:
            problems.append(f"type_vocab_reduct is {self.vocabulary!r}: valid are {', '.join(VOCABULARIES)}.")
        problems += self._range_problems()
        return problems or [*self._pruning_problems(), *self._contrast_problems(), *self._waiting_problems()]

    @property
    def _flags(self) -> dict[str, str]:
        """Field -> the flag that whoever reads a refusal has to change, where it is not called the same."""
        return FLAGS if self.last_exit is None else FLAGS_OF_ONE_EXIT

    def _range_problems(self) -> list[str]:
        named = {self._flags.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        return [
            f"{flag} is {named[flag]!r}: {valid.advice(named[flag])}"
            for flag, valid in RANGES.items()
            if named.get(flag) is not None and named[flag] not in valid
        ]

    def _pruning_problems(self) -> list[str]:
        problems = []
        if self.k_min is not None and self.k_max is not None and self.k_min > self.k_max:
            problems.append(f"k_min is {self.k_min} and k_max {self.k_max}: k_min may be k_max at most.")
        if self.prunes and self.confidence is None:
            problems.append(
                f"type_vocab_reduct is {self.vocabulary!r}, but no confidence is measured that would read the "
                "vocabulary: pruning needs use_early_exit."
            )
        elif self.prunes and not self.measure.reads_logits:
            reading = ", ".join(name for name, measure in CONFIDENCES.items() if measure.reads_logits)
            problems.append(
                f"type_vocab_reduct is {self.vocabulary!r}, but {self.confidence} reads no probabilities, so there is "
                f"nothing to prune: valid measures are {reading}."
            )
        return problems

    def _waiting_problems(self) -> list[str]:
        problems = []
        if self.skipped not in SKIPPED_STATES:
            problems.append(f"skipped_states is {self.skipped!r}: valid are {', '.join(SKIPPED_STATES)}.")
        if self.verification not in VERIFICATIONS:
            problems.append(f"verification is {self.verification!r}: valid are {', '.join(VERIFICATIONS)}.")
        if self.verification == "rollback" and self.rollback_threshold is None:
            problems.append("verification is 'rollback', which needs a rollback_conf_threshold.")
        if self.verification == "exact" and self.rollback_threshold is not None:
            problems.append(
                "lossless and rollback_conf_threshold exclude each other: the one keeps only what the full model "
                "would emit, the other what it finds likely enough."
            )
        if self.verification == "exact" and not self.causal:
            problems.append("lossless needs parallel_causal_mask True: the full model sees no token that is to come.")
        if not self.recomputes:
            wanting = {
                "lossless": self.verification == "exact",
                "rollback_conf_threshold": self.verification == "rollback",
                "num_speculations": self.num_speculations is not None,
                "use_adapt_threshold": self.adapts,
            }
            problems += [
                f"{name} needs skipped layers to be run later on: leave copy_skipped_hidden_states out, or give "
                "--skipped_states recompute with several exits."
                for name, wanted in wanting.items()
                if wanted
            ]
        elif self.looks_ahead:
            problems.append("The oracle runs every layer at once, so nothing waits: it goes with skipped_states copy.")
        if self.adapts and self.temperature is not None:
            problems.append("use_adapt_threshold and exit_position_temp exclude each other: fitted or decaying.")
        if self.adapts and (self.last_exit is None or self.last_exit != self.first_exit):
            problems.append("use_adapt_threshold is fitted to one exit: it goes with use_shallow_deep.")
        return problems

    def _contrast_problems(self) -> list[str]:
        problems = []
        if self.emit not in EMISSIONS:
            problems.append(f"emit is {self.emit!r}: valid are {', '.join(EMISSIONS)}.")
        elif self.emits_contrast and (self.confidence is None or self.measure.scores is None):
            scoring = ", ".join(name for name, measure in CONFIDENCES.items() if measure.scores is not None)
            problems.append(f"emit is 'contrastive', which needs a contrastive {self._flags['confidence']}: {scoring}.")
        return problems


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
        "causal": _switch(config, "parallel_causal_mask", True),
    }


def _default_threshold(config) -> float:
    """Without a threshold nothing leaves early, but where the full model verifies every token, which costs no token
    its place: there every token is drafted."""
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
