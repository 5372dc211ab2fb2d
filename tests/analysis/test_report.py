"""The page of a run: what lies in it, and what a browser shows of it."""

import json
from html.parser import HTMLParser
from itertools import compress, pairwise
from operator import not_
from pathlib import Path

import pytest

from analysis.report import embedded, html_of, main
from analysis.report_data import differences, of_trace, report_of, told
from analysis.runs import read_run
from support_browser import Browser, chromium
from support_runs import LAYERS, early, write_run
from util.files import jsonl

HOSTILE = {
    "script": "</script><script>document.title = 'taken over'</script>",
    "quotes": "\"double\" 'single' & <b>bold</b> <!-- comment",
    "right_to_left": "שלום עולם, see @@tokens@@\u2028\u202eabc",
    "broken": "half a pair \ud83d of \\ud800",
}
VOCABULARY = 1000


def pieces(text: str) -> list[str]:
    """A text cut before its spaces."""
    return text.replace(" ", "\0 ").split("\0")


def exit_of(place: int) -> int:
    return 1 + place % LAYERS


def trace(name: str, texts: list[str], window: int = 0) -> dict:
    """Token i leaves after layer 1 + i mod L; an exit's confidence is layer / 10, and 0.95 where it leaves."""
    exits = [exit_of(i) for i in range(len(texts))]
    confidences = [
        [None if layer == LAYERS else 0.95 if layer == left else layer / 10 for layer in range(1, left + 1)]
        for left in exits
    ]
    kept = [[VOCABULARY - layer for layer in range(1, left + 1)] for left in exits]
    line = {"id": name, "window": window, "tokens": list(range(len(texts))), "exit_layers": exits, "texts": texts}
    return line | {"confidences": confidences, "kept": kept, "rows": kept, "threshold": [0.9] * len(texts)}


def view(name: str, texts: list[str]) -> dict:
    """Ranks and divergences that fall from layer to layer."""
    exits = [exit_of(i) for i in range(len(texts))]
    line = {"id": name, "window": 0, "rank": [list(range(left + 1, 0, -1)) for left in exits]}
    line |= {"says": [[f"w{layer}" for layer in range(left + 1)] for left in exits]}
    line |= {"probability": [[layer / 10 for layer in range(left + 1)] for left in exits]}
    contrast = {"amateur": 2, "size": 3, "texts": ["one", "two"], "p": [0.5, 0.3], "p_amateur": [0.2, 0.3]}
    contrast["s"] = [0.9, 0.1]
    line |= {"divergence": [[[0.1 * (i - j) for j in range(i)] for i in range(left + 1)] for left in exits]}
    return line | {"contrast": [contrast] * len(texts)}


def make(folder: Path, answers: dict[str, str], policy: dict | None = None, views: bool = False) -> Path:
    """A run's folder with these answers, one window each."""
    cut = {name: pieces(text) for name, text in answers.items()}
    details = {"traces": [trace(name, texts) for name, texts in cut.items()]}
    if views:
        details |= {kind: [view(name, texts) for name, texts in cut.items()] for kind in ("layers", "jsds")}
    exits = [exit_of(i) for texts in cut.values() for i in range(len(texts))]
    scores = [float(100 - 10 * (i % 3)) for i in range(len(answers))]
    write_run(folder, policy or early("softmax", 1), [1.0] * len(exits), exits, details=details)
    rows = [
        {"id": name, "prediction": text, "references": [f"reference of {name}"], "f1": score}
        | {"tokens": len(cut[name]), "layers": sum(exit_of(i) for i in range(len(cut[name])))}
        for (name, text), score in zip(answers.items(), scores, strict=True)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)  # half a pair of surrogates is written as JSON has it
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    return folder


ANSWERS = {"e1": "The tower of Arden is red", "e2": "a river runs", "e3": "it does"}
OTHERS = {"e1": "The tower of Colmar is red", "e2": "a river runs", "e4": "only here"}


@pytest.fixture
def run(tmp_path):
    return make(tmp_path / "one", ANSWERS)


@pytest.fixture
def two(tmp_path, run):
    return run, make(tmp_path / "other", OTHERS, {"method": "full"}, views=True)


