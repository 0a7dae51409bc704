"""Edits that imitate the fair teacher: what they follow, what moves, what is judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairsvd import BiasMaskFineTuner, FairLRFTransformer, FairPruner, GapFineTuner
from fairsvd.base import Candidate
from fairsvd.masking._pruner import keep_all
from fairsvd.objective import FairRule, Verdict, make_judge
from fairsvd.phases import (
    MaskingPath,
    Teacher,
    TuningPath,
    count_lessons,
    count_steps,
    mask_and_tune,
    run_best,
)
from fairsvd.phases import _cells as cells
from fairsvd.phases._masking import settle
from helpers import IGNORE_SMALL_DATA, convolutions, images, mlp, table, trained
from tasks import CONSTRAINT, small_task

pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORE_SMALL_DATA]

QUICK = {"n_teachers": 1, "joint": "head", "max_steps": 4, "random_state": 0}
KINDS = (FairLRFTransformer, FairPruner, GapFineTuner)


def fit(kind, rows, network=None, **settings):
    network = trained(mlp(), rows) if network is None else network
    editor = kind(network, **{**QUICK, **settings})
    return editor.fit(rows.X, rows.y, sensitive_features=rows.group)


@pytest.mark.parametrize("kind", KINDS)
def test_auto_imitates_on_tables_with_groups_unless_a_weight_is_given(kind):
    rows, pictures = table(), images()
    network = trained(convolutions(), pictures)
    assert fit(kind, rows).objective_ == "teacher"
    assert fit(kind, rows, gap_weight=1.0).objective_ == "soft_gap"
    assert fit(kind, rows, objective="soft_gap").objective_ == "soft_gap"
    assert fit(kind, pictures, network).objective_ == "soft_gap"
    assert fit(kind, pictures, network, objective="teacher").objective_ == "teacher"
    plain = kind(trained(mlp(), rows), **QUICK)
    with pytest.warns(match="sensitive"):
        assert plain.fit(rows.X, rows.y).objective_ == "soft_gap"


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (FairLRFTransformer, {"gap_weight": 0.5}, r"gap_weight=0\.5 is the weight of the soft gap"),
        (FairPruner, {"gap_weight": 0.5}, r"gap_weight=0\.5 is the weight of the soft gap"),
        (GapFineTuner, {"mode": "descent"}, "mode='descent' follows the soft gap alone"),
    ],
)
def test_what_contradicts_a_teacher_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        fit(kind, table(), objective="teacher", **settings)


def test_the_papers_losses_are_not_replaced():
    rows = table()
    network = trained(mlp(), rows)
    settings = {"n_teachers": 1, "joint": "head", "random_state": 0}
    preset = BiasMaskFineTuner.bmft(network, impair_epochs=1, repair_epochs=1, **settings)
    preset.fit(rows.X, rows.y, sensitive_features=rows.group)
    assert preset.objective_ == "soft_gap"
    refused = preset.set_params(objective="teacher")
    with pytest.raises(ValueError, match="loss='bmft' is a paper's"):
        refused.fit(rows.X, rows.y, sensitive_features=rows.group)


def test_where_nothing_is_tuned_no_teacher_is_trained(monkeypatch):
    monkeypatch.setattr(cells, "_fit", lambda *given: pytest.fail("a teacher was trained"))
    for settings in ({"sparsity": 0}, {"criterion": "curvature"}):
        assert fit(FairLRFTransformer, table(), refine=None, **settings).objective_ == "soft_gap"


@pytest.mark.parametrize(("cap", "last"), [(None, 8), (0.02, 8), (0.0, 8)])
def test_stages_of_an_imitation(cap, last):
    """With a cap the masks are hardened after half of the steps, and the rest is tuned on."""
    editor = fit(FairLRFTransformer, table(), max_steps=last, sparsity=cap)
    history = editor.history_.iloc[1:]
    stages = history.groupby("stage", sort=False)["step"].agg(list).to_dict()
    settled = [2, 4, 6, 8]
    if cap == 0.0:
        assert stages == {"spectrum": [2, 4, 6, 8]}
    else:
        masks = [2, 4, 6, 8] if cap is None else [5, 6, 7, 8]
        assert stages == {"masks": masks, "settle": settled}
    if cap is not None:
        assert history["removed_fraction"].max() <= cap
    assert history["alpha"].nunique() == 1


def test_masks_alone_move_where_nothing_is_refined():
    editor = fit(FairLRFTransformer, table(), refine=None, max_steps=40)
    assert editor.history_["stage"].tolist()[1:] == ["masks"] * 4
    before = trained(mlp(), table()).state_dict()
    after = editor.module_.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed <= {"0.weight", "2.weight"}


def teacher_of(task):
    """A teacher whose one network and rule are drawn."""
    rng = np.random.default_rng(5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 4).requires_grad_(False)
    return Teacher((network,), FairRule(rng.normal(size=(4, 2)), 0.1))


def test_settling_goes_on_from_the_imitation_under_the_soft_gap():
    """Its first step is Adam's, of three tenths of the rate, from the start's own values."""
    task = small_task()
    whole = keep_all(task.module, ["0", "2"], units=False)
    scales = {n: torch.full((len(w),), 0.7) for n, w in whole.originals.items()}
    plain = {n: p.detach() + 0.1 for n, p in task.module.named_parameters() if "bias" in n}
    start = replace(whole, scales=scales, plain=plain)
    path = MaskingPath.of(
        task,
        teacher=teacher_of(task),
        n_steps=1,
        seed=np.random.SeedSequence(0),
        attributes={},
        whole=whole,
        max_removed=None,
    )
    ((step, edit),) = settle(path, start, np.random.default_rng(0))
    assert step == 1
    for name, value in edit.scales.items():
        assert float((value - scales[name]).abs().max()) == pytest.approx(3e-3, rel=1e-3)
    for name, value in plain.items():
        rate = 9e-4 if name == "4.bias" else 3e-3  # the output layer moves slower
        assert float((edit.plain[name] - value).abs().max()) == pytest.approx(rate, rel=1e-2)
    settling = path.settling()
    assert (settling.teacher, settling.gap_weight) == (None, 1.0)
    assert replace(path, n_steps=900).settling().n_steps == 150


def test_an_imitation_is_judged_on_all_rows_together():
    rng = np.random.default_rng(0)
    y, groups, parts = (rng.integers(2, size=90) for _ in range(3))
    judge = make_judge(y, groups, parts, 2, 2, CONSTRAINT).apart()
    task = small_task(judge=judge)
    shared = {"n_steps": 1, "seed": np.random.SeedSequence(0), "attributes": {}}
    assert TuningPath.of(task, **shared).judge.separate
    assert not TuningPath.of(task, teacher=teacher_of(task), **shared).judge.separate


def test_only_the_path_of_the_best_trial_runs_to_its_end():
    task = small_task()

    def path_for(gap_weight):
        seed = np.random.SeedSequence(0)
        return TuningPath.of(task, gap_weight=gap_weight, n_steps=30, seed=seed, attributes={})

    paths = [path_for(gap_weight) for gap_weight in (0.3, 1.0, 3.0)]
    worth = {0.3: 0.5, 1.0: 0.9, 3.0: 0.7}

    def run(path):
        params = {"gap_weight": path.gap_weight, "n_steps": path.n_steps, "every": path.every}
        # The draws of a path are the same whether it was tried in this process or not at all.
        assert path.seed.spawn(1)[0].spawn_key == (0,)
        value = worth[path.gap_weight]
        yield Candidate({}, params, verdict=Verdict(0.0, value, 0.0, True, value))

    found = [tuple(c.params.values()) for c in run_best(paths, run, run, None)]
    assert found == [(0.3, 10, 2), (1.0, 10, 2), (3.0, 10, 2), (1.0, 30, 3)]
    alone = list(run_best([path_for(0.3)], run, run, None))
    assert [tuple(c.params.values()) for c in alone] == [(0.3, 30, 3)]


def test_an_imitation_under_a_budget_follows_its_teacher_alone():
    """It is not held to the untouched network, as an edit under labels is."""
    task = small_task()
    ends = []
    for rows in (None, 16):
        bias = torch.tensor([0.4, -0.9], requires_grad=True)
        shared = {"n_steps": 5, "seed": np.random.SeedSequence(0), "attributes": {}}
        path = TuningPath.of(task, teacher=teacher_of(task), rows=rows, **shared)
        assert TuningPath.find_loyalty(task.data) > 0.05
        rng = np.random.default_rng(0)
        list(path.steps(lambda leaf=bias: {"4.bias": leaf}, [bias], 0.0, rng, 0.02))
        ends.append(bias.detach())
    assert torch.equal(*ends)


def test_steps_of_images_are_five_passes_and_of_lessons_one_for_25_rows():
    def of(n_rows, shape=(5,), batch_size=16):
        data = small_task(n_rows=n_rows, batch_size=batch_size).data
        X = torch.zeros(n_rows, *shape)
        from fairsvd.arrays import as_batches

        return replace(data, editing=replace(data.editing, X=as_batches(X)))

    picture = (1, 2, 2)
    assert [count_steps(None, of(n, picture)) for n in (90, 160, 2000)] == [30, 50, 300]
    assert count_steps(7, of(160, picture)) == 7
    assert [count_lessons(None, of(n)) for n in (90, 11000, 30000)] == [400, 440, 500]
    assert count_lessons(9, of(90)) == 9


def test_one_teacher_serves_several_editors_that_share_a_folder(tmp_path, monkeypatch):
    trainings = []
    real = cells._fit
    monkeypatch.setattr(cells, "_fit", lambda *given: trainings.append(1) or real(*given))
    rows = table()
    network = trained(mlp(), rows)
    first = fit(FairLRFTransformer, rows, network, memory=tmp_path)
    assert len(trainings) == 1
    fit(FairPruner, rows, network, memory=tmp_path)
    fit(FairLRFTransformer, rows, network, memory=tmp_path, rank=0.5)
    again = fit(FairLRFTransformer, rows, network, memory=tmp_path)
    assert len(trainings) == 1
    np.testing.assert_array_equal(first.predict_proba(rows.X), again.predict_proba(rows.X))
    fit(FairPruner, rows, network, memory=tmp_path, random_state=1)
    assert len(trainings) == 2


def test_an_imitation_without_a_cap_yields_masks_then_settles():
    task = small_task()
    whole = keep_all(task.module, ["0", "2"], units=False)
    settings = {"gap_weight": None, "max_removed": None, "max_steps": 8, "attributes": {}}
    settings |= {"rng": np.random.default_rng(0), "n_jobs": None, "teacher": teacher_of(task)}
    found = list(mask_and_tune(task, whole, None, "scale", **settings))
    assert [c.params["stage"] for c in found] == ["masks"] * 4 + ["settle"] * 4
    alone = list(mask_and_tune(task, whole, None, None, **settings))
    assert [c.params["stage"] for c in alone] == ["masks"] * 4


def test_a_folder_gives_no_imitation_of_lessons_of_another_size(tmp_path):
    """Both sizes are below the 90 editing rows, which a step under the soft gap would all read."""
    rows = table()
    network = trained(mlp(), rows)
    settings = {"joint": "finetune", "max_steps": 60}
    fit(FairLRFTransformer, rows, network, memory=tmp_path, batch_size=32, **settings)
    kept = fit(FairLRFTransformer, rows, network, memory=tmp_path, batch_size=64, **settings)
    fresh = fit(FairLRFTransformer, rows, network, batch_size=64, **settings)
    assert kept.history_.equals(fresh.history_)
