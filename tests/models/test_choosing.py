"""Which way is chosen and what is kept of it. Nothing here is timed: clocks are made up."""

import json
import multiprocessing
from itertools import count

import pytest
import torch

from models import choosing
from models.choosing import (
    BUDGET,
    LIBRARY,
    ROWS,
    Choices,
    Measured,
    Shape,
    Trial,
    best_of,
    kept_or_measured,
    measure,
)
from models.products import Linear
from models.ways import WAYS, Way
from support import tiny_gpt2, tiny_t5

SITUATION = "float32, 1 threads"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def samples(*sizes):
    """Shape -> weights of random numbers."""
    found = {}
    for inputs, outputs in sizes:
        matrix = torch.randn(outputs, inputs).t()
        found[Shape.of(matrix)] = [matrix]
    return found


def answer(name="other_side"):
    """Stands in for `measure`, and counts."""
    calls = []

    def measured(missing, known):
        calls.append(list(missing))
        found = {shape: dict.fromkeys(ROWS, name) | known.get(shape, {}) for shape in missing}
        return Measured(found, found)

    measured.calls = calls
    return measured


# -------------------------------------------------------------------------------------------------------- measuring
def trial(name, *seconds):
    made = Trial(name, 1, [torch.ones(4, 4)])
    made.seconds = list(seconds)
    return made


def test_the_library_stays_where_nothing_is_clearly_faster():
    assert best_of([trial(LIBRARY, 1.0), trial("other_side", 0.96)], 0.95) == LIBRARY
    assert best_of([trial(LIBRARY, 1.0), trial("other_side", 0.94), trial("padded", 0.9)], 0.95) == "padded"
    assert best_of([trial(LIBRARY, 1.0), trial("other_side", 0.94)], 0.75) == LIBRARY
    assert best_of([trial(LIBRARY, 1.0), trial("pieces", 0.99)], 0.75) == "pieces"
    assert best_of([trial(LIBRARY), trial("other_side", 0.1)], 0.95) is None
    assert best_of([trial(LIBRARY, 1.0), trial("other_side"), trial("padded", 0.5)], 0.95) == "padded"


def test_a_way_that_was_fast_by_chance_is_not_taken():
    """Once, of three times; or always but when the library's was as fast."""
    assert best_of([trial(LIBRARY, 1.0, 1.0, 1.1), trial("padded", 0.5, 1.0, 1.1)], 0.95) == LIBRARY
    assert best_of([trial(LIBRARY, 0.5, 1.0, 1.1), trial("padded", 0.5, 0.9, 0.9)], 0.95) == LIBRARY
    assert best_of([trial(LIBRARY, 1.0, 1.0, 1.1), trial("padded", 0.9, 0.9, 1.1)], 0.95) == "padded"


def costing(now, seconds):
    """A way that pushes a clock on by what it costs for a weight of so many columns, a row."""

    def bind(matrix):
        def multiply(states, added=None):
            now[0] += seconds(matrix.shape[1]) * len(states)
            return states.mm(matrix)

        return multiply

    return Way(bind)


def test_the_fastest_by_the_clock_is_found(monkeypatch):
    now = [0.0]
    table = {LIBRARY: 1e-5, "padded": 9.9e-6, "other_side": 5e-6}
    for name, seconds in table.items():
        monkeypatch.setitem(WAYS, name, costing(now, lambda columns, seconds=seconds: seconds))
    monkeypatch.setattr(choosing, "WAYS", {name: WAYS[name] for name in table})
    found, proved = measure(samples((8, 8), (8, 16)), clock=lambda: now[0])
    assert found == proved
    assert [set(ways.values()) for ways in found.values()] == [{"other_side"}] * 2
    assert all(set(ways) == set(ROWS) for ways in found.values())


