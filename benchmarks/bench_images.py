"""Compare methods on tinted Fashion-MNIST, where the editing rows are as biased as the training.

Shirt against T-shirt; the colour follows the label for 90 % of 6,000 training rows and of 2,000
editing rows, and for none of the 2,000 test rows. A quarter of the editing rows chooses.

    python benchmarks/bench_images.py --seeds 3 --out images.jsonl --table images.md --resume
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bench_methods import append_row, attempt, names_of, read_rows, seeds_of
from context import Context, Method, Outcome
from controls import at_half, last_layer, one_threshold, plain_fine_tuning
from controls import soft_gap_fine_tuning as soft_gap
from nets import convnet, margins, train
from ours import bias_mask, edit, fairlrf, pruner
from protocol import evaluate
from tasks import Rows

CLASSES = (0, 6)
N_TRAIN, N_EDIT = 6000, 2000
STRENGTH = 0.9
CONSTRAINT = "equalized_odds"
COLUMNS = ("accuracy", "equalized_odds_difference", "worst_cell", "seconds")


def tinted(images: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> Rows:
    """Tint images and bring them into the benchmark's form; label 1 is the shirt."""
    from fairsvd.datasets import make_tinted

    bunch = make_tinted(images, labels, strength, random_state=seed)
    labels = (bunch.target == CLASSES[1]).astype(np.int64)
    return Rows(bunch.images.astype(np.float32), labels, bunch.groups)


@dataclasses.dataclass(frozen=True)
class Images:
    """The rows of one seed.

    Attributes
    ----------
    train, unbiased : Rows
        The same 6,000 images, tinted with and without the bias.
    edit, validation, test : Rows
    """

    train: Rows
    unbiased: Rows
    edit: Rows
    validation: Rows
    test: Rows


def load_images(seed: int) -> Images:
    """Draw and tint the rows of one seed."""
    from sklearn.model_selection import train_test_split

    from fairsvd.datasets import load_fashion_mnist

    source = load_fashion_mnist(subset="train", classes=CLASSES)
    held_out = load_fashion_mnist(subset="test", classes=CLASSES)
    order = np.random.default_rng(seed).permutation(len(source.target))
    first, second = order[:N_TRAIN], order[N_TRAIN : N_TRAIN + N_EDIT]
    editing = tinted(source.images[second], source.target[second], STRENGTH, seed + 1)
    edit_rows, validation = train_test_split(
        np.arange(N_EDIT), test_size=0.25, stratify=editing.y * 2 + editing.g, random_state=seed
    )
    return Images(
        train=tinted(source.images[first], source.target[first], STRENGTH, seed),
        unbiased=tinted(source.images[first], source.target[first], 0.5, seed),
        edit=Rows(*(column[edit_rows] for column in editing)),
        validation=Rows(*(column[validation] for column in editing)),
        test=tinted(held_out.images, held_out.target, 0.5, seed + 2),
    )


def prepare(images: Images, seed: int) -> Context:
    """Train the base network on the biased training rows."""
    network = train(convnet(3, seed), images.train.X, images.train.y, seed=seed, steps=0)
    return Context(
        network=network,
        train=images.edit,
        validation=images.validation,
        test_X=images.test.X,
        test_g=images.test.g,
        groups=("red", "blue"),
        seed=seed,
        utility="cell_balanced_accuracy",
        balance="cells",
    )


def oracle(context: Context, constraint: str, unbiased: Rows) -> Outcome:
    """Train on unbiased rows, which nobody has, to see what the bias costs."""
    network = train(convnet(3, context.seed), unbiased.X, unbiased.y, seed=context.seed, steps=0)
    return Outcome((margins(network, context.test_X) > 0).astype(int), {})


METHODS = {
    "untouched": Method(at_half, False, "untouched, threshold .5"),
    "untouched-gap": Method(one_threshold, False, "untouched, one threshold under the gap"),
    "oracle": Method(at_half, False, "oracle: trained on unbiased rows"),  # run_seed gives its rows
    "plain-fine-tuning": Method(plain_fine_tuning, False, "plain fine-tuning"),
    "last-layer": Method(last_layer, False, "last layer on balanced cells"),
    "soft-gap-fine-tuning": Method(soft_gap, False, "full fine-tuning, cells alike, soft gap"),
    "fairlrf": Method(partial(edit, make=fairlrf), False, "FairLRF (default)"),
    "fairlrf-curvature": Method(
        partial(edit, make=fairlrf, criterion="curvature", refine=None), False, "FairLRF, curvature"
    ),
    "bias-mask": Method(partial(edit, make=bias_mask), False, "bias mask (default)"),
    "bias-mask-random": Method(
        partial(edit, make=bias_mask, importance="random"), False, "bias mask, random, equal size"
    ),
    "pruner": Method(partial(edit, make=pruner), False, "weight pruning, learned (default)"),
}


def run_seed(seed: int, names: Sequence[str], out: Path) -> None:
    """Measure the missing methods of one seed."""
    import torch

    torch.set_num_threads(1)
    images = load_images(seed)
    context = prepare(images, seed)
    for name in names:
        method = METHODS[name]
        if name == "oracle":
            run = partial(oracle, unbiased=images.unbiased)
            method = dataclasses.replace(method, run=run)
        outcome, row = attempt(method, context, CONSTRAINT)
        row.update(task="tinted-fashion", form="blind", seed=seed, dev=False)
        row.update(constraint=CONSTRAINT, method=name, needs_group=False)
        if outcome is not None:
            row.update(notes=outcome.notes)
            row.update(evaluate(outcome.predictions, images.test, CONSTRAINT, context.before))
        append_row(out, row)


def cell(rows: Sequence[dict[str, Any]], column: str) -> str:
    """Write the mean over seeds and the range."""
    values = [row[column] for row in rows]
    return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Write the table, methods in the order of ``METHODS``."""
    lines = ["| method | accuracy | EO gap | worst cell | seconds | seeds |", "|" + "---|" * 6]
    for name, method in METHODS.items():
        own = [row for row in rows if row["method"] == name]
        good = [row for row in own if not row["error"]]
        cells = [cell(good, column) for column in COLUMNS] if good else ["-"] * len(COLUMNS)
        failed = "".join(f"; failed: {row['error'][:80]}" for row in own if row["error"])
        if own:
            lines.append("| " + " | ".join([method.label, *cells, f"{len(good)}{failed}"]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and write the table."""
    from joblib import Parallel, delayed

    parser = argparse.ArgumentParser(description="Compare methods on tinted Fashion-MNIST.")
    parser.add_argument("--methods", type=names_of(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("3"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("images.jsonl"))
    parser.add_argument("--table", type=Path, default=None, help="Markdown file; default: print")
    parser.add_argument("--resume", action="store_true", help="skip the rows that --out has")
    args = parser.parse_args(arguments)
    if not args.resume and args.out.exists():
        args.out.unlink()
    done = {(row["seed"], row["method"]) for row in read_rows(args.out)}
    todo: dict[int, list[str]] = {}
    for seed, name in product(args.seeds, args.methods):
        if (seed, name) not in done:
            todo.setdefault(seed, []).append(name)
    Parallel(n_jobs=args.jobs)(
        delayed(run_seed)(seed, names, args.out) for seed, names in todo.items()
    )
    text = markdown(read_rows(args.out))
    if args.table is None:
        print(text)
    else:
        args.table.write_text(text)


if __name__ == "__main__":
    main()