# ---------------------------------------------------------------------------------------------------- what lies in it
class Scripts(HTMLParser):
    """The script elements of a page: their attributes and contents; and all attributes that could load something."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[dict, str]] = []
        self.loads: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        self.found += [(dict(attrs), "")] if self._inside else []
        self.loads += [value for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            attributes, text = self.found[-1]
            self.found[-1] = attributes, text + data


def test_all_texts_lie_in_the_page_as_json(tmp_path):
    folder = make(tmp_path / "run", HOSTILE)
    page, tokens = report_of([read_run(folder)], 10)
    text = html_of(page, tokens)
    found = Scripts(text)
    assert [attributes.get("id") for attributes, _ in found.found] == ["page", *(f"tokens-{i}" for i in range(4)), None]
    assert [json.loads(text) for _, text in found.found[:-1]] == [page, *tokens]
    assert found.loads == ["#examples"] and "default-src 'none'" in text
    assert [each["runs"][0]["prediction"] for each in page["examples"]] == list(HOSTILE.values())


@pytest.mark.parametrize("text", [*HOSTILE.values(), "<script", "<!--", "]]>"])
def test_no_text_ends_its_element(text):
    assert json.loads(embedded([text])) == [text]
    assert "<" not in embedded([text]) and embedded([text]).isascii()


@pytest.mark.parametrize(("one", "other"), [("abcd", "abxd"), ("", "ab"), ("aab", "aba"), ("abc", "abc"), ("ab", "cd")])
def test_without_what_differs_two_answers_are_the_same(one, other):
    flags = differences(list(one), list(other))
    mine, theirs = ([*compress(text, map(not_, flag))] for text, flag in zip((one, other), flags, strict=True))
    assert mine == theirs and (one != other or sum(map(sum, flags)) == 0)


def test_two_runs_show_what_both_have(two):
    page, tokens = report_of([read_run(folder) for folder in two], 10)
    assert [each["id"] for each in page["examples"]] == ["e1", "e2"] and page["shared"] == 2
    assert [each["differs"] for each in tokens[0]] == [[0, 0, 0, 1, 0, 0]] * 2
    assert [each["runs"][0]["differs"] for each in page["examples"]] == [1, 0]
    differing = {row["name"] for row in page["settings"] if row["differs"]}
    assert {"method", "threshold", "folder"} <= differing and "task" not in differing
    assert [row["values"] for row in page["summary"] if row["name"] == "same text"] == [["1"]]
    assert page["runs"][0]["ranks"] is None and page["runs"][1]["ranks"][0]["50"] == pytest.approx(3.0)
    assert len(report_of([read_run(two[0])], 2)[1]) == 2


def test_of_several_windows_the_chosen_one_is_shown(run):
    rows = [json.loads(line) | {"window": 1} for line in (run / "predictions.jsonl").read_text().splitlines()]
    (run / "predictions.jsonl").write_bytes(jsonl(rows))
    with pytest.raises(ValueError, match=r"no traces.jsonl.gz of its examples"):
        report_of([read_run(run)], 10)


def test_runs_of_before_texts_were_kept_show_ids():
    held = of_trace({**trace("e1", ["a", "b"]), "texts": None})
    assert held["texts"] == [" 0", " 1"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"method": "full"}, "Every token runs all 8 layers."),
        ({"method": "static", "static_exit": 3}, "Every token runs the first 3 of 8 layers."),
        (early("softmax", 1), "the first layer where its softmax confidence is above 0.9; otherwise it runs all 8"),
        (early("state", 2, last_exit=2, skipped="recompute"), "layer 2, its only exit, where its state confidence"),
        (early("softmax", 1, "fixed", verification="exact"), "(fixed pruning). The full model verifies every token"),
    ],
)
def test_a_policy_is_told_in_a_sentence(policy, words):
    assert words in told(policy, 8)


def test_what_makes_no_page_is_refused(two, tmp_path, capsys):
    one, other = map(str, two)
    (tmp_path / "bare").mkdir()
    alone = make(tmp_path / "alone", {"x": "y"})
    out = ["--out", str(tmp_path / "page.html")]
    for words, problem in (
        (["--run", one, "--run", other, "--run", one], "once or twice, not 3 times"),
        (["--run", str(tmp_path / "bare")], "holds no finished evaluation"),
        (["--run", one, "--run", str(alone)], "share no example"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words + out)
        assert stop.value.code == 2 and problem in capsys.readouterr().err
    (two[0] / "traces.jsonl.gz").unlink()
    with pytest.raises(SystemExit):
        main(["--run", one, *out])
    assert "holds no traces.jsonl.gz" in capsys.readouterr().err and not (tmp_path / "page.html").exists()


def test_a_folder_is_its_only_run(make_run, tmp_path):
    make_run("a", early("softmax", 1), [90.0], [2])
    assert read_run(make_run.root).policy["threshold"] == 0.9
    make_run("b", early("softmax", 2), [90.0], [2])
    with pytest.raises(ValueError, match=r"holds 2 runs: give the folder of one, such as .*runs/a"):
        read_run(make_run.root)


# ------------------------------------------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium()
    if program is None:
        pytest.skip("there is no Chromium on this machine: the page is not looked at")
    found = Browser(program, tmp_path_factory.mktemp("browser"))
    yield found
    found.close()
    assert not found.errors and {url.split(":")[0] for url in found.requested} <= {"file"}


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of some runs."""

    def open_page(*runs: Path, **how):
        words = [word for folder in runs for word in ("--run", str(folder))]
        main([*words, "--out", str(tmp_path / "page.html")])
        browser.open(tmp_path / "page.html", **how)
        return browser

    return open_page


