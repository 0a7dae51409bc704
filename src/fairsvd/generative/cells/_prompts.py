"""Prompts for text-to-image models, with label, group, and details from a shared menu."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._rng import resolve_seed, stage_rng

__all__ = ["FACE_CONTEXT", "contextual_prompts"]

# Details of a portrait that by themselves reveal no age, sex or skin.
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

    Every prompt names label and group. All other details come from one menu and are the same in
    every cell, so they do not reveal the cell. No prompt occurs twice.

    Parameters
    ----------
    target : dict
        Label -> its words in a prompt: ``{0: "not smiling", 1: "smiling"}``.
    sensitive : dict
        Group -> its words in a prompt: ``{"F": "female", "M": "male"}``.
    context : dict, callable or None, default=None
        A menu: topic -> phrases, such as ``FACE_CONTEXT``. Or a language model: a function that
        maps an instruction (str) to an answer, a string with one context per line or a list of
        strings; it is called once. None: the plain baseline with one prompt per cell.
    n_prompts : int >= 1, default=50
        Prompts per cell; the paper has 50.
    n_details : int, optional
        Number of topics in one prompt, always including the last one (the paper has two
        attributes and a head pose). None: all.
    template : str
        Text with the fields ``{target}``, ``{sensitive}`` and ``{context}``.
    random_state : int, RandomState instance or None, default=None
        Source of the drawn combinations.

    Returns
    -------
    prompts : dict
        (label, group) -> list of ``n_prompts`` strings, for
        :class:`~fairsvd.generative.DiffusionGenerator`.

    Raises
    ------
    ValueError
        If the menu has too few combinations, the model returns too few different lines, or a
        context names a label or a group.

    Notes
    -----
    Zhao et al. (2025), :arxiv:`2503.05665`. Deviation: their language model wrote the prompts of
    each cell; here it writes the contexts once for all cells, which makes them independent of
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
        contexts = _ask_model(context, target, sensitive, n_prompts)
    else:
        contexts = _draw_contexts(context, n_prompts, n_details, random_state)
    _check_neutral(contexts, [*target.values(), *sensitive.values()])
    return {
        (label, group): [_fill(template, target[label], sensitive[group], c) for c in contexts]
        for label in target
        for group in sensitive
    }


def _fill(template: str, target: str, sensitive: str, context: str) -> str:
    text = template.format(target=target, sensitive=sensitive, context=context)
    return re.sub(r"\s+", " ", text).strip(" ,")


def _check_words(target: Any, sensitive: Any, template: str) -> None:
    for name, words in (("target", target), ("sensitive", sensitive)):
        if not isinstance(words, Mapping) or len(words) < 2:
            raise ValueError(
                f"{name}={words!r}: pass a dict of at least two values and their words."
            )
        if len({str(word).strip() for word in words.values()} - {""}) < len(words):
            raise ValueError(f"{name}={words!r}: each value needs words of its own.")
    missing = [f for f in ("target", "sensitive", "context") if "{" + f + "}" not in template]
    if missing:
        raise ValueError(f"template={template!r} lacks the fields {missing}.")


def _draw_contexts(
    menu: Mapping[str, Sequence[str]], n: int, n_details: int | None, random_state: Any
) -> list[str]:
    """Draw different combinations of the menu, all with equal probability."""
    topics = [list(dict.fromkeys(phrases)) for phrases in menu.values()]
    if not topics or not all(topics):
        raise ValueError("context is a menu without topics, or with an empty topic: add phrases.")
    n_details = len(topics) if n_details is None else n_details
    if not 1 <= n_details <= len(topics):
        raise ValueError(f"n_details={n_details}: the menu has {len(topics)} topics.")
    rng = stage_rng(resolve_seed(random_state), "sample")
    last = len(topics) - 1
    contexts: dict[str, None] = {}
    for _ in range(100):
        for _ in range(n):
            free = sorted(rng.permutation(last)[: n_details - 1])
            phrases = [topics[k][rng.integers(len(topics[k]))] for k in [*free, last]]
            contexts.setdefault(", ".join(phrases))
        if len(contexts) >= n:
            return list(contexts)[:n]
    total = math.prod(map(len, topics))
    raise ValueError(
        f"n_prompts={n}: the menu gave only {len(contexts)} different contexts (all topics have "
        f"{total} combinations). Add phrases, or ask for fewer prompts."
    )


def _ask_model(
    model: Callable[[str], Any], target: Mapping[Any, str], sensitive: Mapping[Any, str], n: int
) -> list[str]:
    """Ask a language model for contexts and read its lines."""
    labels, groups = (" or ".join(f'"{w}"' for w in d.values()) for d in (target, sensitive))
    answer = model(
        f"Write {n} short descriptions of details that may differ between two pictures, one a "
        "line, without numbering. They complete a prompt for a text-to-image model. The pictures "
        f"are to show {labels}, of people who are {groups}; never mention "
        "these properties or hint at them: each line must fit any combination. Vary hair, "
        "features of the face, pose of the head, gaze, light and background. No line twice."
    )
    lines = answer.splitlines() if isinstance(answer, str) else list(answer)
    bare = [re.sub(r"^\s*(\d+[.)]|[-*•])\s*", "", str(line)).strip(" .,") for line in lines]
    contexts = [line for line in dict.fromkeys(bare) if line]
    if len(contexts) < n:
        raise ValueError(
            f"The language model gave {len(contexts)} different lines, n_prompts={n} were wanted: "
            "let it write more, or ask for fewer prompts."
        )
    return contexts[:n]


def _check_neutral(contexts: Sequence[str], words: Sequence[str]) -> None:
    for word in words:
        # Case matters for "Black" (unlike black hair), but not for "Female" at the start of a line.
        flags = re.IGNORECASE if word.islower() else 0
        whole = re.compile(rf"\b{re.escape(word.strip())}\b", flags)
        faulty = [context for context in contexts if whole.search(context)]
        if faulty:
            raise ValueError(
                f"The context {faulty[0]!r} names {word!r}, which is a label or a group: contexts "
                "are shared by all cells and must not contradict one of them."
            )