def test_what_is_fast_with_a_small_weight_alone_is_not_taken(monkeypatch):
    """Nor is what is fast with all of it, if it is never multiplied at once."""
    monkeypatch.setattr(choosing, "SAMPLE", 8 * 4 * 4)
    monkeypatch.setattr(choosing, "LARGEST", 8 * 4 * 16)
    now = [0.0]
    table = {
        LIBRARY: lambda columns: 1e-6 * columns,
        "other_side": lambda columns: 1e-7 * columns if columns <= 4 else 1e-5 * columns,
        "padded": lambda columns: 9e-7 * columns,
    }
    monkeypatch.setattr(choosing, "WAYS", {name: costing(now, seconds) for name, seconds in table.items()})
    ((_, ways),) = measure(samples((8, 64)), clock=lambda: now[0]).proved.items()
    assert ways == dict.fromkeys(ROWS, "padded")


@pytest.mark.parametrize(("seconds", "taken"), [(0.5, "padded"), (0.9, None)])
def test_what_no_time_is_left_to_prove_is_taken_where_it_is_beyond_doubt(seconds, taken, monkeypatch):
    """Otherwise nothing is known of it, and the way of a weight that was never measured stays."""
    now = [0.0]
    table = {LIBRARY: lambda columns: 1.0, "padded": lambda columns: seconds}
    monkeypatch.setattr(choosing, "WAYS", {name: costing(now, each) for name, each in table.items()})
    wanted = samples((8, 8))
    known = {shape: dict.fromkeys(ROWS[1:], LIBRARY) for shape in wanted}
    found, proved = measure(wanted, known, budget=15.0, clock=lambda: now[0])
    assert [ways.get(1) for ways in found.values()] == [taken] and not any(proved.values())


def test_what_is_known_is_not_measured_again(monkeypatch):
    asked = []

    def bind(matrix):
        def multiply(states, added=None):
            asked.append(len(states))
            return states.mm(matrix)

        return multiply

    monkeypatch.setattr(choosing, "WAYS", {LIBRARY: Way(bind)})
    wanted = samples((8, 8))
    measure(wanted, {shape: dict.fromkeys((1, 2, 4), LIBRARY) for shape in wanted}, budget=60.0)
    assert set(asked) == {3, 8, 16}


@pytest.mark.parametrize("step", [1e-4, 1e-3, 1e-2, 1.0])
def test_measuring_keeps_to_its_budget(step, monkeypatch):
    """Of a clock that goes on by `step` whenever it is read: no product begins after the end, so the last one is over
    one product later."""
    ticks, products = count(), [0]

    def bind(matrix):
        def multiply(states, added=None):
            products[0] += 1
            return states.mm(matrix)

        return multiply

    monkeypatch.setattr(choosing, "WAYS", dict.fromkeys(WAYS, Way(bind)))
    readings = [0.0]

    def clock():
        readings[0] = next(ticks) * step
        return readings[0]

    found, proved = measure(samples((8, 8), (8, 16)), clock=clock)
    # Each number of rows reads the clock at its begin, and once more when it or a final finds that its time is over.
    assert readings[0] <= BUDGET + (4 * len(ROWS) + 2) * step
    assert products[0] <= BUDGET / step / 2 + len(ROWS)
    assert set(found) == set(samples((8, 8), (8, 16)))
    if step == 1.0:
        assert not any(found.values()) and not any(proved.values())


def test_samples_are_of_the_decoder():
    model = tiny_t5()
    (held,) = choosing.samples_of(model).values()
    head = Shape.of(model.lm_head.weight.t())
    assert str(head) in {str(shape) for shape in held}
    inside = {weight.data_ptr() for weight in model.encoder.parameters()} - {model.shared.weight.data_ptr()}
    assert not inside & {piece.data_ptr() for pool in held.values() for piece in pool}
    (gpt2,) = choosing.samples_of(tiny_gpt2(0)).values()
    assert any(not shape.by_output for shape in gpt2)


def test_weights_are_cut_into_pieces_of_about_equal_size():
    pieces = choosing.cut([torch.randn(100, 8).t(), torch.randn(100, 8).t()], 8 * 4 * 30)
    assert [piece.shape[1] for piece in pieces] == [25] * 8


