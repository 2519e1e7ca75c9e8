"""Which of the two designs some clips follow."""

from cfnsr.data.corpora import Take
from cfnsr.data.synthetic import control, pointing
from cfnsr.data.synthetic.cues import Cue
from cfnsr.params import Clips, DrawnClips, PointingClips


def cue(take: Take, clips: DrawnClips) -> Cue:
    """What the take's clip shows, the same in every process."""
    if isinstance(clips, PointingClips):
        return pointing.cue(take, clips)
    assert isinstance(clips, Clips)
    return control.cue(take, clips)


def ceilings(clips: DrawnClips) -> dict[str, float]:
    """The best possible accuracy in percent, by what a system is given and how it combines it."""
    if isinstance(clips, PointingClips):
        return pointing.ceilings(clips)
    assert isinstance(clips, Clips)
    return control.ceilings(clips)
