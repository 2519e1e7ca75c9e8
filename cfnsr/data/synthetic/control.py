"""The control with independent evidence, whose best possible accuracy is known.

A drawn face and a synthetic voice each show the clip's emotion with a set probability and one
fixed other emotion otherwise, independently of each other. See `ceilings` for what follows.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cfnsr.data import corpora
from cfnsr.data.corpora import Take
from cfnsr.data.synthetic.cues import Cue, even_lots, takes
from cfnsr.data.synthetic.faces import Array
from cfnsr.params import Clips


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


def cue(take: Take, clips: Clips) -> Cue:
    """What the take's clip shows, the same in every process."""
    face, voice = _shown(clips)[take]
    return Cue.draw_lots(take, clips, face, face, voice, None)


def ceilings(clips: Clips) -> dict[str, float]:
    r"""The best possible accuracy in percent from `video`, `audio`, and both, `audio_video`.

    Of all that face and voice show, f and v say everything about the emotion e; so no classifier
    beats the one that takes the most probable e for each pair:

        100 sum_{f,v} max_e P(e) P(f | e) P(v | e)

    and for one modality the same without the other's factor. Since the logarithms of the three
    factors are added up, rules that decide for the largest f_e(face) + g_e(voice), `additive`,
    can reach as much. P(e) is the emotion's share of
    `takes(clips)`; P(f | e) is the reliability for f = e, its rest for f = e's partner, else 0.
    """
    best = {name: 100 * float(table.max(axis=0).sum()) for name, table in _joint(clips).items()}
    return best | {"additive": best["audio_video"]}


def _joint(clips: Clips) -> dict[str, Array]:
    """P(e, f), P(e, v) and P(e, f, v), emotions first."""
    emotions = corpora.find(clips.corpus).emotions
    codes = [take.emotion_index for take in takes(clips)]
    prior = np.bincount(codes, minlength=len(emotions)) / len(codes)
    face = _confusion(emotions, FACE_PARTNER, clips.face_reliability)
    voice = _confusion(emotions, VOICE_PARTNER, clips.voice_reliability)
    return {
        "video": np.einsum("e,ef->ef", prior, face),
        "audio": np.einsum("e,ev->ev", prior, voice),
        "audio_video": np.einsum("e,ef,ev->efv", prior, face, voice),
    }


@lru_cache(maxsize=4)
def _shown(clips: Clips) -> dict[Take, tuple[str, str]]:
    """The emotions that each take's face and voice show."""
    shown = {}
    for code, emotion in enumerate(corpora.find(clips.corpus).emotions, 1):
        for take, (u, v) in even_lots(clips, code, 2).items():
            face = emotion if u < clips.face_reliability else FACE_PARTNER[emotion]
            voice = emotion if v < clips.voice_reliability else VOICE_PARTNER[emotion]
            shown[take] = (face, voice)
    return shown


def _confusion(emotions: Sequence[str], partner: dict[str, str], reliability: float) -> Array:
    """P(shown | emotion), one row an emotion and one column all that is ever shown."""
    shown = list(dict.fromkeys([*emotions, *partner]))
    truth = np.eye(len(shown))
    rows = [shown.index(emotion) for emotion in emotions]
    others = [shown.index(partner[emotion]) for emotion in emotions]
    return reliability * truth[rows] + (1 - reliability) * truth[others]
