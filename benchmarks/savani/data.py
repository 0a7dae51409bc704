"""The tables of Savani et al.: three tasks, split 60/20/20 by the seed, standardised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.tasks import Problem, Rows, Task, encode, load_table

__all__ = ["TASKS", "PaperTask", "load_paper_problem"]


@dataclass(frozen=True)
class PaperTask:
    """A task as AIF360 has it.

    Attributes
    ----------
    task : Task
        No column is left out: the length of a call and the charge in words are features here.
    privileged : str
        The group whose rates are subtracted.
    """

    task: Task
    privileged: str


TASKS = {
    "adult-sex": PaperTask(Task("load_adult", "sex"), "Male"),
    "bank-age": PaperTask(Task("load_bank", "age_group"), ">=25"),
    "compas-race": PaperTask(Task("load_compas", "race", against="Caucasian"), "Caucasian"),
}


def load_paper_problem(name: str, seed: int) -> Problem:
    """Load a task without rows that lack a value; code 1 is the privileged group.

    Parameters
    ----------
    name : str
        A key of ``TASKS``.
    seed : int
        Orders the rows before they are split.
    """
    of = TASKS[name]
    frame, y, names = load_table(of.task, "with-group")
    whole = frame.notna().all(axis=1).to_numpy()
    frame, y, names = frame[whole].reset_index(drop=True), y[whole], names[whole]
    order = np.random.default_rng(seed).permutation(len(y))
    train, validation, test = np.split(order, [int(0.6 * len(y)), int(0.8 * len(y))])
    X, g = standardised(encode(frame, train), train), (names == of.privileged).astype(np.int64)
    other = next(each for each in np.unique(names) if each != of.privileged)
    parts = (Rows(X[part], y[part], g[part]) for part in (train, validation, test))
    return Problem(name, "with-group", seed, (str(other), of.privileged), *parts)


def standardised(X: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardise every column, indicators too, by the training rows."""
    scale = X[train].std(axis=0)
    return ((X - X[train].mean(axis=0)) / np.where(scale > 0, scale, 1)).astype(np.float32)
