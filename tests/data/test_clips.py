import json
import math
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2

from cfnsr import InputError
from cfnsr.data.clips import (
    CROP_SCALE,
    N_AHEAD,
    Loader,
    Scaling,
    ahead,
    augmentation,
    crop_at_once,
    crop_one_by_one,
    load_clips,
    normalise,
)
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.data.motion import N_TRACKS

N_CLIPS, N_FRAMES, SIZE = 12, 4, 20
CPU = torch.device("cpu")


def write_arrays(folder, *, drawn=False, **changed):
    """What preprocessing leaves, of random clips; `changed` replaces settings."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    index = pd.DataFrame(
        {
            "clip": [f"0{1 + i % 8}-01-01-01-{1 + i // 3:02d}" for i in range(N_CLIPS)],
            "actor": [1 + i // 3 for i in range(N_CLIPS)],
            "emotion": [EMOTIONS[i % 8] for i in range(N_CLIPS)],
            "media_sha256": [f"{i:064x}" for i in range(N_CLIPS)],
        }
    )
    index.to_csv(folder / "index.csv", index=False)
    settings = {"source": "synthetic", "frame_size": SIZE} | changed
    (folder / "settings.json").write_text(json.dumps(settings))
    shape = (N_CLIPS, N_FRAMES, SIZE, SIZE, 1 if drawn else 3)
    np.save(folder / "frames.npy", rng.integers(0, 256, shape, np.uint8))
    scale = rng.uniform(1, 50, (13, 1))
    np.save(folder / "mfcc.npy", (scale * rng.normal(3, 1, (N_CLIPS, 13, 30))).astype(np.float32))
    np.save(folder / "log_mel.npy", rng.normal(-40, 9, (N_CLIPS, 16, 30)).astype(np.float16))
    np.save(folder / "landmark_statistics.npy", rng.normal(size=(N_CLIPS, 416)).astype(np.float32))
    np.save(folder / "motion.npy", rng.normal(size=(N_CLIPS, N_TRACKS, 53)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def clips(folder):
    return load_clips(folder)


def loader_of(clips, names=("frames", "mfcc"), per_frame=False, device=CPU):
    arrays = {name: getattr(clips, name) for name in names}
    return Loader(arrays, clips.emotion, augmentation(SIZE, per_frame), device)


@pytest.fixture(scope="module")
def loader(clips):
    return loader_of(clips)


def test_large_arrays_are_memory_mapped_and_labels_are_class_indices(clips):
    assert isinstance(clips.frames, np.memmap)
    assert isinstance(clips.log_mel, np.memmap)
    assert clips.frame_size == SIZE
    assert clips.emotion.dtype == np.int64
    assert clips.emotion.tolist() == [i % 8 for i in range(N_CLIPS)]


def test_the_clips_of_some_actors_are_found_in_index_order(clips):
    assert clips.of_actors([4, 2]).tolist() == [3, 4, 5, 9, 10, 11]
    assert len(clips.of_actors([24])) == 0


def test_nothing_preprocessed_is_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no preprocessed clips; run `dvc repro preprocess`"):
        load_clips(tmp_path)


def test_the_hash_changes_with_data_and_settings(tmp_path):
    def sha256(name, **changed):
        return load_clips(write_arrays(tmp_path / name, **changed)).sha256

    assert sha256("a") == sha256("b")
    hashes = [sha256("c"), sha256("d", drawing={"line_width_px": 2}), sha256("e", offset_s=0.4)]
    index = pd.read_csv(tmp_path / "a" / "index.csv", dtype=str)
    index.loc[3, "media_sha256"] = "f" * 64
    index.to_csv(tmp_path / "a" / "index.csv", index=False)
    hashes.append(load_clips(tmp_path / "a").sha256)
    assert len(set(hashes)) == 4


def test_scaling_is_scikit_learns_on_the_training_clips_alone(clips):
    training = clips.of_actors([1, 2, 3])
    scaling = Scaling.of(clips.mfcc[training])
    reference = StandardScaler().fit(clips.mfcc[training].swapaxes(1, 2).reshape(-1, 13))
    np.testing.assert_allclose(scaling.mean, reference.mean_, rtol=1e-6)
    np.testing.assert_allclose(scaling.sd, reference.scale_, rtol=1e-5)
    flat = clips.mfcc.swapaxes(1, 2).reshape(-1, 13)
    expected = reference.transform(flat).reshape(N_CLIPS, -1, 13).swapaxes(1, 2)
    found = scaling(clips.mfcc)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rms = np.sqrt(np.square(expected[training]).mean(axis=(1, 2)))
    assert scaling.typical == pytest.approx((rms.min(), rms.max()), rel=1e-4)
    assert Scaling.from_dict(scaling.as_dict()).typical == scaling.typical


def test_a_constant_coefficient_scales_to_zero_and_not_to_nan():
    sound = np.full((3, 2, 5), 7.0, np.float32)
    assert (Scaling.of(sound)(sound) == 0).all()


@given(st.integers(1, 100), st.integers(2, 40))
def test_batches_take_each_clip_once_in_order_and_none_is_alone(n_clips, batch_size):
    numbers = np.arange(n_clips, dtype=np.float32)[:, None, None]
    loader = Loader({"mfcc": numbers}, np.ones(n_clips, np.int64), augmentation(1), CPU)
    positions = np.random.default_rng(1).permutation(n_clips)
    batches = [inputs[0][:, 0, 0] for inputs, _ in loader.batches(positions, batch_size)]
    sizes = [len(batch) for batch in batches]
    assert torch.cat(batches).tolist() == positions.tolist()
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(batch_size, 3)
    assert min(sizes) >= min(n_clips, 2)
    if batch_size > 2:
        assert len(batches) == math.ceil(n_clips / batch_size)


def test_a_batch_has_the_chosen_clips_pictures_sound_and_emotions(clips, loader):
    ((inputs, emotion),) = loader.batches(np.array([7, 2, 9]), 16)
    assert inputs[0].shape == (3, 3, N_FRAMES, SIZE, SIZE)
    assert emotion.tolist() == [7, 2, 1]
    np.testing.assert_array_equal(inputs[1].numpy(), clips.mfcc[[7, 2, 9]])
    pictures = torch.from_numpy(clips.frames[[7, 2, 9]]).permute(0, 1, 4, 2, 3)
    to_float = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    for found, picture in zip(inputs[0], pictures, strict=True):
        torch.testing.assert_close(found.transpose(0, 1), to_float(picture), atol=1e-6, rtol=1e-6)


def test_drawn_strokes_are_normalised_as_grey_pictures():
    strokes = torch.randint(0, 256, (2, 3, 1, 8, 8), dtype=torch.uint8)
    found = normalise(strokes)
    assert found.shape == (2, 1, 3, 8, 8)
    torch.testing.assert_close(found[:, 0], (strokes[:, :, 0] / 255 - 0.449) / 0.226)


def test_a_batch_holds_what_was_asked_for_in_that_order(clips):
    ((inputs, emotion),) = loader_of(clips, ("mfcc", "landmark_statistics")).batches(
        np.arange(4), 16
    )
    assert [tuple(array.shape) for array in inputs] == [(4, 13, 30), (4, 416)]
    ((inputs, emotion),) = loader_of(clips, ("mfcc", "frames")).batches(np.arange(4), 16)
    assert inputs[1].shape == (4, 3, N_FRAMES, SIZE, SIZE)
    assert len(emotion) == 4


def test_batches_that_are_not_augmented_are_the_same_every_time(loader):
    first, second = (list(loader.batches(np.arange(N_CLIPS), 5)) for _ in range(2))
    for (one, _), (other, _) in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_augmented_batches_follow_the_seed_and_change_the_pictures_alone(loader):
    def augmented(seed):
        torch.manual_seed(seed)
        ((inputs, _),) = loader.batches(np.arange(4), 16, augmented=True)
        return inputs

    assert torch.equal(augmented(1)[0], augmented(1)[0])
    assert not torch.equal(augmented(1)[0], augmented(2)[0])
    ((plain, _),) = loader.batches(np.arange(4), 16)
    assert augmented(1)[0].shape == plain[0].shape
    assert torch.equal(augmented(1)[1], plain[1])


def test_batches_keep_the_channels_last_in_memory_as_they_lie_on_disk(loader, tmp_path):
    drawn = load_clips(write_arrays(tmp_path, drawn=True))
    strokes = loader_of(drawn)
    for augmented in (False, True):
        for chosen, n_channels in ((loader, 3), (strokes, 1)):
            ((inputs, _),) = chosen.batches(np.arange(4), 16, augmented)
            assert inputs[0].shape == (4, n_channels, N_FRAMES, SIZE, SIZE)
            assert inputs[0].is_contiguous(memory_format=torch.channels_last_3d)


def test_gathering_ahead_gives_what_gathering_does_in_order_and_draws_nothing(loader):
    parts = np.array_split(np.random.default_rng(1).permutation(N_CLIPS), 5)
    state = torch.get_rng_state()
    found = list(ahead(loader.gather, parts))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found) == 5
    for batch, part in zip(found, parts, strict=True):
        for one, other in zip(batch, loader.gather(part), strict=True):
            assert torch.equal(one, other)
    np.testing.assert_array_equal(found[0][0], loader.arrays["frames"][parts[0]])


def test_gathering_ahead_is_a_thread_a_few_batches_ahead_whose_errors_arrive():
    done = []

    def gather(part):
        done.append(threading.current_thread())
        if part[0] == 7:
            raise OSError("the disk is gone")
        return part

    parts = [np.array([i]) for i in range(20)]
    batches = ahead(gather, parts)
    assert next(batches) == 0
    assert len(done) <= N_AHEAD + 1
    assert threading.current_thread() not in done
    batches.close()
    assert len(done) == N_AHEAD + 1
    with pytest.raises(OSError, match="the disk is gone"):
        list(ahead(gather, parts))


def random_pictures(n_clips, n_frames, size):
    torch.manual_seed(1)
    pictures = torch.randint(0, 256, (n_clips, n_frames, size, size, 3), dtype=torch.uint8)
    return pictures.movedim(-1, 2)


@pytest.mark.parametrize("per_frame", [False, True])
def test_augmentation_is_torchvisions_under_the_same_seed(per_frame):
    pictures = random_pictures(4, 5, 40)
    plain = v2.Compose(
        [
            v2.RandomResizedCrop((40, 40), scale=CROP_SCALE, antialias=False),
            v2.RandomHorizontalFlip(),
        ]
    )
    torch.manual_seed(2)
    if per_frame:
        expected = torch.stack([torch.stack([plain(one) for one in clip]) for clip in pictures])
    else:
        expected = torch.stack([plain(clip) for clip in pictures])
    torch.manual_seed(2)
    assert torch.equal(augmentation(40, per_frame)(pictures), expected)


@pytest.mark.parametrize("size", [40, 224])
@pytest.mark.parametrize("n_draws", [1, 5])
def test_cropping_all_clips_at_once_is_cropping_one_by_one_but_for_rounding(size, n_draws):
    n_clips = 3
    pictures = random_pictures(n_clips, 5, size)
    rng = np.random.default_rng(1)
    extent = rng.integers(size // 2, size + 1, (n_clips, n_draws, 2))
    corner = rng.integers(0, size - extent + 1)
    flipped = rng.integers(0, 2, (n_clips, n_draws, 1))
    draws = torch.from_numpy(np.concatenate([corner, extent, flipped], axis=-1))
    draws[0, 0] = torch.tensor([0, 0, size, size, 1])  # the whole picture
    one_by_one = crop_one_by_one(pictures, draws)
    at_once = crop_at_once(pictures, draws)
    assert torch.equal(at_once[0, 0].round().to(torch.uint8), pictures[0, 0].flip(-1))
    assert (at_once - one_by_one.float()).abs().max() <= 1.01
    assert (at_once - one_by_one.float()).abs().mean() < 0.3
    for clip in range(n_clips):
        for frame in range(5):
            *box, flip = draws[clip, frame % n_draws].tolist()
            cut = v2.functional.crop(pictures[clip, frame], *box).float()
            expected = v2.functional.resize(cut, [size, size], antialias=False)
            expected = expected.flip(-1) if flip else expected
            torch.testing.assert_close(at_once[clip, frame], expected, atol=2e-2, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("per_frame", [False, True])
def test_a_gpu_gets_the_batches_of_a_processor(clips, per_frame):
    def batches(device):
        torch.manual_seed(1)
        loader = loader_of(clips, per_frame=per_frame, device=device)
        return list(loader.batches(np.arange(N_CLIPS), 3, augmented=True))

    for (ours, emotion), (plain, expected) in zip(
        batches(torch.device("cuda", 0)), batches(CPU), strict=True
    ):
        assert ours[0].is_cuda
        torch.testing.assert_close(ours[0].cpu(), plain[0], atol=1.01 / 255 / 0.22, rtol=0)
        assert torch.equal(ours[1].cpu(), plain[1])
        assert torch.equal(emotion.cpu(), expected)


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_clips_frames_share_one_crop_and_flip_unless_drawn_anew(per_frame):
    torch.manual_seed(1)
    picture = torch.randint(0, 256, (1, 1, 3, SIZE, SIZE), dtype=torch.uint8)
    still = picture.expand(1, 16, -1, -1, -1).contiguous()
    found = augmentation(SIZE, per_frame)(still)
    assert found.shape == still.shape
    assert found.dtype == torch.uint8
    n_different = len({frame.numpy().tobytes() for frame in found[0]})
    assert n_different > 8 if per_frame else n_different == 1


def test_flips_are_level_and_crops_keep_at_least_four_fifths():
    torch.manual_seed(1)
    rows, columns = torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij")
    ramps = torch.stack([rows, columns]).to(torch.uint8).expand(200, 1, -1, -1, -1)
    kept, flipped = [], []
    for clip in augmentation(100)(ramps.contiguous()):
        found = clip[0].int()
        down, across = found[:, -1, -1] - found[:, 0, 0]
        assert down > 0
        flipped.append(bool(across < 0))
        kept.append(float(down * across.abs()) / 99**2)
    assert 70 < sum(flipped) < 130
    assert min(kept) > 0.75
    assert max(kept) <= 1
