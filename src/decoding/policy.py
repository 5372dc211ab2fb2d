"""A decoding policy: which exits stand, and the four choices made at them.

A published method is one setting of these fields (DESIGN's table); the loop has no branch per method.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from decoding.confidence import CONFIDENCES, Measure
from decoding.pruning import VOCABULARIES
from decoding.thresholds import THRESHOLDS


@dataclass(frozen=True)
class Policy:
    """How a token may leave the decoder early. The default is the full model.

    Attributes:
        confidence: Name in `CONFIDENCES`, or None where no exit is tried.
        vocabulary: Name in `VOCABULARIES`.
        threshold: lam in [0, 1]; a row leaves where its confidence is strictly greater, so 1.0 is the full model.
        temperature: tau of the decaying threshold; None keeps it constant.
        length: N of the decaying threshold in answer tokens; None takes the call's max_new_tokens.
        first_exit: Lowest layer with an exit (exit_min_layer), at least 1.
        static_exit: Every token runs exactly this many layers; None for all.
    """

    confidence: str | None = None
    vocabulary: str = "none"
    threshold: float = 1.0
    temperature: float | None = None
    length: int | None = None
    first_exit: int = 1
    static_exit: int | None = None

    def __post_init__(self):
        problems = self._problems()
        if problems:
            raise ValueError(" ".join(problems))

    @classmethod
    def from_config(cls, config) -> Policy:
        """The policy that `update_autoconfig`, or an older checkpoint's config.json, wrote into a model's config."""
        static = getattr(config, "static_exit_layer", None)
        if not getattr(config, "use_early_exit", None):
            return cls(static_exit=static)
        return cls(
            confidence=_given(config, "exit_conf_type", "softmax"),
            threshold=_given(config, "exit_conf_threshold", 1.0),
            temperature=_given(config, "exit_position_temp", None),
            length=_given(config, "max_answer_length", None),
            first_exit=_given(config, "exit_min_layer", 1),
            static_exit=static,
        )

    @property
    def exits(self) -> bool:
        """Whether any token can run fewer than all layers."""
        return self.confidence is not None or self.static_exit is not None

    @property
    def measure(self) -> Measure:
        return CONFIDENCES[self.confidence]

    def exit_layers(self, num_layers: int) -> range:
        """The layers at which an exit is tried, 1-based; never the last one, where every token leaves anyway."""
        if self.confidence is None:
            return range(0)
        return range(max(self.first_exit, self.measure.first_layer), num_layers)

    def threshold_at(self, position: int, max_new_tokens: int) -> float:
        """The threshold for the answer token at `position`, counted from 1."""
        kind = "constant" if self.temperature is None else "decaying"
        return THRESHOLDS[kind](self.threshold, position, self.length or max_new_tokens, self.temperature)

    def describe(self) -> dict:
        """Every setting that shapes a run, for results, logs and the name of a run's folder."""
        if self.confidence is None:
            return {"method": "static", "static_exit": self.static_exit} if self.exits else {"method": "full"}
        described = {name: value for name, value in asdict(self).items() if name != "static_exit"}
        return {"method": "early_exit", **described}

    def check(self, num_layers: int) -> None:
        """Refuse exits that a model of `num_layers` decoder layers does not have.

        Raises:
            ValueError: One sentence per setting that does not fit.
        """
        problems = []
        if self.confidence is not None and self.first_exit >= num_layers:
            problems.append(
                f"exit_min_layer is {self.first_exit}, but the decoder has {num_layers} layers: "
                f"valid are 1 to {num_layers - 1}."
            )
        if self.static_exit is not None and not 1 <= self.static_exit <= num_layers:
            problems.append(f"static_exit_layer is {self.static_exit}: valid are 1 to {num_layers} for this decoder.")
        if problems:
            raise ValueError(" ".join(problems))

    def _problems(self) -> list[str]:
        problems = []
        if self.confidence is not None and self.static_exit is not None:
            problems.append(
                "static_exit_layer and use_early_exit exclude each other: a static exit is always taken, "
                "so no confidence is ever asked."
            )
        if self.confidence is not None and self.confidence not in CONFIDENCES:
            problems.append(f"exit_conf_type is {self.confidence!r}: valid are {', '.join(CONFIDENCES)}.")
        if self.vocabulary not in VOCABULARIES:
            problems.append(f"type_vocab_reduct is {self.vocabulary!r}: valid are {', '.join(VOCABULARIES)}.")
        if not 0 <= self.threshold <= 1:
            problems.append(f"exit_conf_threshold is {self.threshold}: valid are 0 to 1.")
        if self.first_exit < 1:
            problems.append(f"exit_min_layer is {self.first_exit}: valid are 1 and above.")
        if self.temperature is not None and self.temperature < 0:
            problems.append(f"exit_position_temp is {self.temperature}: valid are 0 and above.")
        return problems


def _given(config, name: str, default):
    value = getattr(config, name, None)
    return default if value is None else value
