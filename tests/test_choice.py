"""The choice among candidates: who wins, who is judged, and what is kept on record."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from choices import BEFORE, Data, edit, verdict
from fairsvd.base import Candidate, choose
from fairsvd.objective import Verdict


def chosen(candidates, data=None, **options):
    return choose(nn.Identity(), candidates, data or Data(), **options)


def test_the_best_candidate_wins_and_its_logits_are_kept():
    outcome = chosen([edit(0.5, 0), edit(0.75, 1), edit(0.25, 2)])
    assert outcome.candidate.params == {"number": 1}
    assert outcome.verdict == verdict(0.75)
    assert outcome.logits.tolist() == [[0.0, 0.75]]
    assert not outcome.interrupted


def test_of_equal_candidates_the_earlier_wins():
    outcome = chosen([edit(0.5, 0), edit(0.75, 1), edit(0.75, 2), edit(0.75, 3)])
    assert outcome.candidate.params == {"number": 1}


def test_the_untouched_network_is_the_first_and_wins_a_tie():
    data = Data(before=verdict(0.75))
    outcome = chosen([edit(0.75, 1)], data)
    assert outcome.candidate.state == {}
    assert outcome.logits is data.untouched
    assert [row["value"] for row in outcome.history] == [0.75, 0.75]


@pytest.mark.parametrize(
    ("verdicts", "winner"),
    [
        ([verdict(0.9, feasible=False), verdict(0.1), verdict(0.2)], 2),
        ([verdict(0.1), verdict(0.9, feasible=False)], 0),
        # The untouched network is the best of those beyond the limit, with a value of .6.
        ([verdict(0.5, feasible=False), verdict(0.59, feasible=False)], None),
        ([verdict(0.61, feasible=False), verdict(-np.inf, feasible=False)], 0),
    ],
)
def test_within_the_limit_comes_before_value(verdicts, winner):
    candidates = [edit(k, k, verdict=each) for k, each in enumerate(verdicts)]
    assert chosen(candidates).candidate.params.get("number") == winner


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_edit_that_could_not_predict_every_row_is_never_chosen(value):
    """Its own verdict may come from rows on which it is finite."""
    spoiled = torch.tensor([[0.0, 1.0], [0.0, value]])
    candidates = [edit(0.5, 0), edit(0.9, 1, verdict=verdict(0.9), logits=spoiled)]
    outcome = chosen(candidates)
    assert outcome.candidate.params == {"number": 0}
    assert [row["value"] for row in outcome.history] == [0.6, 0.5, 0.9]


def test_every_candidate_is_a_row_of_the_record():
    candidates = [edit(0.2, 7, verdict=Verdict(-1.5, 0.7, 0.04, True, 0.66)), edit(0.4, 8)]
    outcome = chosen(candidates)
    assert outcome.history == [
        {"utility": 0.8, "gap": 0.3, "threshold": pytest.approx(expit(0.5)), "feasible": False}
        | {"value": 0.6},
        {"number": 7, "utility": 0.7, "gap": 0.04, "threshold": pytest.approx(expit(-1.5))}
        | {"feasible": True, "value": 0.66},
        {"number": 8, "utility": pytest.approx(0.5), "gap": 0.02, "threshold": 0.5}
        | {"feasible": True, "value": pytest.approx(0.4)},
    ]
    assert outcome.record == outcome.history[1]


def test_who_was_judged_already_is_not_judged_again():
    data = Data(before=BEFORE)
    own = torch.tensor([[3.0, 4.0]])
    outcome = chosen([edit(0.1, 1, verdict=verdict(0.9), logits=own), edit(0.2, 2)], data)
    assert data.judged == pytest.approx([0.2])
    assert outcome.logits is own
    assert [row["value"] for row in outcome.history] == pytest.approx([0.6, 0.9, 0.2])


def test_the_candidates_own_logits_are_judged():
    data = Data()
    chosen([edit(0.1, logits=torch.tensor([[0.0, 0.7]]))], data)
    assert data.judged == pytest.approx([1.0, 0.7])


@pytest.mark.parametrize("own", [None, verdict(0.65)])
def test_a_first_candidate_without_an_edit_is_the_untouched_network(own):
    """It brings what the editor sets where nothing was edited, and no row of its own."""
    first = Candidate({}, {"number": 0}, {"masks_": {}}, verdict=own)
    outcome = chosen([first, edit(0.1, 1)])
    assert [row.get("number") for row in outcome.history] == [0, 1]
    assert outcome.history[0]["value"] == (0.6 if own is None else 0.65)
    later = chosen([first, edit(-1.0, 1, verdict=verdict(0.5, feasible=False))])
    assert later.candidate is first
    assert later.verdict == (own or BEFORE)


def test_no_candidate_at_all_leaves_the_untouched_network_on_record():
    outcome = chosen([])
    assert outcome.candidate.state == {}
    assert [row["value"] for row in outcome.history] == [0.6]


def test_an_interrupt_keeps_the_best_so_far_only_where_that_was_asked_for():
    told = []

    def candidates():
        yield edit(0.75, 1)
        yield edit(0.25, 2)
        try:
            yield edit(0.9, 3)
        finally:
            told.append("closed")

    def progress(record, best):
        told.append("step")
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chosen(candidates(), progress=progress)
    told.clear()
    outcome = chosen(candidates(), keep=True, progress=progress)
    assert outcome.interrupted
    assert told == ["step"] * 3 + ["closed"]
    assert outcome.candidate.params == {"number": 3}  # it was judged to the end
    assert [row.get("number") for row in outcome.history] == [None, 1, 2, 3]


def test_an_interrupt_before_the_first_candidate_is_raised():
    def candidates():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        chosen(candidates(), keep=True)


def test_the_object_with_the_rows_is_read_only_where_it_has_to_be():
    data = SimpleNamespace(before=BEFORE, untouched=None, certifying=None)
    assert chosen([edit(1, verdict=verdict(0.7))], data).verdict == verdict(0.7)