COLOURS = "(each) => getComputedStyle(each).backgroundColor"
LIGHTNESS = "(each) => Number(getComputedStyle(each).backgroundColor.match(/[\\d.]+/)[0])"


@pytest.mark.parametrize("dark", [False, True])
def test_a_token_has_the_colour_of_its_layer(opened, run, dark):
    browser = opened(run, dark=dark)
    scale = browser.run(f"[...document.querySelectorAll('.scale li')].map({COLOURS})")
    assert len(set(scale)) == LAYERS
    tokens = "[...document.querySelectorAll('#examples .token')]"
    texts = [text for answer in ANSWERS.values() for text in pieces(answer)]
    assert browser.run(f"{tokens}.map((each) => each.textContent)") == texts
    wanted = [scale[exit_of(i) - 1] for answer in ANSWERS.values() for i in range(len(pieces(answer)))]
    assert browser.run(f"{tokens}.map({COLOURS})") == wanted
    lightness = browser.run(f"[...document.querySelectorAll('.scale li')].map({LIGHTNESS})")
    steps = [(b - a) * (1 if dark else -1) for a, b in pairwise(lightness)]
    assert min(steps) > 0.5 * (max(lightness) - min(lightness)) / (LAYERS - 1), "depth is seen in grey"


PANEL = "document.getElementById('panel').innerText"
CELLS = "[...document.querySelectorAll('#panel tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"


def test_pointing_at_a_token_shows_what_its_layers_thought(opened, two):
    browser = opened(two[0])
    browser.point_at("#examples .token[data-at='2']")
    assert "Left after layer 3 of 4: its confidence 0.950 is above the threshold 0.9." in browser.run(PANEL)
    assert browser.run(CELLS) == [
        ["1", "0.100", "999", "999"],
        ["2", "0.200", "998", "998"],
        ["3", "0.950", "997", "997"],
    ]
    browser.point_at("#examples .token[data-at='3']")
    assert "Ran all 4 layers: no exit was surer than the threshold 0.9." in browser.run(PANEL)
    browser.point_at("#examples .token[data-at='0']", click=True)
    browser.point_at("#examples .token[data-at='1']")
    assert "Token 1 of 6 of e1" in browser.run(PANEL), "a click holds a token"
    browser.press("Escape")
    browser.point_at("#examples .token[data-at='4']")
    assert "Token 5 of 6 of e1" in browser.run(PANEL)


def test_views_are_shown_where_a_run_has_them(opened, two):
    browser = opened(two[1])
    browser.point_at("#examples .token[data-at='1']")
    assert browser.run(CELLS)[:3] == [
        ["0", "-", "", "", "w0", "0.00", "3", "0.20"],
        ["1", "0.100", "999", "999", "w1", "0.10", "2", "0.10"],
        ["2", "0.950", "998", "998", "w2", "0.20", "1", ""],
    ]
    assert "Contrast with layer 2, over 3 plausible tokens" in browser.run(PANEL)
    assert browser.run("document.querySelectorAll('#pairs .pairs').length") == 1
    assert "3 (2 to 5)" in browser.run("document.getElementById('layers').innerText")


