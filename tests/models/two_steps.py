"""Two training steps of each row at the control's size, on random clips; prints a sha256 per row.

    python tests/models/two_steps.py [ROW ...]

Which kernels compute is chosen by the environment that it is started with.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cfnsr import params
from cfnsr.data import corpora
from cfnsr.data.clips import Clips, Loader, Scaling, augmentation
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.models.base import Sizes
from cfnsr.models.registry import ROWS
from cfnsr.params import SourceParams
from cfnsr.training.experiment import changed_by

BATCH_SIZE = 8
N_CLIPS = 2 * BATCH_SIZE
#: A row for each network, of those that are trained; only one row without epochs is fitted.
TRAINED = list(
    {
        (row.model, str(row.options)): name
        for name, row in reversed(ROWS.items())
        if row.schedule != "none" or name == "linear"
    }.values()
)[::-1]


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    source = params.load(Path(__file__).parents[2] / "params.yaml").synthetic
    for name in sys.argv[1:] or TRAINED:
        asked = changed_by(ROWS[name], source)
        per_clip = (
            Sizes.of(source, corpora.find()).n_segments if ROWS[name].group == "hybrid" else 1
        )
        clips = random_clips(asked, per_clip * asked.preprocess.n_frames)
        print(name, sha256(train(name, source, clips)), flush=True)


def random_clips(source: SourceParams, n_frames: int) -> Clips:
    """Uniform numbers, because drawing those takes no function of a mathematical library."""
    rng = np.random.Generator(np.random.PCG64(0))
    size, sizes = source.preprocess.frame_size, Sizes.of(source, corpora.find())
    index = pd.DataFrame(
        {
            "emotion": [EMOTIONS[i % len(EMOTIONS)] for i in range(N_CLIPS)],
            "actor": [1 + i // 4 for i in range(N_CLIPS)],
        }
    )

    def uniform(*shape: int) -> np.ndarray:
        return rng.random((N_CLIPS, *shape), np.float32) - 0.5

    return Clips(
        index,
        rng.integers(0, 256, (N_CLIPS, n_frames, size, size, 3), dtype=np.uint8),
        mfcc=uniform(*sizes.shape("mfcc")),
        log_mel=uniform(*sizes.shape("log_mel")).astype(np.float16),
        landmark_statistics=uniform(*sizes.shape("landmark_statistics")),
        motion=uniform(*sizes.shape("motion")),
        sha256="",
        segment_mel=uniform(*sizes.shape("segment_mel")).astype(np.float16),
    )


def train(name: str, source: SourceParams, clips: Clips) -> dict[str, torch.Tensor]:
    """The weights after an epoch of two batches, and the logits that they give."""
    torch.manual_seed(1)
    model = ROWS[name].build(Sizes.of(source, corpora.find()))
    arrays = {
        array: given if array == "frames" else Scaling.of(given)(given)
        for array in ROWS[name].inputs
        for given in [getattr(clips, array)]
    }
    augment = augmentation(clips.frame_size)
    loader = Loader(arrays, clips.emotion, augment, torch.device("cpu"))
    everyone = np.arange(N_CLIPS)
    if ROWS[name].schedule == "none":
        model.fit(clips.emotion, clips.index["actor"].to_numpy(), *arrays.values())
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for inputs, emotion in loader.batches(everyone, BATCH_SIZE, augmented=True):
            loss, _ = model.loss(emotion, *inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = [model(*inputs) for inputs, _ in loader.batches(everyone, N_CLIPS)]
    return {**model.state_dict(), "logits": torch.cat(logits)}


def sha256(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
