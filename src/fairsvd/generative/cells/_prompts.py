"""Prompts for text-to-image models: label and group in each, everything else from a shared menu."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._rng import resolve_seed, stage_rng

__all__ = ["FACE_CONTEXT", "contextual_prompts"]

# Details of a portrait that say nothing of age, sex or skin by themselves.
FACE_CONTEXT: dict[str, tuple[str, ...]] = {
    "hair": (
        "short hair", "long hair", "curly hair", "straight hair", "wavy hair", "black hair",
        "brown hair", "blond hair", "a fringe", "hair tied back",
    ),
    "face": (
        "round cheeks", "high cheekbones", "a pointed nose", "a broad nose", "narrow eyes",
        "large eyes", "thick eyebrows", "thin eyebrows", "full lips", "an oval face", "freckles",
    ),
    "pose": (
        "facing the camera", "head turned to the left", "head turned to the right",
        "head tilted", "seen from slightly above", "seen from slightly below", "in profile",
    ),
    "scene": (
        "in daylight", "in soft indoor light", "in front of a plain wall", "in a street",
        "in a garden", "in an office", "with a blurred background",
    ),
}  # fmt: skip

Context = Mapping[str, Sequence[str]] | Callable[[str], Any] | None


def contextual_prompts(
    target: Mapping[Any, str],
    sensitive: Mapping[Any, str],
    context: Context = None,
    *,
    n_prompts: int = 50,
    n_details: int | None = None,
    template: str = "a portrait photo of a {sensitive} person, {target}, {context}",
    random_state: Any = None,
) -> dict[tuple[Any, Any], list[str]]:
    """Write AIM-Fair's prompt sets, one for each (label, group) cell.

    Label and group are named in every prompt; what else varies comes from one menu and is the
    same in every cell, so that it cannot tell the cells apart. No prompt occurs twice.

    Parameters
    ----------
    target : dict
        Label -> how a prompt says it: ``{0: "not smiling", 1: "smiling"}``.
    sensitive : dict
        Group -> how a prompt says it: ``{"F": "female", "M": "male"}``.
    context : dict, callable or None, default=None
        A menu: topic -> phrases, such as ``FACE_CONTEXT``. Or a language model: a function from
        an instruction (str) to its answer, a string with one context a line or a list of
        strings; it is called once. None: the plain baseline, one prompt a cell.
    n_prompts : int >= 1, default=50
        Prompts of a cell; the paper's sets have 50.
    n_details : int, optional
        Topics of the menu that one prompt takes from, the last one always (the paper has two
        attributes and a head pose). None: all.
    template : str
        With the fields ``{target}``, ``{sensitive}`` and ``{context}``.
    random_state : int, RandomState instance or None, default=None
        Which combinations of the menu are taken.

    Returns
    -------
    prompts : dict
        (label, group) -> list of ``n_prompts`` strings, for
        :class:`~fairsvd.generative.DiffusionGenerator`.

    Raises
    ------
    ValueError
        The menu has too few combinations, the model gave too few different lines, or a context
        names a label or a group itself.

    Notes
    -----
    Zhao et al. (2025), :arxiv:`2503.05665`. Departure: their language model wrote the prompts of
    each cell; here it writes the contexts, once for all cells, which keeps them independent of
    the cell whatever the model associates with it.

    Examples
    --------
    >>> from fairsvd.generative import contextual_prompts
    >>> menu = {"hair": ["curly hair", "short hair"], "pose": ["in profile", "from the front"]}
    >>> prompts = contextual_prompts(
    ...     {0: "not smiling", 1: "smiling"},
    ...     {"F": "female", "M": "male"},
    ...     menu,
    ...     n_prompts=3,
    ...     random_state=0,
    ... )
    >>> prompts[1, "F"][0]
    'a portrait photo of a female person, smiling, curly hair, from the front'
    """
    _check_words(target, sensitive, template)
    if context is None:
        contexts = [""]
    elif callable(context):
        contexts = _told(context, target, sensitive, n_prompts)
    else:
        contexts = _combined(context, n_prompts, n_details, random_state)
    _check_neutral(contexts, [*target.values(), *sensitive.values()])
    return {
        (label, group): [_filled(template, target[label], sensitive[group], c) for c in contexts]
        for label in target
        for group in sensitive
    }


def _filled(template: str, target: str, sensitive: str, context: str) -> str:
    text = template.format(target=target, sensitive=sensitive, context=context)
    return re.sub(r"\s+", " ", text).strip(" ,")


def _check_words(target: Any, sensitive: Any, template: str) -> None:
    for name, words in (("target", target), ("sensitive", sensitive)):
        if not isinstance(words, Mapping) or len(words) < 2:
            raise ValueError(f"{name}={words!r}: pass a dict of two values or more to their words.")
        if len({str(word).strip() for word in words.values()} - {""}) < len(words):
            raise ValueError(f"{name}={words!r}: each value needs words of its own.")
    missing = [f for f in ("target", "sensitive", "context") if "{" + f + "}" not in template]
    if missing:
        raise ValueError(f"template={template!r} lacks the fields {missing}.")


def _combined(
    menu: Mapping[str, Sequence[str]], n: int, n_details: int | None, random_state: Any
) -> list[str]:
    """Draw different combinations of the menu; no combination is more likely than another."""
    topics = [list(dict.fromkeys(phrases)) for phrases in menu.values()]
    if not topics or not all(topics):
        raise ValueError("context is a menu without topics, or with a topic without phrases.")
    n_details = len(topics) if n_details is None else n_details
    if not 1 <= n_details <= len(topics):
        raise ValueError(f"n_details={n_details}: the menu has {len(topics)} topics.")
    rng = stage_rng(resolve_seed(random_state), "sample")
    last = len(topics) - 1
    chosen: dict[str, None] = {}
    for _ in range(100):
        for _ in range(n):
            free = sorted(rng.permutation(last)[: n_details - 1])
            phrases = [topics[k][rng.integers(len(topics[k]))] for k in [*free, last]]
            chosen.setdefault(", ".join(phrases))
        if len(chosen) >= n:
            return list(chosen)[:n]
    most = math.prod(map(len, topics))
    raise ValueError(
        f"n_prompts={n}: the menu gave {len(chosen)} different contexts only (all topics together "
        f"have {most} combinations). Add phrases, or ask for fewer prompts."
    )


def _told(
    model: Callable[[str], Any], target: Mapping[Any, str], sensitive: Mapping[Any, str], n: int
) -> list[str]:
    """Ask a language model for contexts and read its lines."""
    answer = model(
        f"Write {n} short descriptions of details that may differ between two pictures, one a "
        "line, without numbering. They complete a prompt for a text-to-image model. The pictures "
        f"are to show {_listed(target)}, of people who are {_listed(sensitive)}; never mention "
        "these properties or hint at them: each line must fit any combination. Vary hair, "
        "features of the face, pose of the head, gaze, light and background. No line twice."
    )
    lines = answer.splitlines() if isinstance(answer, str) else list(answer)
    bare = [re.sub(r"^\s*(\d+[.)]|[-*•])\s*", "", str(line)).strip(" .,") for line in lines]
    contexts = [line for line in dict.fromkeys(bare) if line]
    if len(contexts) < n:
        raise ValueError(
            f"The language model gave {len(contexts)} different lines, n_prompts={n} are wanted: "
            "let it write more, or ask for fewer prompts."
        )
    return contexts[:n]


def _listed(words: Mapping[Any, str]) -> str:
    return " or ".join(f'"{word}"' for word in words.values())


def _check_neutral(contexts: Sequence[str], words: Sequence[str]) -> None:
    for word in words:
        # "Black" is no matter of hair, "female" at the start of a line is one of sex.
        flags = re.IGNORECASE if word.islower() else 0
        whole = re.compile(rf"\b{re.escape(word.strip())}\b", flags)
        naming = [context for context in contexts if whole.search(context)]
        if naming:
            raise ValueError(
                f"The context {naming[0]!r} names {word!r}, which is a label or a group: contexts "
                "are shared by all cells and must not contradict one of them."
            )
