"""Images of every (label, group) cell from a local text-to-image diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from ..._messages import listed
from ..._rng import resolve_seed, stage_rng, torch_generator
from ...base import Interval, StrOptions, positive_int
from ...exceptions import GroupError
from ._base import cell_of_rows
from ._rows import check_asked, read_rows

__all__ = ["DiffusionGenerator"]

# Rec. 601 luma: weights of red, green and blue in a grey value.
GREY = (0.299, 0.587, 0.114)

# Usual ranges of image values, tried in this order if value_range is None.
USUAL_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


class DiffusionGenerator(BaseEstimator):
    """Draw images of a cell from text prompts with a local diffusion model.

    It is for ``CellSampler(generator=...)`` on images (n, C, H, W) with one or three channels. It
    needs the extra ``diffusion`` and never downloads anything.

    Parameters
    ----------
    checkpoint : str or path
        Folder of a text-to-image pipeline, written by ``save_pretrained`` of diffusers with
        weights as safetensors.
    prompts : dict
        (label, group) -> list of prompts, as from
        :func:`~fairsvd.generative.contextual_prompts`. The uses of a cell's prompts differ by at
        most one.
    negative_prompt : str, default=""
        Text that images are steered away from.
    n_steps : int >= 1, default=50
        Denoising steps.
    guidance_scale : float >= 0, default=9.0
        Weight of the prompt in classifier-free guidance.
    scheduler : {"ddim", "own"}, default="ddim"
        "ddim": DDIM with eta 0; "own": the scheduler of the checkpoint.
    size : int or None, default=None
        Height and width of the drawn images in pixels; None: the checkpoint's default. They are
        scaled to the size of X afterwards.
    batch_size : int >= 1, default=15
        Number of images drawn at a time.
    value_range : (float, float) or None, default=None
        Values of black and white in X. None: 0 and 255 for integers; for floats the first of
        (0, 1), (-1, 1), (0, 255) that contains the values of X.
    precision : {"full", "half"}, default="full"
        Half precision halves the memory on a GPU.
    device : str, torch.device or None, default=None
        None: the CPU.
    random_state : int, RandomState instance or None, default=None

    Attributes
    ----------
    cells_ : list
        Cells of the images of ``fit``; each has prompts.

    Notes
    -----
    The defaults are the values of Zhao et al. (2025), :arxiv:`2503.05665`. Their model, Stable
    Diffusion 2.1 base, is no longer published; its weights have their own licence. As in their
    code no image is filtered. Deviation: images are scaled by antialiased bicubic interpolation
    instead of Lanczos. Equal seeds give equal images on the CPU.

    Examples
    --------
    >>> from fairsvd.generative import DiffusionGenerator, contextual_prompts
    >>> prompts = contextual_prompts({0: "serious", 1: "smiling"}, {"F": "female", "M": "male"})
    >>> DiffusionGenerator("models/portraits", prompts, random_state=0)
    DiffusionGenerator(checkpoint='models/portraits',...
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sensitive_features": True}
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "checkpoint": [str, PathLike],
        "prompts": [Mapping],
        "negative_prompt": [str],
        "n_steps": [positive_int()],
        "guidance_scale": [Interval(Real, 0, None, closed="left")],
        "scheduler": [StrOptions({"ddim", "own"})],
        "size": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [positive_int()],
        "value_range": [tuple, list, None],
        "precision": [StrOptions({"full", "half"})],
        "device": [str, torch.device, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        checkpoint: str | PathLike[str],
        prompts: Mapping[Any, Sequence[str]],
        *,
        negative_prompt: str = "",
        n_steps: int = 50,
        guidance_scale: float = 9.0,
        scheduler: str = "ddim",
        size: int | None = None,
        batch_size: int = 15,
        value_range: tuple[float, float] | None = None,
        precision: str = "full",
        device: Any = None,
        random_state: Any = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.prompts = prompts
        self.negative_prompt = negative_prompt
        self.n_steps = n_steps
        self.guidance_scale = guidance_scale
        self.scheduler = scheduler
        self.size = size
        self.batch_size = batch_size
        self.value_range = value_range
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, sensitive_features: Any = None) -> Self:
        """Record the format of the images, and check that every cell has prompts.

        Parameters
        ----------
        X : array-like of shape (n, C, H, W)
            C is 1 or 3.
        y : array-like of shape (n,), optional
        sensitive_features : array-like of shape (n,) or (n, n_attributes), optional

        Returns
        -------
        self : object
        """
        self._validate_params()
        X = read_rows(X)
        if X.ndim != 4 or X.shape[1] not in (1, 3):
            raise ValueError(
                f"X has the shape {X.shape}: DiffusionGenerator draws images (n, C, H, W) with 1 "
                "or 3 channels."
            )
        cells, _ = cell_of_rows(len(X), y, sensitive_features)
        lacking = [key for key in cells.keys if not self.prompts.get(key)]
        if lacking:
            raise GroupError(
                f"prompts has none for the cells [{listed(lacking, show=repr)}]; its keys are "
                f"[{listed(self.prompts, show=repr)}]. "
                "Keys must be (label, group), or labels if there are no groups."
            )
        _check_folder(self.checkpoint)
        self._range = _find_range(X, self.value_range)
        self._like = X[:1].copy()
        self._shares = cells.shares()
        self.cells_ = list(cells.keys)
        return self

    def sample(self, n: int, conditions: Sequence[Any] | None = None) -> NDArray[Any]:
        """Draw images.

        Parameters
        ----------
        n : int
        conditions : sequence of n cells, optional
            Keys of ``prompts``. None: cells are drawn by their share in ``fit``.

        Returns
        -------
        X : ndarray of shape (n, C, H, W)
            Dtype and range are those of the X of ``fit``.
        """
        check_is_fitted(self, "cells_")
        check_asked(n, conditions)
        rng = stage_rng(resolve_seed(self.random_state), "sample")
        if conditions is None:
            drawn = rng.choice(len(self.cells_), size=n, p=self._shares)
            conditions = [self.cells_[cell] for cell in drawn.tolist()]
        unknown = {key for key in conditions if not self.prompts.get(key)}
        if unknown:
            names = listed(sorted(map(str, unknown)), show=repr)
            raise GroupError(f"conditions ask for [{names}]: no prompts for them.")
        if not n:
            return self._like[:0].copy()
        texts = _choose_prompts(conditions, self.prompts)
        pipeline, generator = self._load_pipeline(), torch_generator(rng)
        size = self.batch_size
        starts = range(0, n, size)
        return np.concatenate(
            [self._draw_batch(pipeline, texts[k : k + size], generator) for k in starts]
        )

    def _load_pipeline(self) -> Any:
        """Load the pipeline from the local folder."""
        try:
            from diffusers import DDIMScheduler, DiffusionPipeline
        except ImportError as error:
            raise ImportError(
                "DiffusionGenerator needs diffusers and transformers: pip install "
                "'fairsvd[diffusion]'."
            ) from error
        pipeline = DiffusionPipeline.from_pretrained(
            str(_check_folder(self.checkpoint)),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=find_spec("accelerate") is not None,
        )
        if self.scheduler == "ddim":
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        if self.precision == "half":
            pipeline.to(torch.float16)
        return pipeline.to("cpu" if self.device is None else self.device)

    def _draw_batch(
        self, pipeline: Any, texts: list[str], generator: torch.Generator
    ) -> NDArray[Any]:
        side = {} if self.size is None else {"height": self.size, "width": self.size}
        drawn = pipeline(
            texts,
            negative_prompt=[self.negative_prompt] * len(texts),
            num_inference_steps=self.n_steps,
            guidance_scale=float(self.guidance_scale),
            generator=generator,
            output_type="np",
            **side,
        )
        flagged = getattr(drawn, "nsfw_content_detected", None)
        if flagged is not None and any(flagged):
            text = texts[list(flagged).index(True)]
            raise RuntimeError(
                f"The checkpoint's safety checker blanked an image of {text!r}: reword the prompt."
            )
        images = torch.as_tensor(np.asarray(drawn.images, dtype=np.float32)).permute(0, 3, 1, 2)
        return _as_rows(images, self._like, self._range)


def _check_folder(checkpoint: Any) -> Path:
    folder = Path(checkpoint)
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"checkpoint={str(checkpoint)!r} is not a folder with a model_index.json: pass the "
            "path of a local pipeline, written by save_pretrained of diffusers. Nothing is "
            "downloaded."
        )
    return folder


