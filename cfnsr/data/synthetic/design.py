"""What drawn clips show, by either of two designs, and the best accuracy that it allows.

`params.Clips`, independent evidence: a drawn face and a synthetic voice each show the clip's
emotion with a set probability and one fixed other emotion otherwise, independently of each other.

`params.PointingClips`: brows and eyes show one emotion, the mouth another; one of the two parts,
each as often as the other, shows the clip's. The voice names that part. So neither the face nor the
voice alone, nor what they say added up, can settle the emotion: the one must be read in the light
of the other. In the mixture the voice also shows an emotion of its own.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, get_args

import numpy as np

from cfnsr.data import corpora
from cfnsr.data.corpora import Take
from cfnsr.data.synthetic.faces import Array
from cfnsr.data.synthetic.voices import SPEECH_S
from cfnsr.params import Clips, DrawnClips, PointingClips

#: Of a face: brows and eyes, or the mouth.
Part = Literal["upper", "lower"]
PARTS: tuple[Part, ...] = get_args(Part)


def _both_ways(*pairs: tuple[str, str]) -> dict[str, str]:
    return dict(pairs) | {two: one for one, two in pairs}


#: What is shown instead of each emotion, whether the corpus has that or not. Only neutral and calm
#: are partners in both, so face and voice together settle every other doubt, and still not
#: everything.
FACE_PARTNER = _both_ways(
    ("neutral", "calm"), ("happy", "surprised"), ("sad", "disgust"), ("angry", "fearful")
)
VOICE_PARTNER = _both_ways(
    ("neutral", "calm"), ("happy", "angry"), ("sad", "fearful"), ("disgust", "surprised")
)

#: Steps of the R_d sequence by d, 1/g to 1/g^d with g^(d+1) = g + 1: its points fill the cube
#: evenly. Written out, since another processor's powers may end in other digits.
_STEPS = {
    2: (0.7548776662466927, 0.5698402909980532),
    5: (
        0.8812714616335696,
        0.7766393890897682,
        0.6844301295853426,
        0.6031687406857282,
        0.5315553977157913,
    ),
}


@dataclass(frozen=True)
class Cue:
    """What a clip shows: emotions by name, and when the voice shows its own.

    `upper` is what brows and eyes show, `lower` what the mouth shows. `points_to` is the part that
    the voice names, in the first half of its stretch if it also shows an emotion, `voice`.

    `strength`, 1 or 2, is the take's intensity. Takes of an emotion that the corpus does not have
    in just these two (RAVDESS's neutral) draw one, so that strength tells nothing about the
    emotion. The face shows its emotions in `faces.CUE_LANDMARKS`.
    """

    upper: str
    lower: str
    voice: str | None
    points_to: Part | None
    strength: int
    voice_start_s: float
    voice_end_s: float


def cue(take: Take, clips: DrawnClips) -> Cue:
    """What the take's clip shows, the same in every process."""
    rng = random_numbers(clips, f"cue {take.clip}")
    is_given = _intensities(clips.corpus, take.emotion) == {1, 2}
    strength = take.intensity if is_given else int(rng.integers(1, 3))
    duration_s = rng.uniform(0.9, 1.2)
    start_s = rng.uniform(SPEECH_S[0] + 0.1, SPEECH_S[1] - 0.1 - duration_s)
    return Cue(*_shown(clips)[take], strength, start_s, start_s + duration_s)


def ceilings(clips: DrawnClips) -> dict[str, float]:
    r"""The best possible accuracy in percent from `video`, `audio`, and both, `audio_video`.

    No classifier beats the one that takes the most probable emotion e for whatever it is given:
    100 sum max_e P(e, what it is given). P(e) is the emotion's share of `takes(clips)`.

    Of independent evidence, all that face and voice show, f and v, says everything about e:

        P(e, f, v) = P(e) P(f | e) P(v | e),

    where P(f | e) is the reliability for f = e, its rest for f = e's partner, else 0. Since the
    logarithms of the three factors are added up, rules that decide for the largest
    f_e(face) + g_e(voice), `additive`, can reach as much.

    Where the voice points, of true part t, upper and lower emotion u and l, named part n and the
    voice's own emotion v, the clip shows u, l, n and v, with

        P(e, t, u, l, n, v) = P(e) 1/2 P(shown | e) 1/(N - 1) P(n | t) P(v | e),

    where `shown` is u or l as t says and the other is any of the N - 1 others. Here `additive` are
    rules for the largest f_e(u, l) + g_e(n, v), with any f and g. Take a face (u, l) = (a, b) for
    which two different emotions should be answered as the voice names the upper or the lower part.
    For that g_b - g_a must be larger with the lower part named; but for the mirrored face (b, a) it
    must be smaller, and since mirroring leaves all probabilities as they are, the two faces are
    worth the same. So a rule gains at most half of what knowing the part is worth: `additive` is
    halfway between not being told the part and being told.
    """
    pct = {name: 100 * float(table.max(axis=0).sum()) for name, table in _joint(clips).items()}
    return pct | {"additive": (pct["additive"] + pct["audio_video"]) / 2}


def takes(clips: DrawnClips) -> list[Take]:
    """Every take that is drawn."""
    return [
        take
        for take in corpora.find(clips.corpus).takes
        if take.statement <= clips.n_statements and take.repetition <= clips.n_repetitions
    ]


def takes_of(names: Iterable[str], clips: DrawnClips) -> list[Take]:
    """The takes of drawn clips, by the clips' names."""
    by_clip = {take.clip: take for take in takes(clips)}
    return [by_clip[name] for name in names]


@cache
def _intensities(corpus: str, emotion: int) -> set[int]:
    return {take.intensity for take in corpora.find(corpus).takes if take.emotion == emotion}


def random_numbers(clips: DrawnClips, purpose: str) -> np.random.Generator:
    """Random numbers of one purpose; hashed, because Python's `hash` differs per process."""
    digest = hashlib.sha256(f"{clips.seed} {purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def even_lots(clips: DrawnClips, emotion: int, n_lots: int) -> dict[Take, Array]:
    """Uniform numbers that decide what the takes of an emotion show, (n_lots,) by take.

    They come from a randomly shifted R_d sequence along the actors. One take's numbers are exactly
    uniform on the cube, so a closed form holds in expectation, and shares come out far closer to
    it than with independent draws. An actor's takes are shuffled first, lest they depend on
    intensity.
    """
    rng = random_numbers(clips, f"emotion {emotion}")
    group = [take for take in takes(clips) if take.emotion == emotion]
    shuffled = dict(zip(group, rng.random(len(group)), strict=True))
    group.sort(key=lambda take: (take.actor, shuffled[take]))
    steps = np.outer(np.arange(len(group)), _STEPS[n_lots])
    return dict(zip(group, (rng.random(n_lots) + steps) % 1, strict=True))


@lru_cache(maxsize=4)
def _shown(clips: DrawnClips) -> dict[Take, tuple[str, str, str | None, Part | None]]:
    """Upper, lower and the voice's emotion of each take, and the part that the voice names."""
    emotions = corpora.find(clips.corpus).emotions
    found: dict[Take, tuple[str, str, str | None, Part | None]] = {}
    for code, emotion in enumerate(emotions, 1):
        if isinstance(clips, PointingClips):
            own_reliability = clips.voice_reliability
            for take, (which, truth, other, named, own) in even_lots(clips, code, 5).items():
                shown = _drawn(emotion, emotions, truth, clips.part_reliability)
                decoy = _drawn(shown, emotions, other, 0)
                upper, lower = (shown, decoy) if which < 1 / 2 else (decoy, shown)
                right, wrong = PARTS if which < 1 / 2 else PARTS[::-1]
                part = right if named < clips.pointer_reliability else wrong
                heard = None
                if own_reliability is not None:
                    heard = _drawn(emotion, emotions, own, own_reliability)
                found[take] = (upper, lower, heard, part)
        else:
            assert isinstance(clips, Clips)
            for take, (u, v) in even_lots(clips, code, 2).items():
                face = emotion if u < clips.face_reliability else FACE_PARTNER[emotion]
                voice = emotion if v < clips.voice_reliability else VOICE_PARTNER[emotion]
                found[take] = (face, face, voice, None)
    return found


def _drawn(emotion: str, emotions: Sequence[str], lot: float, reliability: float) -> str:
    """The emotion with a probability, else any other."""
    if lot < reliability:
        return emotion
    others = [other for other in emotions if other != emotion]
    return others[int((lot - reliability) / (1 - reliability) * len(others))]


def _joint(clips: DrawnClips) -> dict[str, Array]:
    """P(e, what is given), emotions first; `additive` is not told which part the voice names."""
    emotions = corpora.find(clips.corpus).emotions
    n = len(emotions)
    codes = [take.emotion_index for take in takes(clips)]
    prior = np.bincount(codes, minlength=n) / len(codes)
    if isinstance(clips, PointingClips):
        shown = _reliable(clips.part_reliability, n)
        upper = np.einsum("e,eu,ul->eul", prior, shown, _reliable(0, n)) / 2
        faces = np.stack([upper, upper.transpose(0, 2, 1)])  # (true part, e, u, l)
        named = _reliable(clips.pointer_reliability, 2)
        voice = _reliable(1 / n if clips.voice_reliability is None else clips.voice_reliability, n)
        joint = np.einsum("teul,tn,ev->eulnv", faces, named, voice)
        return {
            "video": joint.sum(axis=(3, 4)),
            "audio": joint.sum(axis=(1, 2)),
            "additive": joint.sum(axis=3),
            "audio_video": joint,
        }
    assert isinstance(clips, Clips)
    face = _confusion(emotions, FACE_PARTNER, clips.face_reliability)
    voice = _confusion(emotions, VOICE_PARTNER, clips.voice_reliability)
    joint = np.einsum("e,ef,ev->efv", prior, face, voice)
    return {
        "video": np.einsum("e,ef->ef", prior, face),
        "audio": np.einsum("e,ev->ev", prior, voice),
        "additive": joint,
        "audio_video": joint,
    }


def _reliable(reliability: float, n_emotions: int) -> Array:
    """P(shown | emotion), one row an emotion."""
    rest = (1 - reliability) / (n_emotions - 1)
    return np.full((n_emotions, n_emotions), rest) + (reliability - rest) * np.eye(n_emotions)


def _confusion(emotions: Sequence[str], partner: dict[str, str], reliability: float) -> Array:
    """P(shown | emotion), one row an emotion and one column all that is ever shown."""
    shown = list(dict.fromkeys([*emotions, *partner]))
    truth = np.eye(len(shown))
    rows = [shown.index(emotion) for emotion in emotions]
    others = [shown.index(partner[emotion]) for emotion in emotions]
    return reliability * truth[rows] + (1 - reliability) * truth[others]
