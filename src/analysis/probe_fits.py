"""Probes of statements: how they are split, fitted, and what they are held against."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analysis import intervals
from analysis.probe_features import Evidence
from jobs.fitting import Part
from training.reporting import progress

# Name -> an untrained probe of a seed, behind a scaler. The first is SAPLMA's (arXiv:2304.13734).
PROBES: dict[str, Callable[[int], Any]] = {
    "mlp": lambda seed: MLPClassifier((256, 128, 64), batch_size=32, max_iter=5, random_state=seed),
    "logistic": lambda seed: LogisticRegression(max_iter=1000, random_state=seed),
}
RANDOM, UNSEEN = "random", "unseen topics"
VOTE, CHOSEN = "majority of layers", "chosen layer"


class Split(NamedTuple):
    """Places of what a probe is fitted on and of what it is tested on; `name` is RANDOM or the topic that is unseen."""

    name: str
    train: np.ndarray
    test: np.ndarray


def splits(topics: Sequence[str], labels: np.ndarray, test_share: float, seed: int) -> list[Split]:
    """One at random, with as many true ones of each topic in both parts, and one per topic, which is seen in the test
    alone; none of these where there is one topic.

    Raises:
        ValueError: A topic has too few true or too few false statements to be parted.
    """
    names = np.array(topics)
    for topic in sorted(set(topics)):
        few = min(int((labels[names == topic] == label).sum()) for label in (True, False))
        if few < 4:
            raise ValueError(f"{topic} has {few} statements of one label: at least 4 true and 4 false ones are needed.")
    both = [f"{topic} {label}" for topic, label in zip(topics, labels, strict=True)]
    train, test = train_test_split(np.arange(len(labels)), test_size=test_share, stratify=both, random_state=seed)
    found = [Split(RANDOM, np.sort(train), np.sort(test))]
    if len(set(topics)) > 1:
        found += [
            Split(each, np.flatnonzero(names != each), np.flatnonzero(names == each)) for each in sorted({*topics})
        ]
    return found


def permuted(topics: Sequence[str], labels: np.ndarray, seed: int) -> np.ndarray:
    """Labels in another order within each topic: what a probe still finds in them is none of the model's doing."""
    names, drawn, found = np.array(topics), np.random.default_rng(seed), labels.copy()
    for topic in sorted(set(topics)):
        found[names == topic] = drawn.permutation(labels[names == topic])
    return found


class Outcome(NamedTuple):
    """What became of one way to tell on one split.

    Attributes:
        name: A key of PROBES or BASELINES.
        layer: That a probe reads, VOTE for the majority of its layers, CHOSEN for the one that other statements choose;
            None of a baseline.
        train_loss: Mean cross entropy in nats on what it was fitted on; None where it has none.
        train: Whether it is right, of each statement that it was fitted on; None where it was not fitted.
        test: The same of each that it was tested on.
        probability: That a statement of the test is true, as a probe says; None of others.
        chosen: Of CHOSEN the layer of each fold; empty of others.
    """

    name: str
    layer: int | str | None
    train_loss: float | None
    train: np.ndarray | None
    test: np.ndarray
    probability: np.ndarray | None = None
    chosen: tuple[int, ...] = ()


