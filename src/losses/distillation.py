"""Distillation between layers (FREE, arXiv:2310.05424): layers up to the shallow exit learn the states of deep ones.

`shallowdeep_ce` + distill_layer_alpha * the mean over pairs (student layer, teacher layer) of the mean squared
difference of their final-normed, unscaled states, over labelled positions and width. Teachers are detached. With
do_layer_transformation a linear map, trained along, is on the students' side.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from losses.cross_entropies import shallowdeep_ce
from losses.layers import Layers

TRANSFORMATION = "layer_transformation"
# (layers, the shallow exit) -> pairs of a student layer and its teacher.
Pairing = Callable[[Layers, int], list[tuple[int, int]]]


def last_pairs(layers: Layers, shallow: int) -> list[tuple[int, int]]:
    """The shallow exit learns the last layer."""
    return [(shallow, layers.count)]


def uniform_teachers(shallow: int, num_layers: int) -> list[int]:
    """`shallow` layers, evenly spaced and ending at the last: 4, 8, ..., 24 for 6 of 24."""
    return [(2 * num_layers * student + shallow) // (2 * shallow) for student in range(1, shallow + 1)]


def uniform_pairs(layers: Layers, shallow: int) -> list[tuple[int, int]]:
    """Each student layer learns the teacher of its place."""
    return list(enumerate(uniform_teachers(shallow, layers.count), 1))


def nearest_pairs(layers: Layers, shallow: int) -> list[tuple[int, int]]:
    """The same teachers, but from the deepest down each takes the student layer of least squared difference strictly
    below the previous choice; where none is left, the previous one again."""
    teachers = uniform_teachers(shallow, layers.count)
    with torch.no_grad():
        students = {layer: student_state(layers, layer) for layer in range(1, shallow + 1)}
        far = {
            (student, teacher): functional.mse_loss(state, layers.normed(teacher)).item()
            for student, state in students.items()
            for teacher in teachers
        }
    return chosen_pairs(far, teachers, shallow)


def chosen_pairs(far: dict[tuple[int, int], float], teachers: Sequence[int], shallow: int) -> list[tuple[int, int]]:
    """The choice of `nearest_pairs` by the distances (student, teacher) -> mean squared difference."""
    pairs, below = [], shallow + 1
    for teacher in reversed(teachers):
        if below > 1:
            below = min(range(1, below), key=lambda student: far[student, teacher])
        pairs.append((below, teacher))
    return pairs


def student_state(layers: Layers, layer: int) -> Tensor:
    """What is compared of a student layer, [N, D]."""
    state, transformation = layers.normed(layer), layers.modules.get(TRANSFORMATION)
    return state if transformation is None else transformation(state)


def distilled(layers: Layers, pairs: Pairing) -> Tensor:
    """The loss under a way of pairing layers."""
    found = pairs(layers, layers.config.shallow_exit_layer)
    differences = [
        functional.mse_loss(student_state(layers, student).float(), layers.normed(teacher).detach().float())
        for student, teacher in found
    ]
    alpha = getattr(layers.config, "distill_layer_alpha", None)
    distance = torch.stack(differences).mean() if len(layers.targets) else 0.0
    return shallowdeep_ce(layers) + (1.0 if alpha is None else alpha) * distance


def transformation(config: Any) -> dict[str, nn.Module]:
    """The students' linear map, where one is asked for."""
    width = config.hidden_size
    return {TRANSFORMATION: nn.Linear(width, width)} if getattr(config, "do_layer_transformation", False) else {}


DISTILLATIONS = {
    "shallowdeep_kd_last": partial(distilled, pairs=last_pairs),
    "shallowdeep_kd_unif": partial(distilled, pairs=uniform_pairs),
    "shallowdeep_kd_dyna": partial(distilled, pairs=nearest_pairs),
}
DISTILLATION_READS = ("shallow_exit_layer", "distill_layer_alpha", "do_layer_transformation")
