"""Prompt sets: label and group in every prompt, the rest alike in all cells."""

from __future__ import annotations

import pytest

from fairsvd.generative import FACE_CONTEXT, contextual_prompts

TARGET = {0: "not smiling", 1: "smiling"}
SENSITIVE = {"F": "female", "M": "male"}


def test_every_prompt_names_label_and_group_and_none_occurs_twice():
    prompts = contextual_prompts(TARGET, SENSITIVE, FACE_CONTEXT, random_state=0)
    assert set(prompts) == {(0, "F"), (0, "M"), (1, "F"), (1, "M")}
    for (label, group), texts in prompts.items():
        assert len(texts) == len(set(texts)) == 50
        assert all(f"a {SENSITIVE[group]} person, {TARGET[label]}," in text for text in texts)
    every = [text for texts in prompts.values() for text in texts]
    assert len(set(every)) == 200


def test_the_context_is_the_same_in_every_cell():
    prompts = contextual_prompts(TARGET, SENSITIVE, FACE_CONTEXT, n_prompts=7, random_state=1)
    bare = [
        [t.replace(SENSITIVE[group], "").replace(TARGET[label], "") for t in texts]
        for (label, group), texts in prompts.items()
    ]
    assert all(context == bare[0] for context in bare)


def test_seeds():
    first, again, other = (
        contextual_prompts(TARGET, SENSITIVE, FACE_CONTEXT, random_state=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_topics_of_a_prompt_with_the_last_one_always():
    prompts = contextual_prompts(TARGET, SENSITIVE, FACE_CONTEXT, n_details=2, random_state=0)
    for text in prompts[0, "F"]:
        held = [topic for topic, words in FACE_CONTEXT.items() if any(w in text for w in words)]
        assert held[-1] == "scene"
        assert text.count(",") == 3


def test_without_context_there_is_one_plain_prompt():
    prompts = contextual_prompts(TARGET, SENSITIVE)
    assert prompts[1, "M"] == ["a portrait photo of a male person, smiling"]


@pytest.mark.parametrize("as_text", [True, False])
def test_a_language_model_is_asked_once_for_all_cells(as_text):
    asked = []

    def model(instruction):
        asked.append(instruction)
        lines = ["1. in a garden", "- with glasses.", "", "in a garden", "* by a window"]
        return "\n".join(lines) if as_text else lines

    prompts = contextual_prompts(TARGET, SENSITIVE, model, n_prompts=3)
    assert len(asked) == 1
    assert "Write 3 short" in asked[0]
    assert all(f'"{word}"' in asked[0] for word in [*TARGET.values(), *SENSITIVE.values()])
    assert [text.split(", ")[-1] for text in prompts[0, "F"]] == [
        "in a garden",
        "with glasses",
        "by a window",
    ]


def test_a_word_with_a_capital_is_a_group_only_with_it():
    groups = {"B": "Black", "W": "White"}
    prompts = contextual_prompts(TARGET, groups, {"hair": ["black hair"]}, n_prompts=1)
    assert prompts[0, "W"] == ["a portrait photo of a White person, not smiling, black hair"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {0: "smiling"}}, "at least two values"),
        ({"sensitive": {"F": "person", "M": "person"}}, "words of its own"),
        ({"template": "a {sensitive} person, {context}"}, r"lacks the fields \['target'\]"),
        ({"context": {}}, "without topics"),
        ({"context": {"hair": []}}, "an empty topic"),
        ({"context": {"hair": ["short hair"]}}, "only 1 different contexts"),
        ({"context": {"hair": ["short hair", "a male haircut"]}, "n_prompts": 2}, "names 'male'"),
        ({"context": lambda text: "Smiling broadly\nsad"}, "gave 2 different lines"),
        ({"context": lambda text: "Smiling broadly", "n_prompts": 1}, "names 'smiling'"),
        ({"context": FACE_CONTEXT, "n_details": 5}, "the menu has 4 topics"),
    ],
)
def test_what_is_refused(change, message):
    given = {"target": TARGET, "sensitive": SENSITIVE, "context": FACE_CONTEXT, **change}
    with pytest.raises(ValueError, match=message):
        contextual_prompts(**given)
