"""What a decoding policy holds: which exits stand, and the four choices made at them; and what follows from that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any

from decoding.confidence import CONFIDENCES, Measure
from decoding.pruning import VOCABULARIES, First, Pruning, PruningSettings, Schedule
from decoding.settings import values
from decoding.thresholds import THRESHOLDS
from decoding.verification import VERIFICATIONS, Verification


@dataclass(frozen=True, kw_only=True)
class PolicyFields:
    """The fields of `decoding.policy.Policy`, unchecked. The default is the full model.

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
        k, k_min, k_max, adaptive_scale, adaptive_cap: Of pruning, see `decoding.pruning_settings.PruningSettings`.
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
    def reads_full_depth(self) -> bool:
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
        own = values(row.settings, self.extra)
        found = row.at(self.threshold, position, self.length or max_new_tokens, **read, **own)
        if not isinstance(found, Real) or math.isnan(found):
            raise ValueError(f"The threshold {self.threshold_kind!r} returned {found!r}: valid are numbers.")
        return found
