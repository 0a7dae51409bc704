"""How many candidates an editor announces: as many as come."""

from __future__ import annotations

import pytest

from editors import CONFIGURATIONS, make
from fairsvd import RandomPerturbation
from helpers import IGNORE_SMALL_DATA, mlp, table, trained
from progress_streams import drawn_terminal, lines_of, plain_log, states_of

pytestmark = [
    *(pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA),
    pytest.mark.filterwarnings("ignore::fairsvd.exceptions.InterruptedFitWarning"),
]

ROWS = table()
NETWORK = trained(mlp(), ROWS)

# Editors whose candidates can be counted beforehand, and that fit at once.
COUNTED = {
    *("AdversarialDebiasing", "AdversarialFineTuner", "BlindPostProcessor"),
    *("LayerwiseOptimizer", "RandomPerturbation", "FairLRFTransformer", "FairPruner"),
    *("GapFineTuner", "BiasMaskFineTuner", "BMFT", "SWiFT", "GapFineTuner, descent"),
    *("FairLRFTransformer, imitating", "GapFineTuner, imitating", "BiasMaskFineTuner, imitating"),
}


log = pytest.fixture(plain_log)
terminal = pytest.fixture(drawn_terminal)


def fit(editor):
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


CANDIDATES = RandomPerturbation._edit


def quickly(names):
    return [n if n in COUNTED else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", quickly(CONFIGURATIONS))
def test_the_total_is_the_number_of_candidates(name, log, monkeypatch):
    editor = make(name, NETWORK, verbose=1)
    announced = []
    count = type(editor)._count_candidates
    monkeypatch.setattr(
        type(editor),
        "_count_candidates",
        lambda self, task: announced.append(count(self, task)) or announced[-1],
    )
    fit(editor)
    n_rows = len(editor.history_)
    assert len(announced) == 1
    assert announced[0] in (([] if name in COUNTED else [None]) + [n_rows])
    of_total = "" if announced[0] is None else f"/{n_rows}"
    assert f"{n_rows}{of_total} candidates" in lines_of(log)[-1]


# Without groups a mask may let nothing move, so that these do not know.
MASKED = {"BiasMaskFineTuner", "BiasMaskFineTuner, imitating", "BMFT", "SWiFT"}


@pytest.mark.parametrize("name", sorted(COUNTED - MASKED))
@pytest.mark.filterwarnings("ignore::fairsvd.exceptions.MissingSensitiveFeaturesWarning")
def test_the_total_without_sensitive_features(name, log):
    editor = make(name, NETWORK, verbose=1).fit(ROWS.X, ROWS.y)
    assert f" (0/{len(editor.history_)} candidates)" in lines_of(log)[0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LayerwiseOptimizer", {"parameters": ["0", "4"], "n_calls": 3}),
        ("AdversarialDebiasing", {"max_steps": 37, "alpha": None}),
        ("AdversarialDebiasing", {"max_steps": 7, "alpha": 1.0}),
        ("AdversarialFineTuner", {"epochs": 3, "gap_weight": None}),
        ("RandomPerturbation", {"n_trials": 17}),
    ],
)
def test_the_total_follows_the_parameters(name, settings, log):
    editor = fit(make(name, NETWORK, verbose=1).set_params(**settings))
    assert f" (0/{len(editor.history_)} candidates)" in lines_of(log)[0]


def test_a_tensor_that_is_not_searched_is_not_counted(log):
    # The one bias of a network with one logit has a box without width.
    network = trained(mlp(1), ROWS)
    editor = fit(make("LayerwiseOptimizer", network, verbose=1).set_params(parameters=2))
    assert editor.searched_entries_["4.bias"] == 0
    assert f" (0/{len(editor.history_)} candidates)" in lines_of(log)[0]


class Announcing(RandomPerturbation):
    """Announces some other number of candidates than come."""

    announced = 0

    def _count_candidates(self, task):
        return self.announced


@pytest.mark.parametrize("announced", [50, 10, 4])
def test_a_wrong_total_ends_at_what_came(announced, terminal):
    editor = Announcing(NETWORK, n_trials=9, random_state=0, verbose=1)
    editor.announced = announced
    fit(editor)
    counts = [state.split("| ")[1].split(" ")[0] for state in states_of(terminal)]
    assert counts == [
        *(f"{n}/{max(n, announced)}" for n in range(11)),
        "10/10",
    ]
