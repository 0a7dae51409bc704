"""The image tasks of the benchmark: the rows that train, edit, choose and test.

In the tinted tasks the colour follows the label for 90 % of the training rows. In the form
``biased`` it does so for 90 % of the editing rows too. In the form ``unbiased`` the editing rows
have random colours, as the test rows always have. Skin lesions and faces are not changed.
"""

from __future__ import annotations

import numpy as np

from benchmarks.fairness.faces import faces_by_age, faces_by_race
from benchmarks.fairness.image_rows import ImageProblem, ImageTask, halves
from benchmarks.fairness.lesions import LESION_TASKS
from benchmarks.tasks import Rows

__all__ = ["FORMS", "TASKS", "ImageProblem", "ImageTask", "load_problem"]

FORMS = ("biased", "unbiased", "as-is")
STRENGTH = 0.9
SHIRTS = (0, 6)


def tinted(
    images: np.ndarray, labels: np.ndarray, strength: float, seed: int, colors: int = 2
) -> Rows:
    """Tint images and bring them into the benchmark's form; labels become codes."""
    from fairsvd.datasets import make_tinted

    bunch = make_tinted(images, labels, strength, n_colors=colors, random_state=seed)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Rows(bunch.images.astype(np.float32), codes, bunch.groups)


def fashion(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Load shirt (1) against T-shirt (0): 6,000 training, 2,000 editing and 2,000 test rows.

    Development runs test on 2,000 further rows of the training files.
    """
    from fairsvd.datasets import load_fashion_mnist

    source = load_fashion_mnist(subset="train", classes=SHIRTS)
    held = load_fashion_mnist(subset="test", classes=SHIRTS)
    n_base, n_edit, n_test = (600, 240, 200) if quick else (6000, 2000, 2000)
    order = np.random.default_rng(seed).permutation(len(source.target))
    base, edit, further = np.split(order, [n_base, n_base + n_edit])
    test = (source.images[further], source.target[further]) if dev else (held.images, held.target)
    strength = STRENGTH if form == "biased" else 0.5
    editing = tinted(source.images[edit], source.target[edit], strength, seed + 1)
    train, validation = halves(editing, seed)
    return ImageProblem(
        task="",
        form=form,
        seed=seed,
        groups=("red", "blue"),
        base=tinted(source.images[base], source.target[base], STRENGTH, seed),
        unbiased=tinted(source.images[base], source.target[base], 0.5, seed),
        train=train,
        validation=validation,
        test=tinted(*(part[:n_test] for part in test), 0.5, seed + 2),
        steps=0,
    )


def enlarged_fashion(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Enlarge the same images to 64 x 64."""
    from dataclasses import replace

    problem = fashion(form, seed, dev, quick)
    parts = ("base", "unbiased", "train", "validation", "test")
    return replace(problem, **{part: enlarged(getattr(problem, part)) for part in parts})


def fashion_pairs(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Test the first task on every test image in both colours.

    Both groups hold the same images, so that a gap has less noise than where each has its own.
    """
    from dataclasses import replace

    problem = fashion(form, seed, dev, quick)
    return replace(problem, test=in_both_colours(problem.test))


def in_both_colours(rows: Rows) -> Rows:
    """Add every image in the other colour: red and blue are the first and last channel."""
    other = Rows(np.ascontiguousarray(rows.X[:, ::-1]), rows.y, 1 - rows.g)
    return Rows(*(np.concatenate(pair) for pair in zip(rows, other, strict=True)))


def enlarged(rows: Rows, side: int = 64) -> Rows:
    """Enlarge images by interpolation between pixels."""
    import torch

    images = torch.from_numpy(rows.X)
    larger = torch.nn.functional.interpolate(images, (side, side), mode="bilinear")
    return rows._replace(X=larger.numpy())


def digits(form: str, seed: int, dev: bool, quick: bool) -> ImageProblem:
    """Load ten digits in three colours, 8 x 8: half train, a quarter edits, a quarter tests.

    Development runs use only the three quarters that do not test.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    grey, labels = source.images / 16.0, source.target
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed
    )
    if dev:
        rest, test = train_test_split(
            rest, test_size=0.25, stratify=labels[rest], random_state=seed
        )
    base, edit = train_test_split(rest, test_size=1 / 3, stratify=labels[rest], random_state=seed)
    strength = STRENGTH if form == "biased" else 1 / 3
    train, validation = halves(tinted(grey[edit], labels[edit], strength, seed + 1, 3), seed)
    return ImageProblem(
        task="",
        form=form,
        seed=seed,
        groups=("red", "blue", "green"),
        base=tinted(grey[base], labels[base], STRENGTH, seed, 3),
        unbiased=tinted(grey[base], labels[base], 1 / 3, seed, 3),
        train=train,
        validation=validation,
        test=tinted(grey[test], labels[test], 1 / 3, seed + 2, 3),
        steps=0 if quick else 1500,
    )


TASKS = {
    "tinted-fashion": ImageTask(fashion, ("biased", "unbiased")),
    "tinted-fashion-pairs": ImageTask(fashion_pairs, ("biased", "unbiased")),
    "tinted-fashion-64": ImageTask(enlarged_fashion, ("biased", "unbiased")),
    "tinted-digits": ImageTask(digits, ("biased", "unbiased")),
    **LESION_TASKS,
    "faces-gender": ImageTask(faces_by_race, ("as-is",)),
    "faces-gender-age": ImageTask(faces_by_age, ("as-is",)),
}


def load_problem(
    name: str, form: str, seed: int, *, dev: bool = False, quick: bool = False
) -> ImageProblem:
    """Load the rows of one task, form and seed.

    Parameters
    ----------
    name : str
        A key of ``TASKS``.
    form : str
        One of the task's forms.
    seed : int
        Draws the rows and their colours.
    dev : bool, default=False
        Test on rows that are no test rows of any seed's table (tinted Fashion-MNIST, faces) or of
        this seed's (the others), so that methods can be tuned without touching them.
    quick : bool, default=False
        Take a few hundred rows and little training, only to see that everything runs.

    Returns
    -------
    problem : ImageProblem
    """
    from dataclasses import replace

    return replace(TASKS[name].load(form, seed, dev, quick), task=name)
