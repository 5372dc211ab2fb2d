"""A judge behind an endpoint on loopback that also fails, stalls, limits and answers nonsense."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from analysis.judge import REPLIES, main
from analysis.judge_asks import SCALES, asks, read_choice, read_pairs, read_scores
from analysis.judge_client import Judge, Unanswered
from support_judge import drop, nonsense, serving, stall, status
from util.files import jsonl, read_json, read_jsonl

KEY = "sk-of-nobody-1234567890"
ROWS = [{"id": f"e{i}", "prediction": f"good answer {i}", "references": [f"right answer {i}"]} for i in range(6)]
WORSE = [{**row, "prediction": row["prediction"].replace("good", "bad")} for row in ROWS[:5]] + [ROWS[5]]


def shown(body: dict) -> str:
    """What the judge was shown."""
    return body["messages"][1]["content"]


def honest(body: dict) -> str:
    """Scores a good answer 5 and a bad one 2, and prefers the good one in either order."""
    text = shown(body)
    if "### First text" not in text:
        return "Here it is: " + json.dumps(dict.fromkeys(SCALES, 2 if "bad" in text else 5))
    return json.dumps({"better": "first" if text.index("good answer") < text.index("bad answer") else "second"})


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    for name, rows in (("a", ROWS), ("b", WORSE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_bytes(jsonl(rows))
    return tmp_path / "a", tmp_path / "b" / "predictions.jsonl"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "*")


def words(url: str, files, out: Path, *more: str) -> list[str]:
    given = ["--base_url", url, "--model", "judge", "--predictions", *map(str, files), "--out", str(out)]
    return [*given, "--per_minute", "1e9", "--yes", *more]


def of(endpoint, **more) -> tuple[Judge, list[float]]:
    """A judge whose pauses are written down instead of slept."""
    slept: list[float] = []
    return Judge(endpoint.url, "judge", KEY, **{"per_minute": 1e12, "sleep": slept.append, **more}), slept


HELLO = [{"role": "user", "content": "hello"}]


# ----------------------------------------------------------------------------------------------------------- end to end
def test_scores_and_preferences_of_two_files(files, tmp_path, capsys):
    with serving(honest) as endpoint:
        main(words(endpoint.url, files, tmp_path / "out"))
        assert {body["temperature"] for body in endpoint.asked} == {0} and {*endpoint.paths} == {"/v1/chat/completions"}
        # Of five examples four questions each; the sixth has one answer, which is scored once and compared with none.
        assert len(endpoint.asked) == 21 and {*endpoint.keys} == {f"Bearer {KEY}"}
        main(words(endpoint.url, files, tmp_path / "out"))
        assert len(endpoint.asked) == 21, "nothing is asked twice"
    found = read_json(tmp_path / "out" / "judged.json")
    average = found["scores"]["average"]
    assert [average[name]["value"] for name in ("A", "B", "difference")] == [5.0, 2.5, 2.5]
    low, high = average["difference"]["interval"]
    assert 0 < low <= 2.5 <= high <= 3
    pairs = found["pairs"]
    assert [pairs[name] for name in ("n", "A", "tie", "B")] == [6, 5, 1, 0]
    assert pairs["win_rate"]["value"] == pytest.approx(11 / 12) and pairs["agreement"]["value"] == 1.0
    assert pairs["first_preferred"]["value"] == 0.5 and found["unreadable"] == 0
    told = capsys.readouterr()
    assert "21 questions, about" in told.out and "A better 5, B better 0, neither 1 of 6" in told.out
    assert KEY not in told.out + told.err
    assert all(KEY not in path.read_text() for path in (tmp_path / "out").iterdir())


def test_a_judge_that_takes_whatever_comes_first_is_found_out(files, tmp_path):
    def biased(body):
        return '{"better": "first"}' if "### First text" in shown(body) else honest(body)

    with serving(biased) as endpoint:
        main(words(endpoint.url, files, tmp_path / "out"))
    pairs = read_json(tmp_path / "out" / "judged.json")["pairs"]
    assert pairs["win_rate"]["value"] == 0.5 and pairs["first_preferred"]["value"] == 1.0
    assert pairs["agreement"]["value"] == pytest.approx(1 / 6), "the same text is a tie in both orders"


def test_replies_that_say_nothing_are_kept_counted_and_not_asked_again(files, tmp_path):
    with serving(lambda body: "I would rather not.") as endpoint:
        for _ in range(2):
            main(words(endpoint.url, files, tmp_path / "out"))
        assert len(endpoint.asked) == 21
    found = read_json(tmp_path / "out" / "judged.json")
    assert found["unreadable"] == 12 + 10 and found["scores"]["average"]["A"]["value"] is None
    assert found["pairs"]["n"] == 1, "two answers that are the same need no judge"


# ------------------------------------------------------------------------------------------------------ kills, resuming
def test_after_a_kill_nothing_is_lost_or_asked_twice(files, tmp_path):
    out = tmp_path / "out"
    with serving(honest) as endpoint:
        reply, before = endpoint.reply, 8

        def stalling(body):
            if len(endpoint.answered) > before:
                endpoint.stalled.set()
                endpoint.released.wait(60)
            return reply(body)

        endpoint.reply = stalling
        process = multiprocessing.get_context("fork").Process(target=main, args=(words(endpoint.url, files, out),))
        process.start()
        assert endpoint.stalled.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        endpoint.released.set()
        endpoint.reply = reply
        got = endpoint.answered[:before]
        assert len(read_jsonl(out / REPLIES)) == before
        with (out / REPLIES).open("a") as file:
            file.write('{"key": "torn')
        main(words(endpoint.url, files, out))
        again = endpoint.asked[before + 1 :]
    assert not [body for body in got if body in again]
    assert len(again) == 21 - before and len(read_jsonl(out / REPLIES)) == 21


def test_where_the_server_gives_up_the_replies_so_far_are_kept(files, tmp_path, capsys):
    out = tmp_path / "out"
    with serving(honest) as endpoint:
        endpoint.reply = lambda body: endpoint.faults.append(status(500)) or honest(body)
        with pytest.raises(SystemExit) as stop:
            main(words(endpoint.url, files, out, "--tries", "1"))
        assert stop.value.code == 2
        assert "gave no answer in 1 tries: status 500. Of 21 questions, 1 were answered" in capsys.readouterr().err
        endpoint.reply = honest
        main(words(endpoint.url, files, out))
        assert len(endpoint.answered) == 21


def test_another_judge_is_asked_anew(files, tmp_path):
    with serving(honest) as endpoint:
        main(words(endpoint.url, files, tmp_path / "out"))
        main(words(endpoint.url, files, tmp_path / "out", "--model", "another"))
        assert len(endpoint.asked) == 42


# ----------------------------------------------------------------------------------------------------------- the client
@pytest.mark.parametrize(
    ("faults", "pauses"),
    [
        ([status(500), status(503)], [1.0, 2.0]),
        ([status(429, Retry_After="17")], [17.0]),
        ([status(429, Retry_After="soon"), status(429)], [1.0, 2.0]),
        ([status(429, Retry_After="Fri, 01 Jan 2010 00:00:00 GMT")], [0.0]),
        ([status(429, Retry_After="86400")], [600.0]),
        ([nonsense("<html>"), nonsense("[]"), nonsense('{"choices": []}')], [1.0, 2.0, 4.0]),
        ([nonsense('{"choices": [{"message": {"content": null}}]}')], [1.0]),
        ([drop, drop], [1.0, 2.0]),
    ],
)
def test_what_may_go_well_is_tried_again_after_a_pause(faults, pauses):
    with serving(lambda body: "well") as endpoint:
        endpoint.faults = list(faults)
        judge, slept = of(endpoint)
        assert judge.ask(HELLO).text == "well"
        assert [each for each in slept if each > 1e-3 or each == 0.0] == pauses
        assert len(endpoint.asked) == len(faults) + 1 and all(body == endpoint.asked[0] for body in endpoint.asked)


def test_a_server_that_stalls_is_left():
    with serving(lambda body: "well") as endpoint:
        endpoint.faults = [stall]
        judge, slept = of(endpoint, timeout=0.3)
        assert judge.ask(HELLO).text == "well" and slept


def test_pauses_double_to_a_minute_and_tries_end():
    with serving(lambda body: "well") as endpoint:
        endpoint.faults = [status(502)] * 9
        judge, slept = of(endpoint, tries=9)
        with pytest.raises(Unanswered, match="no answer in 9 tries: status 502"):
            judge.ask(HELLO)
        assert [each for each in slept if each > 1e-3] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("code", [301, 400, 401, 404])
def test_what_is_refused_is_not_tried_again_and_no_key_is_told(code):
    with serving(lambda body: "well") as endpoint:
        said = f"Incorrect API key provided: {KEY}"
        endpoint.faults = [status(code, said, Location="http://127.0.0.1:9/")]
        judge, _ = of(endpoint)
        with pytest.raises(Unanswered, match=rf"refuses with status {code}: .*\[key\]") as error:
            judge.ask(HELLO)
        assert len(endpoint.asked) == 1 and KEY not in str(error.value) + repr(judge)


def test_questions_come_no_faster_than_asked_for():
    with serving(lambda body: "well") as endpoint:
        now = [100.0]

        def sleep(seconds):
            now[0] += seconds

        judge, _ = of(endpoint, per_minute=30, clock=lambda: now[0], sleep=sleep)
        for _ in range(4):
            judge.ask(HELLO)
        assert now[0] == pytest.approx(106.0)


def test_a_reply_that_repeats_the_key_is_kept_without_it():
    with serving(lambda body: f"your key is {KEY}") as endpoint:
        assert of(endpoint)[0].ask(HELLO).text == "your key is [key]"


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        ("localhost:8000", KEY, "--base_url is the address"),
        ("ftp://host/v1", KEY, "--base_url is the address"),
        (f"http://user:{KEY}@host/v1", KEY, "holds no user, password or query"),
        (f"http://host/v1?key={KEY}", KEY, "holds no user, password or query"),
        ("http://host/v1", f"{KEY}\nX: y", "characters that no key has"),
    ],
)
def test_addresses_and_keys_that_cannot_be_used_are_refused(url, key, problem):
    with pytest.raises(ValueError, match=problem) as error:
        Judge(url, "judge", key)
    assert KEY not in str(error.value)


# ------------------------------------------------------------------------------------------------ questions and replies
@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        (json.dumps(dict.fromkeys(SCALES, 4)), dict.fromkeys(SCALES, 4)),
        ("```json\n" + json.dumps(dict.fromkeys(SCALES, 1)) + "\n```", dict.fromkeys(SCALES, 1)),
        (json.dumps(dict.fromkeys(SCALES, 6)), None),
        (json.dumps(dict.fromkeys(SCALES, True)), None),
        (json.dumps({"relevance": 4}), None),
        ("four out of five", None),
        ("{not json}", None),
        ("", None),
    ],
)
def test_scores_are_read_or_not(reply, scores):
    assert read_scores(reply) == scores


@pytest.mark.parametrize(
    ("reply", "choice"),
    [('{"better": "first"}', "first"), ('So: {"better": "tie"}.', "tie"), ('{"better": "A"}', None), ("first", None)],
)
def test_choices_are_read_or_not(reply, choice):
    assert read_choice(reply) == choice


def test_every_answer_is_scored_and_every_pair_compared_in_both_orders(files):
    pairs = read_pairs(files, most=2)
    assert [ask.shown for ask in asks(pairs)] == [(0,), (1,), (0, 1), (1, 0)] * 2
    one, other = [ask.messages[1]["content"] for ask in asks(pairs)][2:4]
    assert "### Reference\nright answer 0" in one
    assert one.index("good answer 0") < one.index("bad answer 0") and other.index("bad answer 0") < other.index("good")


def test_what_generate_writes_is_judged_too(tmp_path):
    for name in ("a", "b"):
        rows = [{"prompt": "Once", "continuation": f" upon {name}"}, {"prompt": "In", "continuation": " spring"}]
        (tmp_path / name).write_bytes(jsonl(rows))
    pairs = read_pairs([tmp_path / "a", tmp_path / "b"])
    assert [(pair.prompt, pair.texts[1], pair.same) for pair in pairs] == [
        ("Once", " upon b", False),
        ("In", " spring", True),
    ]


# ---------------------------------------------------------------------------------------------------------- the command
def test_the_cost_is_told_and_asked_for_first(files, tmp_path, monkeypatch, capsys):
    with serving(honest) as endpoint:
        given = [each for each in words(endpoint.url, files, tmp_path / "out") if each != "--yes"]
        given += ["--price_in", "2", "--price_out", "8"]
        asked = []
        monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
        with pytest.raises(SystemExit) as stop:
            main(given)
        assert stop.value.code == 2 and not endpoint.asked
        assert "21 questions" in asked[0] and "in the currency of the prices. Go on?" in asked[0]

        def nobody(text):
            raise EOFError

        monkeypatch.setattr("builtins.input", nobody)
        with pytest.raises(SystemExit):
            main(given)
        assert "nothing was asked: say y, or give --yes" in capsys.readouterr().err and not endpoint.asked
        monkeypatch.setattr("builtins.input", lambda text: "y")
        main(given)
        assert len(endpoint.answered) == 21


def test_files_that_do_not_fit_are_refused(files, tmp_path, capsys):
    (tmp_path / "other.jsonl").write_bytes(jsonl([{"id": "x", "prediction": "y"}]))
    (tmp_path / "wrong.jsonl").write_bytes(jsonl([{"id": "x"}]))
    for name, problem in (("other.jsonl", "share no example"), ("wrong.jsonl", "line 1: expected an id or a prompt")):
        with pytest.raises(SystemExit) as stop:
            main(words("http://127.0.0.1:9/v1", (files[0], tmp_path / name), tmp_path / "out"))
        assert stop.value.code == 2 and problem in capsys.readouterr().err
