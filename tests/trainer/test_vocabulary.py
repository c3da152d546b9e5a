"""trainer.vocabulary: words of lists are labels of 0 and 1, and decimals are in bins of equal share."""

from bisect import bisect_right
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainer.vocabulary import BINS, Vocabulary, cut_bins, label_value, train_values


@given(st.dictionaries(st.floats(-1e6, 1e6), st.integers(1, 9), min_size=1, max_size=80))
def test_every_number_is_in_the_bin_of_its_median(counts: dict[float, int]) -> None:
    medians, borders = cut_bins(counts)
    assert 1 <= len(medians) == len(borders) + 1 <= BINS
    assert sorted({*borders}) == list(borders)
    assert [bisect_right(borders, median) for median in medians] == [*range(len(medians))]


def test_bins_have_equal_shares() -> None:
    numbers = [(index / 7) ** 3 for index in range(BINS * 10)]
    _, borders = cut_bins(dict.fromkeys(numbers, 1))
    assert {*Counter(bisect_right(borders, number) for number in numbers).values()} == {10}
    assert len(cut_bins(dict.fromkeys(numbers[:5], 1))[0]) == 5


def test_a_word_of_a_list_is_0_or_1_and_none_without_the_list() -> None:
    assert label_value({"q": ["dark", "fast"]}, "q.dark") == 1
    assert label_value({"q": []}, "q.dark") == 0
    assert label_value({}, "q.dark") is None
    assert label_value({"q": "dark"}, "q.dark") is None
    assert label_value({"q.dark": 5, "q": ["dark"]}, "q.dark") == 5


def test_notes_with_decimals_get_the_id_of_their_bin() -> None:
    rows = [((60, index / 100), 1) for index in range(100)] + [((62, None), 2)]
    values, borders, combinations = train_values(["pitch", "x"], rows)
    assert sum(notes for _, notes in combinations) == 102 and len(combinations) == BINS + 1
    vocabulary = Vocabulary(1, 8, False, values, borders)
    ids = [vocabulary.label_ids({"pitch": 60, "x": index / 100})[1] for index in range(100)]
    assert ids == sorted(ids) and len({*ids}) == BINS
    assert vocabulary.label_ids({"x": -5.0})[1] == ids[0] and vocabulary.label_ids({"x": 9})[1] == ids[-1]
    assert vocabulary.label_ids({})[1] not in ids


def test_labels_without_decimals_are_as_before() -> None:
    rows = [((60, "a"), 1), ((62, None), 2)]
    values, borders, combinations = train_values(["pitch", "mood"], rows)
    assert (values, borders, combinations) == ((("pitch", (60, 62)), ("mood", ("a",))), (), rows)
    assert "borders" not in Vocabulary(1, 8, False, values).to_json()


def test_a_value_that_a_run_file_has_twice_stays_within_the_ids() -> None:
    vocabulary = Vocabulary(2, 32, labels=(("a", (1, 1)), ("b", (2,))))
    assert max(vocabulary.label_ids({"a": 1, "b": 2})) == vocabulary.size - 1