def test_filters_and_orders(opened, two):
    browser = opened(two[0])
    shown = "[...document.querySelectorAll('article:not([hidden]) h3')].map((each) => each.textContent)"
    count = "document.getElementById('count').value"
    assert browser.run(shown) == ["e1", "e2", "e3"] and browser.run(count) == "3 examples"
    browser.run("document.getElementById('text').focus()")
    browser.write("RIVER")
    assert browser.run(shown) == ["e2"] and browser.run(count) == "1 of 3"
    choose = "((id, value) => { const each = document.getElementById(id); each.value = value; "
    choose += "each.dispatchEvent(new Event(each.matches('select') ? 'change' : 'input')); })"
    browser.run(f"{choose}('text', '')")
    browser.run(f"{choose}('example', 'e3')")
    assert browser.run(shown) == ["e3"]
    browser.run(f"{choose}('example', '')")
    browser.run(f"{choose}('order', 'lowest score first')")
    assert browser.run(shown) == ["e3", "e2", "e1"]
    browser.run(f"{choose}('show', 'scores below 100')")
    assert browser.run(shown) == ["e3", "e2"]
    browser.run(f"{choose}('show', 'all answers')")
    browser.run("document.querySelector('[data-pick=\"3\"]').click()")
    picked = (
        "[...document.querySelectorAll('#examples .token')].filter((each) => getComputedStyle(each).opacity === '1')"
        ".map((each) => each.dataset.layer)"
    )
    assert browser.run(picked) == ["3", "3"], "e1 and e2 have a third token"


def test_what_differs_between_two_runs_is_marked(opened, two):
    browser = opened(*two)
    marked = "[...document.querySelectorAll('#examples .token.differs')].map((each) => each.textContent)"
    assert browser.run(marked) == [" Arden", " Colmar"]
    line = "getComputedStyle(document.querySelector('.token.differs')).textDecorationLine"
    assert browser.run(line) == "underline", "not by colour alone"
    assert "method" in browser.run("document.querySelector('#settings tr.differs').textContent") or browser.run(
        "[...document.querySelectorAll('#settings tr.differs th')].some((each) => each.textContent === 'method')"
    )


def test_texts_are_shown_as_texts(opened, tmp_path):
    browser = opened(make(tmp_path / "run", HOSTILE))
    title = browser.run("document.title")
    made = "document.querySelectorAll('#examples script, #examples b b').length"
    assert title == "softmax > 0.9" and browser.run(made) == 0
    answers = browser.run("[...document.querySelectorAll('.tokens')].map((each) => each.textContent)")
    assert answers[:3] == list(HOSTILE.values())[:3]
    assert answers[3].startswith("half a pair ")
    assert browser.run("getComputedStyle(document.querySelectorAll('.tokens')[2]).direction") == "rtl"
    browser.point_at("#examples .token")
    assert "</script><script>document.title" in browser.run(PANEL)


def test_it_works_by_keyboard(opened, run):
    browser = opened(run)
    focused = "document.activeElement.dataset.at"
    for _ in range(40):
        browser.press("Tab")
        if browser.run("document.activeElement.matches('.tokens')"):
            break
    for key, at in (("ArrowRight", "0"), ("ArrowRight", "1"), ("End", "5"), ("ArrowLeft", "4"), ("Home", "0")):
        browser.press(key)
        assert browser.run(focused) == at, key
    assert "Token 1 of 6 of e1" in browser.run(PANEL)
    browser.press("ArrowDown")
    assert browser.run(focused) == "0" and "Token 1 of 3 of e2" in browser.run(PANEL)
    browser.press("ArrowUp")
    assert "Token 1 of 6 of e1" in browser.run(PANEL)
    browser.press("Escape")
    assert browser.run(f"{focused} === undefined")


def test_of_a_thousand_examples_those_in_sight_are_drawn(opened, tmp_path):
    many = {f"e{i}": f"answer number {i} " + "and so on " * 10 for i in range(1000)}
    browser = opened(make(tmp_path / "run", many))
    assert browser.run("document.querySelectorAll('article').length") == 1000
    assert 0 < browser.run("document.querySelectorAll('article[data-filled]').length") < 100
    browser.run("document.getElementById('text').focus()")
    browser.write("number 999 ")
    assert browser.run("document.getElementById('count').value") == "1 of 1,000"
    browser.settle()
    assert "answer number 999" in browser.run("document.querySelector('article:not([hidden]) .tokens').textContent")
