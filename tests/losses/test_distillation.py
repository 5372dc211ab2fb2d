"""Which layers teach which, and what the linear map between them is trained by."""

from itertools import pairwise, product
from types import SimpleNamespace

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from losses.distillation import TRANSFORMATION, chosen_pairs, transformation, uniform_teachers
from losses.exits import LOSSES, loss_over_layers
from losses.layers import Layers, LayerStates

KD = [name for name in LOSSES if "kd" in name]


@pytest.mark.parametrize(
    ("shallow", "num_layers", "teachers"),
    [
        (6, 24, [4, 8, 12, 16, 20, 24]),
        (3, 12, [4, 8, 12]),
        (1, 12, [12]),
        (5, 12, [2, 5, 7, 10, 12]),
        (7, 9, [1, 3, 4, 5, 6, 8, 9]),
        (11, 12, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
    ],
)
def test_teachers_are_evenly_spaced_and_end_at_the_last_layer(shallow, num_layers, teachers):
    assert uniform_teachers(shallow, num_layers) == teachers


@hypothesis.given(st.integers(2, 60), st.data())
def test_teachers_of_any_size(num_layers, data):
    shallow = data.draw(st.integers(1, num_layers - 1))
    teachers = uniform_teachers(shallow, num_layers)
    assert len(teachers) == shallow and teachers[-1] == num_layers and teachers[0] >= 1
    assert teachers == sorted(set(teachers))
    assert all(abs(teacher - student * num_layers / shallow) <= 0.5 for student, teacher in enumerate(teachers, 1))


def by_search(far: dict, teachers: list[int], shallow: int) -> list[tuple[int, int]]:
    """Of all assignments that go strictly down, and stay where they are at the bottom, the one that is nearest for the
    deepest teacher, among these for the next one, and so on."""
    possible = []
    for students in product(range(1, shallow + 1), repeat=len(teachers)):
        if all(after < before or before == after == 1 for before, after in pairwise(students)):
            possible.append(list(zip(students, reversed(teachers), strict=True)))
    return min(possible, key=lambda pairs: [far[pair] for pair in pairs])


@hypothesis.given(st.integers(1, 4), st.integers(0, 10_000))
def test_dyna_is_what_a_search_of_all_assignments_finds(shallow, seed):
    teachers = uniform_teachers(shallow, 9)
    distances = torch.rand(shallow, len(teachers), generator=torch.Generator().manual_seed(seed))
    far = {(s, t): distances[s - 1, i].item() for s in range(1, shallow + 1) for i, t in enumerate(teachers)}
    assert chosen_pairs(far, teachers, shallow) == by_search(far, teachers, shallow)


@pytest.mark.parametrize("name", KD)
def test_students_alone_are_mapped_and_no_teacher_learns(name, states, labels, head):
    config = SimpleNamespace(shallow_exit_layer=2, distill_layer_alpha=1.0, do_layer_transformation=True, hidden_size=8)
    modules = transformation(config)
    layers = Layers(LayerStates(states[:-1], states), labels, head, config, modules)
    plain = loss_over_layers("shallowdeep_ce", layers)
    distance = loss_over_layers(name, layers) - plain
    gradients = torch.autograd.grad(distance, [*states, modules[TRANSFORMATION].weight], allow_unused=True)
    assert gradients[-1].abs().sum() > 0
    assert gradients[0] is not None or gradients[1] is not None
    for gradient in gradients[2:4]:  # layers above the shallow exit teach
        assert gradient is None or gradient.abs().max() < 1e-6
    with torch.no_grad():
        modules[TRANSFORMATION].weight.copy_(torch.eye(8))
        modules[TRANSFORMATION].bias.zero_()
    mapped = loss_over_layers(name, layers)
    torch.testing.assert_close(mapped, loss_over_layers(name, Layers(layers.states, labels, head, config)))


def test_there_is_a_map_only_where_it_is_asked_for():
    assert transformation(SimpleNamespace(hidden_size=8)) == {}
    (made,) = transformation(SimpleNamespace(hidden_size=8, do_layer_transformation=True)).values()
    assert isinstance(made, nn.Linear) and made.weight.shape == (8, 8)


@pytest.mark.parametrize("name", KD)
def test_a_weight_of_zero_leaves_the_cross_entropies(name, states, labels, head):
    config = SimpleNamespace(shallow_exit_layer=2, distill_layer_alpha=0.0)
    layers = Layers(LayerStates(states[:-1], states), labels, head, config)
    torch.testing.assert_close(loss_over_layers(name, layers), loss_over_layers("shallowdeep_ce", layers))
