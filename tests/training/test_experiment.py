"""Tests of `cfnsr.training.experiment`; what a run makes of one is in test_train.py."""

from pathlib import Path

import pytest
import torch
from pooch import file_hash
from test_train import clips, settings  # noqa: F401  `clips` is a fixture

from cfnsr import InputError
from cfnsr.data import corpora
from cfnsr.models.base import Sizes
from cfnsr.models.registry import ROWS
from cfnsr.models.resnext import VideoOnly
from cfnsr.params import Hybrid, Model
from cfnsr.training.experiment import Experiment, start_from, starting_weights

SMALL = Sizes(Model(stem_channels=4, cardinality=2, n_blocks=(1, 1, 1, 1)))


def public(state, n_classes=400):
    """As the public 3D-ResNets are saved: in parallel, for other classes, with an optimiser."""
    state = {f"module.{key}": tensor for key, tensor in state.items()}
    state["module.fc.weight"] = torch.zeros(n_classes, state["module.fc.weight"].shape[1])
    state["module.fc.bias"] = torch.zeros(n_classes)
    return {"epoch": 200, "arch": "resnext-50", "state_dict": state, "optimizer": {}}


@pytest.fixture
def saved(tmp_path):
    """Weights that no seed here draws, with statistics of their own."""
    torch.manual_seed(99)
    video = VideoOnly(SMALL).video
    video.bn1.running_mean += 1
    video.bn1.num_batches_tracked += 7
    return video, tmp_path / "resnext.pth"


@pytest.mark.parametrize("counts_batches", [True, False])
def test_a_public_checkpoint_gives_all_but_its_classifier(saved, counts_batches):
    theirs, path = saved
    content = public(theirs.state_dict())
    if not counts_batches:
        content["state_dict"] = {
            key: tensor
            for key, tensor in content["state_dict"].items()
            if not key.endswith("num_batches_tracked")
        }
    torch.save(content, path)
    ours = VideoOnly(SMALL).video
    head = ours.fc.weight.clone()
    start_from(ours, "video", path)
    x = torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(ours.eval().features(x), theirs.eval().features(x))
    assert torch.equal(ours.fc.weight, head)
    assert ours.bn1.num_batches_tracked == (7 if counts_batches else 0)


def test_the_weights_of_a_run_bring_their_classifier_too(saved):
    theirs, path = saved
    weights = {f"video.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save(weights | {"audio.conv1.weight": torch.zeros(1)}, path)
    ours = VideoOnly(SMALL).video
    start_from(ours, "video", path)
    assert torch.equal(ours.fc.weight, theirs.fc.weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: {"state_dict": {}}, "expected a conv1.weight.*found none"),
        (lambda state: state | {"conv1.weight": state["conv1.weight"][:2]}, "found one of \\(2, 3"),
        (lambda state: state | {"layer1.1.conv1.weight": torch.zeros(3)}, "layer1.1.* too many"),
        (lambda state: state | {"conv1.weight": 3}, "expected a conv1.weight.*found none"),
        (lambda state: torch.zeros(3), "holds no weights"),
        (
            lambda state: {"state_dict": state, "options": Path()},
            "not safe to load; save its state",
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_one_line(saved, damage, message):
    theirs, path = saved
    torch.save(damage(theirs.state_dict()), path)
    ours = VideoOnly(SMALL).video
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    with pytest.raises(InputError, match=message):
        start_from(ours, "video", path)
    assert all(torch.equal(before[key], tensor) for key, tensor in ours.state_dict().items())


def test_a_file_that_torch_cannot_read_is_one_line(tmp_path):
    (tmp_path / "resnext.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="is no checkpoint"):
        start_from(VideoOnly(SMALL).video, "video", tmp_path / "resnext.pth")


def test_only_the_row_that_trains_the_video_encoder_starts_from_the_checkpoint(
    clips,  # noqa: F811
    tmp_path,
):
    path = tmp_path / "resnext.pth"
    path.write_bytes(b"weights")
    params = settings(pretrained=path)
    for row in ("video", "audio", "erann", "linear", "motion_voice"):
        found = starting_weights(row, 1, 1, params, tmp_path)
        assert found == ({"video": path} if row == "video" else {})
    for row, system in ROWS.items():
        told = Experiment(row, 1, 1, params, clips).describe()["pretrained_sha256"]
        starts = "frames" in system.inputs and system.group != "hybrid"
        assert told == (file_hash(path) if starts else None)


@pytest.mark.parametrize(
    ("row", "key", "module"),
    [("hybrid_video", "c3d", "video"), ("hybrid_audio", "alexnet", "audio")],
)
def test_a_network_of_the_hybrid_starts_from_its_own_checkpoint(clips, tmp_path, row, key, module):  # noqa: F811
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    source = settings().source.model_copy(update={"hybrid": Hybrid(**{key: path})})
    params = settings().model_copy(update={"synthetic": source})
    assert starting_weights(row, 1, 1, params, tmp_path) == {module: path}
    assert starting_weights("video", 1, 1, params, tmp_path) == {}
    told = Experiment(row, 1, 1, params, clips).describe()
    assert told["pretrained_sha256"] == file_hash(path)
    assert key not in told["model"]["hybrid"]


def test_every_row_is_given_arrays_of_the_shape_that_its_model_expects(clips):  # noqa: F811
    sizes = Sizes.of(settings().source, corpora.find())
    for row in ROWS.values():
        for name in row.inputs:
            if name != "frames" and row.group != "hybrid":
                assert getattr(clips, name).shape[1:] == sizes.shape(name)
