"""What a report shows of one run, or of two beside each other: read from their files, as JSON's own types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from analysis.layer_figures import BOX, mean_pairs
from analysis.quantities import Quantity, change, mean_exit, score, signed
from analysis.runs import RunFiles, flat, scores
from decoding import naming
from util.files import jsonable

# What a confidence says, for a reader who knows none of them.
MEASURES = {
    "softmax": "how far the probability of the likeliest token is ahead of the second's",
    "max_prob": "the probability of the likeliest token",
    "entropy": "1 where one token has all the probability, 0 where all tokens have the same",
    "state": "how little the layer changed the hidden state, as a cosine",
    "meta": "what a trained classifier takes for the probability that the last layer says the same",
    "oracle": "1 where the last layer will say the same token, which is looked up",
}
CONTRASTED = "how far the likeliest token is ahead of the second after a contrast with an earlier layer"

# Digits behind the point of numbers of a token.
DIGITS = 4
# Members of a contrast that are shown.
MEMBERS = 6


def report_of(runs: Sequence[RunFiles], most: int) -> tuple[dict, list[list[dict]]]:
    """What a page shows: all of it but the tokens, and the tokens of each example, run by run.

    Args:
        runs: One, or two that decoded some of the same examples.
        most: Examples that are shown at most, of those that all runs have.

    Raises:
        ValueError: A run kept no traces, or none of an example; or the runs share no example.
    """
    rows = [{row["id"]: row for row in run.examples} for run in runs]
    shared = [name for name in rows[0] if all(name in each for each in rows)]
    if not shared:
        raise ValueError(f"{' and '.join(str(run.folder) for run in runs)} share no example.")
    shown = shared[:most]
    kept = [tokens_of(run, [by_id[name] for name in shown]) for run, by_id in zip(runs, rows, strict=True)]
    tokens = [list(each) for each in zip(*kept, strict=True)]
    if len(runs) > 1:
        for one, other in tokens:
            one["differs"], other["differs"] = differences(one["texts"], other["texts"])
    keys = [scores()[run.score_key][1] for run in runs]
    examples = [
        {
            "id": name,
            "references": rows[0][name].get("references", []),
            "runs": [example(by_id[name], key, line) for by_id, key, line in zip(rows, keys, lines, strict=True)],
        }
        for name, lines in zip(shown, tokens, strict=True)
    ]
    page = {
        "title": " against ".join(naming.label(run.policy) for run in runs),
        "data": runs[0].data,
        "shared": len(shared),
        "runs": [describe(run) for run in runs],
        "summary": summary(runs),
        "settings": settings(runs),
        "examples": examples,
    }
    return jsonable(page), jsonable(tokens)


def example(row: dict, key: str | None, tokens: dict) -> dict:
    """What the list of examples says of an answer."""
    found = {"prediction": row["prediction"], "score": row.get(key) if key else None}
    exits = tokens["exits"]
    found |= {"tokens": len(exits), "layers": sum(exits) / len(exits) if exits else None}
    return found | {"differs": sum(tokens.get("differs", ()))}


# ------------------------------------------------------------------------------------------------------------ of a run
def describe(run: RunFiles) -> dict:
    """A run as a whole: its policy in words, where tokens left, and views where it has them."""
    return {
        "label": naming.label(run.policy),
        "told": told(run.policy, run.num_layers),
        "model": run.model,
        "folder": str(run.folder),
        "layers": run.num_layers,
        "score": run.score_name,
        "threshold": run.policy.get("threshold"),
        "left": [run.results["eval_exit_histogram"][str(layer)] for layer in range(1, run.num_layers + 1)],
        "ranks": ranks(run),
        "divergence": mean_pairs(run) if next(run.details("jsds"), None) else None,
    }


def told(policy: dict, layers: int) -> str:
    """When a token leaves, in a sentence or two, of a policy as the results describe it."""
    if policy["method"] == "full":
        return f"Every token runs all {layers} layers."
    if policy["method"] == "static":
        return f"Every token runs the first {policy['static_exit']} of {layers} layers."
    where = "the first layer" if policy.get("last_exit") is None else f"layer {policy['first_exit']}, its only exit,"
    name = policy["confidence"]
    called = name.removesuffix("_confidence")
    text = f"A token leaves after {where} where its {called} confidence is above {policy['threshold']:g}"
    text += " (a threshold that is fitted on the way)" if policy.get("adapts") else ""
    text += f"; otherwise it runs all {layers}. This confidence is {MEASURES.get(name, CONTRASTED)}."
    if policy.get("vocabulary", "none") != "none":
        text += f" Fewer words are considered from exit to exit ({policy['vocabulary']} pruning)."
    if policy.get("verification") == "exact":
        text += " The full model verifies every token, and only what it would say stands."
    elif policy.get("skipped") == "recompute":
        text += " The layers that tokens skipped are run later, several tokens at once."
    return text


def ranks(run: RunFiles) -> list[dict] | None:
    """Per layer from 0: of the tokens that ran it, percentiles of the rank it gives to the token emitted. None where no
    such view was kept."""
    by_layer: list[list[int]] = []
    for line in run.details("layers"):
        for token in line["rank"]:
            by_layer += [[] for _ in range(len(token) - len(by_layer))]
            for layer, rank in enumerate(token):
                by_layer[layer].append(rank)
    if not by_layer:
        return None
    return [{str(at): float(np.percentile(each, at)) for at in BOX.values()} | {"n": len(each)} for each in by_layer]


# ------------------------------------------------------------------------------------------------------------ of tokens
def tokens_of(run: RunFiles, examples: Sequence[dict]) -> list[dict]:
    """Of each example the tokens of its answer: a list per name, with an item per token.

    Raises:
        ValueError: The run kept no traces, or none of an example.
    """
    traces = chosen(run.details("traces"), examples)
    if not traces:
        raise ValueError(
            f"{run.folder} holds no traces.jsonl.gz of its examples, so no token's layer is known: runs with beams or "
            "--save_traces False keep none."
        )
    lost = next((row["id"] for row in examples if row["id"] not in traces), None)
    if lost is not None:
        raise ValueError(f"{run.folder}/traces.jsonl.gz lacks the example {lost}.")
    layers, jsds = (chosen(run.details(name), examples) for name in ("layers", "jsds"))
    found = []
    for row in examples:
        name = row["id"]
        held = of_trace(traces[name])
        held |= of_layers(layers[name]) if name in layers else {}
        held |= of_divergences(jsds[name]) if name in jsds else {}
        found.append(held)
    return found


def chosen(lines: Iterable[dict], examples: Sequence[dict]) -> dict[str, dict]:
    """Example -> the line of the input whose answer was chosen for it."""
    windows = {row["id"]: row.get("window", 0) for row in examples}
    return {line["id"]: line for line in lines if windows.get(line["id"]) == line["window"]}


def of_trace(line: dict) -> dict:
    """Where each token left, and what its exits said. Of runs from before texts were kept, tokens are their ids."""
    texts = line.get("texts") or [f" {token}" for token in line["tokens"]]
    held = {"texts": texts, "exits": line["exit_layers"], "rows": line["rows"]}
    if any(value is not None for each in line["confidences"] for value in each):
        held["confidence"] = rounded(line["confidences"])
        held |= {name: line[name] for name in ("threshold", "kept") if name in line}
    return held


def of_layers(line: dict) -> dict:
    """What every layer says, from layer 0 on."""
    return {"rank": line["rank"], "says": line.get("says"), "probability": rounded(line["probability"])}


def of_divergences(line: dict) -> dict:
    """The divergence of every earlier layer from the one a token left at, and what was contrasted there."""
    contrasts = []
    for each in line["contrast"]:
        head = {name: rounded(each[name][:MEMBERS]) for name in ("texts", "p", "p_amateur", "s")}
        contrasts.append({"amateur": each["amateur"], "size": each["size"], **head})
    return {"divergence": rounded([each[-1] for each in line["divergence"]]), "contrast": contrasts}


def rounded(value):
    """The same with shorter numbers."""
    if isinstance(value, float):
        return round(value, DIGITS)
    return [rounded(each) for each in value] if isinstance(value, list) else value


def differences(one: list[str], other: list[str]) -> tuple[list[int], list[int]]:
    """1 for each token of either that is not among those that both have, in their order; 0 for the others."""
    found = [1] * len(one), [1] * len(other)
    for first, second, size in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        found[0][first : first + size] = found[1][second : second + size] = [0] * size
    return found


# ------------------------------------------------------------------------------------------------------------ of tables
def summary(runs: Sequence[RunFiles]) -> list[dict]:
    """The numbers of the runs: name, what it says, and a value per run."""
    rows = [
        row("examples", "that were decoded", [f"{run.samples:,}" for run in runs]),
        row(runs[0].score_name, "mean over examples, % (95% interval)", [with_interval(score(run)) for run in runs]),
        row(
            "layers per token",
            "when a token was emitted (95% interval)",
            [f"{with_interval(mean_exit(run))} of {run.num_layers}" for run in runs],
        ),
        row("layer passes per token", "those run later or in vain included", [f"{run.layers_run:.2f}" for run in runs]),
        row(
            "decoder GFLOPs per example",
            "all arithmetic of the decoder",
            [f"{run.flops('decoder') / 1e9:.4g}" for run in runs],
        ),
    ]
    if any(run.acceptance_rate is not None for run in runs):
        rates = ["-" if run.acceptance_rate is None else f"{run.acceptance_rate:.1%}" for run in runs]
        rows.append(row("drafts accepted", "of the tokens drafted, how many stood", rates))
    return rows + (compared(*runs) if len(runs) > 1 else [])


def compared(one: RunFiles, other: RunFiles) -> list[dict]:
    """What two runs come to beside each other."""
    found = [row("same text", "examples with the same answer in both", [f"{one.same_output(other):,}"])]
    difference = change(one, other)
    if difference is not None:
        told = "{} ({})".format(*signed(difference))
        found.append(row(f"difference in {one.score_name}", "A minus B, over shared examples", [told]))
    return found


def row(name: str, says: str, values: Sequence[str]) -> dict:
    """Of a table; a single value is that of both runs together."""
    return {"name": name, "says": says, "values": list(values)}


def with_interval(quantity: Quantity) -> str:
    """88.00 (85.20 to 90.10); without the interval where there is none."""
    low, high = quantity.interval
    told = f" ({low:.2f} to {high:.2f})" if low < high else ""  # which nan is not
    return f"{quantity.value:.2f}{told}"


def settings(runs: Sequence[RunFiles]) -> list[dict]:
    """All settings and the environment of the runs by name, those that differ first."""
    held = [
        dict(flat(run.policy))
        | dict(flat({"environment": run.results.get("environment", {})}))
        | {"folder": str(Path(run.folder))}
        for run in runs
    ]
    rows = []
    for name in dict.fromkeys(name for each in held for name in each):
        values = [as_text(each[name]) if name in each else "-" for each in held]
        rows.append(row(name, "", values) | {"differs": len(set(values)) > 1})
    return sorted(rows, key=lambda each: not each["differs"])


def as_text(value) -> str:
    """A setting as it is shown."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
