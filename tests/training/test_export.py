"""Tests of `cfnsr.training.export`: an independent runtime gives torch's logits."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from cfnsr import InputError
from cfnsr.__main__ import main
from cfnsr.data import corpora
from cfnsr.data.clips import Scaling
from cfnsr.data.corpora.ravdess import EMOTIONS
from cfnsr.models.base import Sizes
from cfnsr.models.registry import find
from cfnsr.params import Model, Preprocess, SyntheticParams
from cfnsr.training import export
from cfnsr.training.trained import Trained

# Not imported here: each process of the tests would load them, and one runs this file.
pytestmark = pytest.mark.skipif(
    not (find_spec("onnxruntime") and find_spec("onnxscript")),
    reason="the extra onnx is not installed",
)

SOURCE = SyntheticParams(
    model=Model(stem_channels=4, cardinality=2, n_blocks=(1, 1, 1, 1), n_encoder_layers=1),
    preprocess=Preprocess(n_frames=5, frame_size=32),
)
SIZES = Sizes.of(SOURCE, corpora.find())
ROWS = ("cfn_sr", "motion_voice")
OTHERS = (
    "linear",
    "erann",
    "video",
    "audio",
    "averaging",
    "multiplicative",
    "multiplication",
    "concat_fc",
    "mmtm",
    "msaf",
    "video_to_audio",
    "no_self_attention",
    "motion_voice_averaged",
)


def untrained(row, n_channels=3):
    """A network with weights from a seed, and three clips' arrays."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    arrays = {
        name: rng.integers(0, 256, (3, 5, 32, 32, n_channels), dtype=np.uint8)
        if name == "frames"
        else rng.normal(10, 5, (3, *SIZES.shape(name))).astype(np.float32)
        for name in find(row).inputs
    }
    scaling = {name: Scaling.of(array) for name, array in arrays.items() if name != "frames"}
    info = {name: f"the {name}" for name in export.INFO}
    info["data"] = "synthetic" if n_channels == 3 else "ravdess_landmarks"
    model = find(row).build(SIZES).eval()
    return Trained(model, find(row), info, SOURCE.preprocess, scaling, 32), arrays


def assert_equal_logits(trained, arrays, path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == list(trained.row.inputs)
    for n_clips in (1, 3):
        some = {name: array[:n_clips] for name, array in arrays.items()}
        (logits,) = session.run(["logits"], some)
        np.testing.assert_allclose(logits, trained.logits(some), atol=1e-4)
    return session


@pytest.mark.parametrize(
    "row", [*ROWS, *(pytest.param(row, marks=pytest.mark.slow) for row in OTHERS)]
)
def test_a_file_gives_the_logits_of_its_network_for_any_number_of_clips(row, tmp_path):
    trained, arrays = untrained(row)
    export.export(trained, tmp_path / "below" / "model.onnx")
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["model.onnx"]
    session = assert_equal_logits(trained, arrays, tmp_path / "below" / "model.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in about.items()} == {
        "emotions": list(EMOTIONS),
        **trained.info,
    }


@pytest.mark.slow
def test_a_network_of_drawn_faces_takes_frames_of_one_channel(tmp_path):
    trained, arrays = untrained("cfn_sr", n_channels=1)
    export.export(trained, tmp_path / "model.onnx")
    assert_equal_logits(trained, arrays, tmp_path / "model.onnx")


def test_a_row_that_cannot_be_translated_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^MCBP cannot be written as ONNX; export another row$"):
        export.export(untrained("mcbp")[0], tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_command_says_what_it_lacks(tmp_path, capsys):
    assert main(["export", "--run", str(tmp_path), str(tmp_path / "model.onnx")]) == 1
    assert "holds no run.json" in capsys.readouterr().err