def _find_range(X: NDArray[Any], value_range: Any) -> tuple[float, float]:
    low, high = float(X.min()), float(X.max())
    if value_range is not None:
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(f"value_range={value_range!r}: pass (black, white), smaller first.")
        return float(value_range[0]), float(value_range[1])
    usual = USUAL_RANGES if X.dtype.kind == "f" else USUAL_RANGES[-1:]
    for black, white in usual:
        if black <= low and high <= white:
            return black, white
    raise ValueError(
        f"X holds values from {low:g} to {high:g}, which fit none of the usual ranges: pass "
        "value_range=(black, white)."
    )


def _choose_prompts(conditions: Sequence[Any], prompts: Mapping[Any, Sequence[str]]) -> list[str]:
    """Choose the prompts of each cell in turn."""
    used: dict[Any, int] = {}
    texts = []
    for key in conditions:
        k = used.get(key, 0)
        texts.append(prompts[key][k % len(prompts[key])])
        used[key] = k + 1
    return texts


def _as_rows(images: Tensor, like: NDArray[Any], ends: tuple[float, float]) -> NDArray[Any]:
    """Convert images (n, 3, h, w) in [0, 1] to the size, channels, range and dtype of X."""
    _, channels, *size = like.shape
    if list(images.shape[2:]) != size:
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
    if channels == 1:
        images = (images * torch.tensor(GREY).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    values = ends[0] + images.clamp(0, 1).double().numpy() * (ends[1] - ends[0])
    return (np.rint(values) if like.dtype.kind in "iu" else values).astype(like.dtype)