# ----------------------------------------------------------------------------------------------------- what is kept
def test_it_is_measured_once_a_machine(cache):
    wanted, first, second = samples((8, 8)), answer(), answer("padded")
    assert kept_or_measured(SITUATION, wanted, first) == kept_or_measured(SITUATION, wanted, second)
    assert len(first.calls) == 1 and not second.calls
    more = samples((8, 8), (8, 16))
    found = kept_or_measured(SITUATION, more, second)
    assert [[str(shape) for shape in call] for call in second.calls] == [["8x16"]]  # what was there stays
    assert [ways[1] for ways in found.values()] == ["other_side", "padded"]
    kept_or_measured("float32, 2 threads", wanted, second)
    assert len(second.calls) == 2
    assert not list(cache.glob("**/.*"))  # no temporary file is left


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"text"', "\x00\xff", '{"machine": {}, "chosen": {}}', "null", "[" * 200_000],
)
def test_a_corrupted_or_foreign_file_is_measured_again(cache, text):
    wanted = samples((8, 8))
    kept_or_measured(SITUATION, wanted, answer())
    path = choosing.cache_file()
    path.write_text(text, encoding="latin-1")
    again = answer("padded")
    assert kept_or_measured(SITUATION, wanted, again)[next(iter(wanted))][1] == "padded"
    assert len(again.calls) == 1
    assert json.loads(path.read_text())["machine"] == choosing.machine()


@pytest.mark.parametrize("change", [{"1": "no such way"}, {"1": 7}, {"1": ["library"]}, {"1": {}}, {"1": None}, {}])
def test_an_entry_that_makes_no_sense_is_measured_again(cache, change):
    wanted = samples((8, 8))
    kept_or_measured(SITUATION, wanted, answer())
    path = choosing.cache_file()
    held = json.loads(path.read_text())
    held["chosen"][SITUATION]["8x8"] = change and held["chosen"][SITUATION]["8x8"] | change
    path.write_text(json.dumps(held))
    again = answer("padded")
    kept_or_measured(SITUATION, wanted, again)
    assert len(again.calls) == 1


def test_what_was_not_proved_is_not_kept_and_measured_by_the_next(cache):
    wanted = samples((8, 8))
    shape = next(iter(wanted))
    part = {shape: {1: "padded", 2: "padded"}}
    first = kept_or_measured(SITUATION, wanted, lambda missing, known: Measured(part, {shape: {1: "padded"}}))
    assert first == part
    again = answer()
    expected = {shape: dict.fromkeys(ROWS, "other_side") | {1: "padded"}}
    assert kept_or_measured(SITUATION, wanted, again) == expected
    assert kept_or_measured(SITUATION, wanted, again) == expected and len(again.calls) == 1


