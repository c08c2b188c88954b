"""The demo's language: phrases, what they match, the vocabulary file, the tokenizer."""

from __future__ import annotations

from pathlib import Path

from sam3lt_ray.demo.palette import COLOUR_NAMES, SHAPE_NAMES
from sam3lt_ray.demo.prompts import (
    NUM_OBJECT_CLASSES,
    Phrase,
    demo_labels,
    known_phrases,
    match_table,
    object_class,
    parse_phrase,
)
from sam3lt_ray.demo.tokenizer import CONTEXT_LENGTH, VOCABULARY, build_tokenizer

ROOT = Path(__file__).parents[3]


def test_there_are_phrases_of_three_kinds() -> None:
    texts = [phrase.text for phrase in known_phrases()]
    assert len(texts) == len(set(texts)) == len(COLOUR_NAMES) * len(SHAPE_NAMES) + len(COLOUR_NAMES) + len(SHAPE_NAMES)
    assert {"red circle", "square", "blue shape"} <= set(texts)


def test_parsing_forgives_capitals_and_spaces_and_knows_no_other_words() -> None:
    assert parse_phrase("  Red   CIRCLE ") == Phrase("red", "circle")
    assert parse_phrase("blue shape") == Phrase("blue", None)
    assert parse_phrase("ear") is None
    assert parse_phrase("circle red") is None


def test_match_table_agrees_with_matches() -> None:
    phrases = known_phrases()
    table = match_table(phrases)
    assert table.shape == (len(phrases), NUM_OBJECT_CLASSES)
    for row, phrase in zip(table, phrases, strict=True):
        for colour in COLOUR_NAMES:
            for shape in SHAPE_NAMES:
                assert row[object_class(colour, shape)] == phrase.matches(colour, shape)


def test_demo_vocabulary_has_twenty_known_labels_of_all_kinds() -> None:
    phrases = [parse_phrase(label) for label in demo_labels()]
    assert len(phrases) == len(set(phrases)) == 20
    assert None not in phrases
    kinds = {(phrase.colour is None, phrase.shape is None) for phrase in phrases if phrase}
    assert kinds == {(False, False), (True, False), (False, True)}


def test_the_two_copies_of_the_vocabulary_are_the_same() -> None:
    packaged = ROOT / "sam3lt_ray" / "demo" / "vocabulary.yaml"
    assert packaged.read_bytes() == (ROOT / "configs" / "vocabularies" / "demo.yaml").read_bytes()


def test_tokenizer_wraps_pads_and_ignores_case_and_punctuation() -> None:
    encoding = build_tokenizer().encode("Red-Circle!")
    assert encoding.tokens == ["[BOS]", "red", "circle", "[EOS]"] + ["[PAD]"] * (CONTEXT_LENGTH - 4)
    assert encoding.attention_mask == [1] * 4 + [0] * (CONTEXT_LENGTH - 4)
    assert build_tokenizer().encode("ear").tokens[1] == "[UNK]"


def test_the_end_token_has_the_highest_id() -> None:
    assert build_tokenizer().encode("pink heart").ids[3] == len(VOCABULARY) - 1


def test_the_shipped_tokenizer_is_the_built_one() -> None:
    shipped = ROOT / "sam3lt_ray" / "demo" / "checkpoint" / "tokenizer.json"
    assert shipped.read_text(encoding="utf-8") == build_tokenizer().to_str(pretty=True)


def test_the_checkpoint_folder_stays_small() -> None:
    folder = ROOT / "sam3lt_ray" / "demo" / "checkpoint"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16_000_000
