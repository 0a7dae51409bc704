"""What ``verbose`` shows: times, the best so far; bars in terminals, lines elsewhere."""

from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import pytest
import tqdm.std
from sklearn.base import BaseEstimator, ClassifierMixin
from tqdm import auto
from tqdm.notebook import tqdm_notebook

from choices import BEFORE, Data, edit, verdict
from editors import make
from fairsvd import NetworkEditor, RandomPerturbation, compare
from fairsvd.base import _choice, _progress, choose, progress_bar
from helpers import IGNORE_SMALL_DATA, mlp, table, trained
from progress_streams import Terminal, drawn_terminal, lines_of, plain_log, redirect, states_of

pytestmark = [
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.InterruptedFitWarning"),
]

ROWS = table()
NETWORK = trained(mlp(), ROWS)


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(tqdm.std, "time", fake)
    return fake


log = pytest.fixture(plain_log)
terminal = pytest.fixture(drawn_terminal)


@pytest.fixture
def bars(monkeypatch):
    """The bars of tqdm that are opened."""
    opened = []

    class Bar(auto.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(auto, "tqdm", Bar)
    return opened


def fit(editor):
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


def work(clock, seconds, **settings):
    with progress_bar(1, "work", unit=" parts", **settings) as progress:
        for number in range(1, 8):
            clock.now += seconds
            progress(f"part {number}")


def test_a_log_gets_a_line_in_ten_seconds(log, clock):
    work(clock, 4, total=7, status="part 0")
    assert lines_of(log) == [
        "work: 0% (0/7 parts), 00:00 elapsed, ? left, part 0",
        "work: 43% (3/7 parts), 00:12 elapsed, 00:16 left, part 3",
        "work: 86% (6/7 parts), 00:24 elapsed, 00:04 left, part 6",
        "work: 100% (7/7 parts), 00:28 elapsed, 00:00 left, part 7",
    ]


def test_a_log_without_a_total(log, clock):
    work(clock, 4)
    assert lines_of(log) == [
        "work: 0 parts, 00:00 elapsed",
        "work: 3 parts, 00:12 elapsed, part 3",
        "work: 6 parts, 00:24 elapsed, part 6",
        "work: 7 parts, 00:28 elapsed, part 7",
    ]


def test_the_last_line_comes_once(log, clock):
    work(clock, 10, total=7)
    assert [line.split(",")[0] for line in lines_of(log)] == [
        f"work: {percent}% ({n}/7 parts)" for n, percent in enumerate([0, 14, 29, 43, 57, 71, 86])
    ] + ["work: 100% (7/7 parts)"]


def test_every_unit_of_a_few(log, clock):
    work(clock, 0.001, total=7, every_unit=True)
    assert [line.split(", ")[-1] for line in lines_of(log)[1:]] == [
        f"part {number}" for number in range(1, 8)
    ]


def test_the_time_left_follows_from_the_mean_of_all_units(log, clock):
    with progress_bar(1, "work", total=6, every_unit=True) as progress:
        for seconds in (30, 2, 28):
            clock.now += seconds
            progress()
    assert [line.split(", ")[2] for line in lines_of(log)[1:]] == [
        *("02:30 left", "01:04 left", "01:00 left")
    ]


def test_a_line_reaches_the_log_at_once(log, monkeypatch):
    flushed = []
    monkeypatch.setattr(log, "flush", lambda: flushed.append(log.getvalue()))
    with progress_bar(1, "work", unit=" parts", total=2):
        assert flushed[-1] == "work: 0% (0/2 parts), 00:00 elapsed, ? left\n"


def test_a_status_of_two_lines_stays_one_line(log):
    with progress_bar(1, "work", total=1) as progress:
        progress("a\r\n  b")
    assert lines_of(log)[-1].endswith("left, a b")


def test_a_log_beside_a_bar_of_the_user(log, clock):
    with auto.tqdm(file=Terminal()):
        work(clock, 4, total=7)
    assert len(lines_of(log)) == 4


def test_a_terminal_gets_a_bar(terminal, clock):
    work(clock, 4, total=7, status="part 0")
    states = states_of(terminal)
    bar = "          "
    assert states[0] == f"work: {bar}| 0/7 [00:00<?, part 0]"
    assert [state.split("| ")[1] for state in states[1:8]] == [
        f"{n}/7 [{stamp(4 * n)}<{stamp(28 - 4 * n)}, part {n}]" for n in range(1, 8)
    ]
    assert states[3].startswith("work: ####2     |")


def stamp(seconds):
    return str(timedelta(seconds=seconds))[2:]


def test_a_terminal_without_a_total(terminal, clock):
    work(clock, 4)
    assert states_of(terminal)[3] == "work: 3 parts [00:12, part 3]"


def test_a_bar_is_not_drawn_for_every_quick_unit(monkeypatch, clock):
    stream = redirect(monkeypatch, Terminal())
    work(clock, 0.04, total=7)
    shown = [state.split("| ")[1].split(" ")[0] for state in states_of(stream)]
    assert shown == ["0/7", "3/7", "6/7", "7/7"]
    stream = redirect(monkeypatch, Terminal())
    work(clock, 0.04, total=7, every_unit=True)
    shown = [state.split("| ")[1].split(" ")[0] for state in states_of(stream)]
    assert shown == [*(f"{n}/7" for n in range(8)), "7/7"]


def test_a_slow_unit_after_quick_ones_is_shown(monkeypatch, clock):
    stream = redirect(monkeypatch, Terminal())
    with progress_bar(1, "work", total=1000) as progress:
        for _ in range(500):
            clock.now += 0.001
            progress()
        clock.now += 2
        progress()
        assert "| 501/1000 [" in stream.getvalue().split("\r")[-1]


def test_a_notebook_gets_a_widget(log, monkeypatch):
    asked = []

    class Widget(tqdm_notebook):
        """Notes how it is asked for; it cannot be shown outside a notebook."""

        def __init__(self, **settings):
            asked.append(settings)
            super().__init__(**settings, disable=True)

    monkeypatch.setattr(auto, "tqdm", Widget)
    with progress_bar(1, "work", total=3, status="first") as progress:
        progress("second")
    assert log.getvalue() == ""
    assert "{bar}" in asked[0]["bar_format"] and asked[0]["file"] is log
    assert (asked[0]["desc"], asked[0]["total"], asked[0]["postfix"]) == ("work", 3, "first")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("stream", ["log", "terminal"])
def test_a_bar_is_closed_however_the_block_ends(error, stream, bars, request):
    stream = request.getfixturevalue(stream)
    with pytest.raises(error), progress_bar(1, "work", unit=" parts", total=5) as progress:
        progress("one")
        progress("two")
        raise error
    assert bars[0].disable  # what close() leaves
    assert stream.getvalue().endswith("\n")
    # What was announced stays: the work has not ended.
    assert "2/5" in stream.getvalue().splitlines()[-1].split("\r")[-1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_edit_closes_its_bar(error, bars, log, monkeypatch):
    def failing(self, *args):
        yield from itertools.islice(CANDIDATES(self, *args), 3)
        raise error

    monkeypatch.setattr(RandomPerturbation, "_edit", failing)
    with pytest.raises(error):
        fit(RandomPerturbation(NETWORK, n_trials=9, random_state=0, verbose=1))
    assert bars[0].disable
    assert lines_of(log)[-1].startswith("RandomPerturbation: 30% (3/10 candidates), ")


CANDIDATES = RandomPerturbation._edit


def test_an_interrupted_search_keeps_what_was_announced(log, monkeypatch):
    record, count = _choice._record, itertools.count(1)

    def interrupted(*args):
        if next(count) == 4:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(_choice, "_record", interrupted)
    fit(RandomPerturbation(NETWORK, n_trials=9, random_state=0, verbose=1, on_interrupt="keep"))
    assert lines_of(log)[-1].startswith("RandomPerturbation: 30% (3/10 candidates), ")


def test_the_status_has_the_numbers_of_the_history(terminal):
    editor = fit(RandomPerturbation(NETWORK, n_trials=40, random_state=0, verbose=1))
    best, wanted = None, []
    for row in editor.history_.itertuples():
        if best is None or (row.feasible, row.value) > (best.feasible, best.value):
            best = row
        wanted.append(f"{row.stage}, best {best.utility:.3f} at gap {best.gap:.3f}]")
    assert len(set(wanted)) >= 4  # the best changes, or this shows little
    states = states_of(terminal)
    assert [state.split(", ", 1)[1] for state in states[1:-1]] == wanted
    assert states[-1].startswith("RandomPerturbation: ##########| 41/41 [")
    assert states[-1].endswith(wanted[-1])


def test_progress_gets_the_row_and_the_standing_verdict():
    told = []
    outcome = choose(
        None,
        [edit(0.75, 1), edit(0.25, 2), edit(0.875, 3)],
        Data(),
        progress=lambda record, best: told.append((record, best)),
    )
    assert [record for record, _ in told] == outcome.history[1:]
    assert [best for _, best in told] == [verdict(0.75), verdict(0.75), verdict(0.875)]


def test_progress_gets_the_untouched_network_while_that_stands():
    told, worse = [], verdict(0.1, feasible=False)
    tell = lambda record, best: told.append((record["value"], best))  # noqa: E731
    choose(None, [edit(0.5, verdict=worse)], Data(), progress=tell)
    assert told == [(0.1, BEFORE)]


def test_a_candidate_without_a_stage(log):
    with progress_bar(1, "own", total=1) as progress:
        progress.candidate({"number": 1}, BEFORE)
    assert lines_of(log)[-1].endswith("left, best 0.800 at gap 0.300")


def test_nothing_is_shown_unasked(capfd, monkeypatch):
    monkeypatch.setattr(
        NetworkEditor, "_count_candidates", lambda self, task: pytest.fail("was counted")
    )
    fit(make("GapFineTuner", NETWORK))
    compare("threshold", *ROWS, base=NETWORK, cv=2, random_state=0)
    assert capfd.readouterr() == ("", "")


def test_a_process_without_stderr(monkeypatch):
    redirect(monkeypatch, None)
    assert len(fit(RandomPerturbation(NETWORK, n_trials=2, verbose=1)).history_) == 3


class Witness(ClassifierMixin, BaseEstimator):
    """Notes what stderr shows while it is fitted."""

    shown: list[str] = []  # noqa: RUF012  (clones share it)

    def __init__(self, name="a"):
        self.name = name

    def fit(self, X, y):
        text = _progress.sys.stderr.getvalue()
        self.shown.append(text.rstrip("\n").replace("\r", "\n").split("\n")[-1])
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


@pytest.mark.parametrize("stream", ["log", "terminal"])
@pytest.mark.parametrize("gaps", [["equalized_odds"], ["equalized_odds", "demographic_parity"]])
def test_compare_names_what_runs(stream, gaps, request, monkeypatch):
    request.getfixturevalue(stream)
    monkeypatch.setattr(Witness, "shown", [])
    methods = {"first": Witness("a"), "second": Witness("b")}
    settings = {"cv": 2, "constraints": gaps, "random_state": 0, "verbose": 1}
    table = compare(methods, *ROWS, base=NETWORK, **settings)
    assert set(table["error"]) == {""}
    total = 2 * (1 + 3 * len(gaps))
    wanted = [
        (f"{2 + number}/{total}", f"fold {row.fold + 1} of 2{aim}: {row.method}")
        for number, row in enumerate(table.itertuples())
        for aim in [f", {row.constraint}" if len(gaps) > 1 else ""]
        if row.method != "untouched"
    ]
    assert len(wanted) == len(Witness.shown) == 4 * len(gaps)
    for (count, status), shown in zip(wanted, Witness.shown, strict=True):
        assert count in shown and shown.rstrip("] ").endswith(f", {status}")


def test_the_log_of_a_comparison(log, clock):
    compare("threshold", *ROWS, base=NETWORK, cv=2, random_state=0, verbose=1)
    assert [line.replace("00:00 elapsed, ", "") for line in lines_of(log)] == [
        "compare: 0% (0/6 fits), ? left, fold 1 of 2: base network",
        "compare: 17% (1/6 fits), ? left, fold 2 of 2: base network",
        "compare: 33% (2/6 fits), ? left, fold 1 of 2: untouched",
        "compare: 50% (3/6 fits), ? left, fold 1 of 2: threshold",
        "compare: 67% (4/6 fits), ? left, fold 2 of 2: untouched",
        "compare: 83% (5/6 fits), ? left, fold 2 of 2: threshold",
        "compare: 100% (6/6 fits), ? left",
    ]