@pytest.mark.parametrize("broken", ["file in the way", "read-only"])
def test_where_nothing_can_be_written_it_is_measured_each_time(tmp_path, monkeypatch, broken):
    home = tmp_path / "home"
    if broken == "file in the way":
        home.write_text("")
    else:

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        home.mkdir()
        monkeypatch.setattr(choosing, "write_json", refuse)
        monkeypatch.setattr(choosing, "locked", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    wanted, measured = samples((8, 8)), answer()
    for times in (1, 2):
        kept_or_measured(SITUATION, wanted, measured)
        assert len(measured.calls) == times


def test_without_a_home_it_is_measured_each_time(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(choosing.Path, "home", nowhere)
    wanted, measured = samples((8, 8)), answer()
    for times in (1, 2):
        kept_or_measured(SITUATION, wanted, measured)
        assert len(measured.calls) == times


def test_a_folder_that_hangs_on_where_one_stands_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setattr(choosing.Path, "home", lambda: tmp_path)
    assert choosing.cache_folder() == tmp_path / ".cache" / "early-exit"


def _measure_slowly(folder, started, done):
    import os

    os.environ["XDG_CACHE_HOME"] = folder

    def measured(missing, known):
        started.set()
        done.wait(60)
        found = {shape: dict.fromkeys(ROWS, "padded") for shape in missing}
        return Measured(found, found)

    kept_or_measured(SITUATION, samples((8, 8)), measured)


def test_of_two_processes_at_once_one_measures(cache, monkeypatch):
    monkeypatch.setattr(choosing, "PATIENCE", 60.0)
    context = multiprocessing.get_context("spawn")
    started, done = context.Event(), context.Event()
    other = context.Process(target=_measure_slowly, args=(str(cache), started, done))
    other.start()
    assert started.wait(120)
    asleep = []

    def sleep(seconds):
        if not asleep:
            done.set()
        asleep.append(seconds)
        started.wait(0.01) and other.join(0.05)

    monkeypatch.setattr(choosing.time, "sleep", sleep)
    own = answer()
    found = kept_or_measured(SITUATION, samples((8, 8)), own)
    other.join(60)
    assert asleep and not own.calls and set(found[next(iter(found))].values()) == {"padded"}


# --------------------------------------------------------------------------------------------------------- in force
def chosen(monkeypatch, ways):
    """Choices of `auto` that a model's shapes were given."""
    choices = Choices("auto")
    monkeypatch.setattr(choosing, "kept_or_measured", lambda situation, wanted: dict.fromkeys(wanted, ways))
    choices.choose(tiny_t5())
    return choices


def test_rows_between_those_measured_go_the_way_of_the_next(monkeypatch):
    choices = chosen(monkeypatch, {1: "padded", 4: "other_side"})
    matrix = torch.randn(24, 24).t()
    found = [choices.way_for(matrix, rows) for rows in (1, 2, 3, 4, 5, 16, 17)]
    assert found == ["padded", LIBRARY, LIBRARY, "other_side", LIBRARY, LIBRARY, LIBRARY]
    assert choices.way_for(torch.randn(23, 24).t(), 4) == "other_side"  # of no model: as the nearest shape


def test_a_model_is_asked_about_once(monkeypatch):
    calls = []
    monkeypatch.setattr(choosing, "kept_or_measured", lambda situation, wanted: calls.append(situation) or {})
    choices, model = Choices("auto"), tiny_t5()
    choices.choose(model)
    choices.choose(model)
    assert len(calls) == 1
    Choices("library").choose(model)
    Choices("padded").choose(model)
    assert len(calls) == 1


def test_the_environment_says_what_is_in_force_where_nobody_else_does(monkeypatch):
    choices = Choices()
    assert choices.mode == LIBRARY  # as all tests have it
    monkeypatch.delenv(choosing.VARIABLE)
    assert choices.mode == "auto"
    monkeypatch.setenv(choosing.VARIABLE, "padded")
    assert choices.way_for(torch.randn(8, 8), 3) == "padded" and choices.way_for(torch.randn(8, 8), 2) == LIBRARY
    choices.use("other_side")
    assert choices.record() == {"mode": "other_side"}
    with pytest.raises(ValueError, match="products is 'fast': valid are auto, library"):
        choices.use("fast")
    monkeypatch.setenv(choosing.VARIABLE, "fast")
    with pytest.raises(ValueError, match=f"{choosing.VARIABLE} is 'fast': valid are auto"):
        choices.use(None)


def test_a_call_keeps_its_ways(monkeypatch):
    layer = Linear(torch.randn(8, 8))
    first = layer(torch.randn(1, 8))
    monkeypatch.setenv(choosing.VARIABLE, "no such way")  # which asking again would refuse
    assert layer(torch.randn(1, 8)).shape == first.shape


def test_a_model_of_another_type_is_measured_anew(monkeypatch):
    asked = []
    monkeypatch.setattr(choosing, "kept_or_measured", lambda situation, wanted: asked.append(situation) or {})
    choices, model = Choices("auto"), tiny_t5()
    for dtype in (torch.float32, torch.float32, torch.bfloat16):
        choices.choose(model.to(dtype))
    assert [situation.split(",")[0] for situation in asked] == ["float32", "bfloat16"]
