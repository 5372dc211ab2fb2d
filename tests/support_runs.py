"""Finished runs as files, with numbers made up so that what figures make of them can be told."""

import gzip
import json
from pathlib import Path

from util.files import write_json, write_text

LAYERS = 4


def write_run(folder: Path, policy: dict, scores: list[float], exits: list[int], metric: str = "f1", **more) -> Path:
    """A run's folder: examples of one token each, with their scores and exit layers."""
    task, model = more.get("task", "invented_facts"), more.get("model", "t5_exits_trained")
    flops = more.get("flops", [100.0] * len(exits))
    counts = {"first": 10, "rows_first": 1000, "later": 20, "rows_later": 200, "kept_later": 100, "amateur_rows": 0}
    counts |= {"compared": 30, "single": 24, "taken": 8, "taken_single": 8}
    results = {
        f"eval_{'rougeL' if metric == 'rougeL' else 'f1'}": sum(scores) / len(scores),
        "eval_block_avg": sum(exits) / len(exits),
        "eval_layers_run": 5.0,
        "eval_layers_in_turn": 2.0 if policy.get("skipped") else sum(exits) / len(exits),
        "eval_exit_histogram": {str(layer): exits.count(layer) for layer in range(1, LAYERS + 1)},
        "eval_exit_counts": counts,
        "eval_flops_confidence_per_sample": sum(flops) / len(flops),
        "eval_flops_decoder_per_sample": 1000.0,
        "eval_tokens_per_second": 10.0,
        "eval_samples": len(scores),
        "eval_policy": {**policy, "task": task, "split": "validation", "model": model},
    }
    if policy.get("verification") == "exact":
        results["eval_acceptance_rate"] = 0.75
    write_json(folder / "all_results.json", results)
    rows = zip(scores, exits, flops, strict=True)
    lines = [
        {
            "id": f"e{i}",
            "prediction": f"{score:g}",
            metric: score,
            "tokens": 1,
            "layers": layer,
            "flops_confidence": cost,
            "flops_decoder": 1000.0,
        }
        for i, (score, layer, cost) in enumerate(rows)
    ]
    write_text(folder / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for kind, details in more.get("details", {}).items():
        text = "".join(json.dumps(line) + "\n" for line in details)
        (folder / f"{kind}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    if "layers" in more:
        write_json(folder / "layers.json", more["layers"])
    return folder


def early(confidence: str, first_exit: int, vocabulary: str = "none", **more) -> dict:
    """A policy of early exits, as runs describe it."""
    described = {"method": "early_exit", "confidence": confidence, "vocabulary": vocabulary, "threshold": 0.9}
    return described | {"temperature": None, "first_exit": first_exit} | more
