import pytest

from cfnsr import InputError
from cfnsr.data.corpora.ravdess import AUDIO_ONLY, AUDIO_VIDEO, CORPUS, parse_name, stem, take

ALL_ACTORS = set(range(1, 25))


def test_the_example_of_ravdess_own_page_is_read_right():
    # zenodo.org/records/1188976: "02-01-06-01-02-01-12.mp4" is video-only, speech, fearful,
    # normal intensity, statement "dogs", 1st repetition, 12th actor.
    found = parse_name("02-01-06-01-02-01-12")
    assert found == take(12, emotion=6, intensity=1, statement=2, repetition=1)
    assert (found.emotion_index, found.clip) == (5, "06-01-02-01-12")


def test_ravdess_has_60_speech_takes_an_actor_and_4_of_them_neutral():
    takes = CORPUS.takes
    assert len(set(takes)) == len(takes) == 24 * 60
    assert sum(take.emotion == 1 for take in takes) == 24 * 4
    for modality in (AUDIO_VIDEO, AUDIO_ONLY):
        assert all(parse_name(stem(take, modality)) == take for take in takes)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("holiday", "seven two-digit fields"),
        ("01-01-06-01-02-01", "seven two-digit fields"),
        ("01-01-06-01-02-01-12 (1)", "seven two-digit fields"),
        ("01-01-06-01-02-01-1²", "seven two-digit fields"),
        ("01-01-09-01-02-01-12", "emotion is 09, expected 01 to 08"),
        ("00-01-06-01-02-01-12", "modality is 00, expected 01 to 03"),
        ("01-01-06-01-02-01-25", "actor is 25, expected 01 to 24"),
        ("01-02-06-01-02-01-12", "is a song .*move the song files"),
        ("01-01-01-02-02-01-12", "no neutral take of strong intensity"),
    ],
)
def test_a_name_that_is_no_speech_take_is_refused_with_the_reason(stem, expected):
    with pytest.raises(InputError, match=expected):
        parse_name(stem)


def test_folds_are_four_consecutive_actors_two_of_them_women():
    assert [CORPUS.groups[fold - 1] for fold in (1, 2, 6)] == [
        (1, 2, 3, 4),
        (5, 6, 7, 8),
        (21, 22, 23, 24),
    ]
    for fold in range(1, 7):
        assert len(CORPUS.women.intersection(CORPUS.groups[fold - 1])) == 2


def test_the_nested_protocol_tests_and_validates_each_actor_once():
    splits = [CORPUS.split(fold, "nested") for fold in CORPUS.folds("nested")]
    assert sorted(actor for split in splits for actor in split.test) == sorted(ALL_ACTORS)
    assert sorted(actor for split in splits for actor in split.validation) == sorted(ALL_ACTORS)


def test_the_papers_folds_never_test_the_last_four_actors():
    tested = {a for fold in CORPUS.folds("paper") for a in CORPUS.split(fold, "paper").test}
    assert tested == set(range(1, 21))
