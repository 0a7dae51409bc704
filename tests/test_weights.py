"""Weights of rows: 2 counts a row twice, 0 leaves it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import PredefinedSplit, StratifiedKFold

from choices import make_constraint
from fairsvd import BlindPostProcessor, FairLRFTransformer, FairLRFTransformerCV, GapFineTuner
from fairsvd.arrays import LabelledRows, as_batches, draw_order, repeat_rows
from fairsvd.objective import CountLimit, count_moves, count_table, make_judge, solve_rules
from fairsvd.training import CellBatches, RowBatches
from helpers import IGNORE_SMALL_DATA, mlp, skorch_net, table, trained
