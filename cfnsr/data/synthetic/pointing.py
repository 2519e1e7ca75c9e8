"""The control in which the voice says which part of the face tells the truth.

Brows and eyes show one emotion, the mouth another; one of the two parts, each as often as the
other, shows the clip's. The voice names that part. So neither the face nor the voice alone, nor
what they say added up, can settle the emotion: the one must be read in the light of the other.
In the mixture the voice also shows an emotion of its own, see `params.PointingClips`.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cfnsr.data import corpora
from cfnsr.data.corpora import Take
from cfnsr.data.synthetic.cues import PARTS, Cue, Part, even_lots, takes
from cfnsr.data.synthetic.faces import Array
from cfnsr.params import PointingClips


def cue(take: Take, clips: PointingClips) -> Cue:
    """What the take's clip shows, the same in every process."""
    return Cue.draw_lots(take, clips, *_shown(clips)[take])


def ceilings(clips: PointingClips) -> dict[str, float]:
    r"""The best possible accuracy in percent from `video`, `audio`, and both, `audio_video`.

    Of emotion e, true part t, upper and lower emotion u and l, named part n and the voice's own
    emotion v, the clip shows u, l, n and v, with

        P(e, t, u, l, n, v) = P(e) 1/2 P(shown | e) 1/(N - 1) P(n | t) P(v | e),

    where `shown` is u or l as t says and the other is any of the N - 1 others. No classifier beats
    100 sum max_e P(e, what it is given).

    `additive` are rules that decide for the largest f_e(u, l) + g_e(n, v), with any f and g. Take a
    face (u, l) = (a, b) for which two different emotions should be answered as the voice names
    the upper or the lower part. For that g_b - g_a must be larger with the lower part named; but
    for the mirrored face (b, a) it must be smaller, and since mirroring leaves all probabilities
    as they are, the two faces are worth the same. So a rule gains at most half of what knowing
    the part is worth: `additive` is halfway between not being told the part and being told.
    """
    n = len(corpora.find(clips.corpus).emotions)
    codes = [take.emotion_index for take in takes(clips)]
    prior = np.bincount(codes, minlength=n) / len(codes)
    shown = _reliable(clips.part_reliability, n)
    other = _reliable(0, n)
    upper = np.einsum("e,eu,ul->eul", prior, shown, other) / 2
    faces = np.stack([upper, upper.transpose(0, 2, 1)])  # (true part, e, u, l)
    named = _reliable(clips.pointer_reliability, 2)
    voice = _reliable(1 / n if clips.voice_reliability is None else clips.voice_reliability, n)
    joint = np.einsum("teul,tn,ev->eulnv", faces, named, voice)
    best = {
        "video": joint.sum(axis=(3, 4)),
        "audio": joint.sum(axis=(1, 2)),
        "additive": joint.sum(axis=3),
        "audio_video": joint,
    }
    pct = {name: 100 * float(table.max(axis=0).sum()) for name, table in best.items()}
    return pct | {"additive": (pct["additive"] + pct["audio_video"]) / 2}


@lru_cache(maxsize=4)
def _shown(clips: PointingClips) -> dict[Take, tuple[str, str, str | None, Part]]:
    """Upper, lower and the voice's emotion, and the part that is named."""
    emotions = corpora.find(clips.corpus).emotions
    found = {}
    for code, emotion in enumerate(emotions, 1):
        for take, (which, truth, other, named, own) in even_lots(clips, code, 5).items():
            shown = _drawn(emotion, emotions, truth, clips.part_reliability)
            decoy = _drawn(shown, emotions, other, 0)
            upper, lower = (shown, decoy) if which < 1 / 2 else (decoy, shown)
            right, wrong = PARTS if which < 1 / 2 else PARTS[::-1]
            reliability = clips.voice_reliability
            voice = None if reliability is None else _drawn(emotion, emotions, own, reliability)
            part = right if named < clips.pointer_reliability else wrong
            found[take] = (upper, lower, voice, part)
    return found


def _drawn(emotion: str, emotions: Sequence[str], lot: float, reliability: float) -> str:
    """The emotion with a probability, else any other."""
    if lot < reliability:
        return emotion
    others = [other for other in emotions if other != emotion]
    return others[int((lot - reliability) / (1 - reliability) * len(others))]


def _reliable(reliability: float, n_emotions: int) -> Array:
    """P(shown | emotion), one row an emotion."""
    rest = (1 - reliability) / (n_emotions - 1)
    return np.full((n_emotions, n_emotions), rest) + (reliability - rest) * np.eye(n_emotions)