def fit(name: str, features: np.ndarray, labels: np.ndarray, split: Split, seed: int) -> dict[str, Any]:
    """A probe of features [N, F]: train_loss, and for each statement of both parts the probability that it is true."""
    probe = make_pipeline(StandardScaler(), PROBES[name](seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the MLP's epochs are few on purpose
        warnings.filterwarnings("ignore", message="Got `batch_size`")
        probe.fit(features[split.train], labels[split.train])
    train, test = (probe.predict_proba(features[part])[:, 1] for part in (split.train, split.test))
    return {
        "train_loss": float(log_loss(labels[split.train], train, labels=[False, True])),
        "train": torch.from_numpy(train).float(),
        "test": torch.from_numpy(test).float(),
    }


def fit_all(
    evidence: Evidence, labels: np.ndarray, found: Sequence[Split], probes: Sequence[str], seed: int, part: Part
) -> dict[str, dict[str, Any]]:
    """Every probe of every layer on every split, by `key`. It goes on where it was killed, and is kept in `part`."""
    done = part.read().get("fits", {})
    wanted = [(s, name, place) for s in found for name in probes for place in range(evidence.features.shape[1])]
    left = [each for each in wanted if key(each[0].name, *each[1:]) not in done]
    with progress(len(left), "Fitting") as advance:
        for split, name, place in left:
            features = evidence.features[:, place].numpy()
            done[key(split.name, name, place)] = fit(name, features, labels, split, seed)
            advance(1)
            part.write_sometimes({"fits": done})
    if left:
        part.write({"fits": done})
    return done


def key(split: str, probe: str, place: int) -> str:
    """What a fit of the layer at a place is kept under."""
    return f"{split}/{probe}/{place}"


def probe_outcomes(
    fits: dict[str, dict[str, Any]], labels: np.ndarray, split: Split, name: str, layers: Sequence[int]
) -> list[Outcome]:
    """Of a probe on a split: of every layer, and of the majority of more than one; ties go to the mean probability."""
    found = []
    for place, layer in enumerate(layers):
        held = fits[key(split.name, name, place)]
        train, test = (held[each].numpy() for each in ("train", "test"))
        right = [(p > 0.5) == labels[part] for p, part in ((train, split.train), (test, split.test))]
        found.append(Outcome(name, layer, held["train_loss"], *right, probability=test))
    if len(layers) > 1:
        p = np.stack([each.probability for each in found])
        votes = (p > 0.5).mean(0)
        said = np.where(votes == 0.5, p.mean(0) > 0.5, votes > 0.5)
        found.append(Outcome(name, VOTE, None, None, said == labels[split.test]))
    return found


# ------------------------------------------------------------------------------------------------------------ baselines
def above(values: np.ndarray, labels: np.ndarray, split: Split) -> np.ndarray:
    """Whether values are above the threshold that is right most often on the training part, [N]."""
    order = np.argsort(values[split.train], kind="stable")
    values_up, true = values[split.train][order], labels[split.train][order]
    # Right with the first i called false: false ones among them, and true ones beyond.
    right = np.concatenate([[0], np.cumsum(~true)]) + true.sum() - np.concatenate([[0], np.cumsum(true)])
    edges = np.concatenate([[-np.inf], (values_up[1:] + values_up[:-1]) / 2, [np.inf]])
    return values > edges[right.argmax()]


def _majority(evidence: Evidence, labels: np.ndarray, split: Split) -> np.ndarray:
    """What most of a part are, of each part itself: no answer that never changes is right more often."""
    said = np.zeros(len(labels), bool)
    for part in (split.train, split.test):
        said[part] = labels[part].mean() >= 0.5
    return said


def _own_word(evidence: Evidence, labels: np.ndarray, split: Split) -> np.ndarray:
    return evidence.answer.numpy() > 0


def _own_word_fitted(evidence: Evidence, labels: np.ndarray, split: Split) -> np.ndarray:
    return above(evidence.answer.numpy(), labels, split)


def _token_probability(evidence: Evidence, labels: np.ndarray, split: Split) -> np.ndarray:
    return above(evidence.token_log_p.numpy(), labels, split)


MAJORITY = "majority class"
# Name -> which statements it calls true, [N]; a threshold or a class is chosen on the training part.
BASELINES: dict[str, Callable[[Evidence, np.ndarray, Split], np.ndarray]] = {
    MAJORITY: _majority,
    "own next token": _own_word,
    "own next token, threshold fitted": _own_word_fitted,
    "token probability": _token_probability,
}


def baseline_outcomes(evidence: Evidence, labels: np.ndarray, split: Split) -> list[Outcome]:
    """Of every baseline on a split; without those that ask for words that the tokenizer has not."""
    wordless = bool(evidence.answer.isnan().any())
    found = []
    for name, says in BASELINES.items():
        if not (wordless and name.startswith("own")):
            right = says(evidence, labels, split) == labels
            found.append(Outcome(name, None, None, right[split.train], right[split.test]))
    return found


# -------------------------------------------------------------------------------------------------------------- numbers
def halves(count: int, seed: int) -> np.ndarray:
    """0 or 1 of each of so many statements at random, [N]."""
    return np.random.default_rng(seed).permutation(count) % 2


def chosen_layer(found: Sequence[Outcome], name: str, folds: np.ndarray) -> Outcome:
    """Of a probe on a split: each statement is told by the layer that is best on the other folds, the lower of two that
    are as good. The best layer by the statements it is tested on would be lucky there, the more so the more there are.

    Args:
        folds: Of each statement of the test, [N], at least two different ones.
    """
    layers = [each for each in found if each.name == name and isinstance(each.layer, int)]
    right, said, places = np.stack([each.test for each in layers]), np.zeros(len(folds), bool), []
    for fold in np.unique(folds):
        places.append(int(right[:, folds != fold].mean(1).argmax()))
        said[folds == fold] = right[places[-1], folds == fold]
    return Outcome(name, CHOSEN, None, None, said, chosen=tuple(int(layers[place].layer) for place in places))


def pooled(by_topic: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """The outcomes of splits by topic together, each statement tested once, while its topic was unseen."""
    found = []
    for each in zip(*by_topic, strict=True):
        losses = [one.train_loss for one in each if one.train_loss is not None]
        train = None if each[0].train is None else np.concatenate([one.train for one in each])
        loss = float(np.mean(losses)) if losses else None
        found.append(Outcome(each[0].name, each[0].layer, loss, train, np.concatenate([one.test for one in each])))
    return found


def numbers(split: str, found: Sequence[Outcome]) -> list[dict]:
    """Of each outcome of a split its accuracies and how far it is from the majority class on the same statements, each
    a `value` with a 95% `interval` over statements."""
    majority = next(each.test for each in found if each.name == MAJORITY)
    return [
        {
            "split": split,
            "name": each.name,
            "layer": each.layer,
            "chosen": list(each.chosen),
            "train_loss": each.train_loss,
            "train_accuracy": None if each.train is None else _quantity(each.train),
            "test_accuracy": _quantity(each.test),
            "over_majority": _quantity(each.test.astype(float) - majority),
            "n": len(each.test),
        }
        for each in found
    ]


def _quantity(values: np.ndarray) -> dict:
    return {"value": float(values.mean()), "interval": intervals.of_mean(values)}
