"""Tests of `cfnsr.figures.network` and of the figure that is drawn from it."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cfnsr.__main__ import main
from cfnsr.data import corpora
from cfnsr.figures import architecture, hybrid, network
from cfnsr.figures.style import save
from cfnsr.models.base import FULL_SIZE, Sizes
from cfnsr.models.registry import Row, find
from cfnsr.params import Hybrid, Model, Preprocess, SourceParams

SMALL = SourceParams(
    preprocess=Preprocess(n_frames=5, frame_size=48, n_mfcc=11),
    model=Model(
        stem_channels=4, cardinality=2, n_blocks=(1, 2, 1, 1), n_encoder_layers=1, n_heads=4
    ),
)
SMALL_HYBRID = SourceParams(
    hybrid=Hybrid(n_frames=8, frame_size=32, picture_size=115, width=0.0625, n_hidden=(32, 16))
)


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def words(built, title="T"):
    """All text of the figure, blanks as blanks."""
    axis = architecture.architecture(built, title).axes[0]
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in axis.texts]


def test_the_whole_has_the_registry_s_parameters_and_eight_logits():
    built = network.read(SourceParams())
    assert built[""].n_parameters == find("cfn_sr").n_parameters(FULL_SIZE)
    assert built[""].output_shape == (8,)


def test_shapes_at_full_size_are_the_paper_s():
    built = network.read(SourceParams())
    assert built["video.conv1"].input_shape == (3, 30, 224, 224)
    assert built["audio.conv1"].input_shape == (13, 212)
    assert built["video.layer4"].output_shape == (2048, 2, 7, 7)  # X_V
    assert built["audio.bn3"].output_shape == (64, 26)  # X_A
    assert built["attention"].output_shape == (2, 7, 7)
    assert built["head"].input_shape == (3712,)
    assert built["encoder"].words == "5 layers, 8 heads"


def test_shapes_are_those_of_a_real_pass():
    built = network.read(SMALL)
    model = find("cfn_sr").build(Sizes.of(SMALL, corpora.find())).eval()
    frames, sound = torch.zeros(2, 3, 5, 48, 48), torch.zeros(2, 11, 212)
    with torch.no_grad():
        x_v, x_a = model.video.features(frames), model.audio.features(sound)
        tokens = model.encoder(x_a)
        map_ = model.attention(x_v, tokens[:, -1])
    for name, tensor in (
        ("video.layer4", x_v),
        ("audio.bn3", x_a),
        ("encoder", tokens),
        ("attention", map_),
    ):
        assert built[name].output_shape == tensor.shape[1:], name


def test_reading_allocates_nothing():
    built = []
    build_row = Row.build

    def build(row, sizes):
        built.append(build_row(row, sizes))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Row, "build", build)
        network.read(SMALL)
    (model,) = built
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("source", [SMALL, SourceParams()], ids=["small", "full size"])
def test_the_boxes_of_the_figure_hold_every_parameter_once(source):
    built = network.read(source)
    axis = architecture.architecture(built, "T").axes[0]
    at_the_right = [text.get_text() for text in axis.texts if text.get_ha() == "right"]
    numbers = [int(text.replace(",", "")) for text in at_the_right if text[0].isdigit()]
    blocks = built["encoder"].n_parameters + built["attention"].n_parameters
    # The cross-modal blocks stand on the left as one box and on the right in their parts.
    assert sum(numbers) == built[""].n_parameters + blocks
    assert numbers.count(blocks) == 1
    parts = sum(built[name].n_parameters for name in architecture.PARTS)
    assert f"{parts:,} parameters" in words(built)
    assert parts == built[""].n_parameters


def test_the_figure_follows_the_network():
    one = words(network.read(SMALL))
    other = SMALL.model_copy(
        update={"model": SMALL.model.model_copy(update={"n_encoder_layers": 3, "n_heads": 2})}
    )
    two = words(network.read(other))
    assert "1 layer, 4 heads" in one
    assert "3 layers, 2 heads" in two
    assert "2 bottlenecks of 16 in 2 groups" in one


def test_the_hybrid_model_s_boxes_hold_every_parameter_of_its_parts_but_the_networks_own_votes():
    sizes = Sizes.of(SMALL_HYBRID, corpora.find())
    rows = {name: find(f"hybrid_{name}").build(sizes) for name in ("video", "audio", "dbn")}
    votes = (rows["video"].network.fc8, rows["audio"].network.classifier[-1])
    axis = hybrid.built(network.read_hybrid(SMALL_HYBRID), "T").axes[0]
    at_the_right = [text.get_text() for text in axis.texts if text.get_ha() == "right"]
    numbers = [int(text.replace(",", "")) for text in at_the_right]
    assert sum(numbers) == sum(map(n_parameters, rows.values())) - sum(map(n_parameters, votes))


def test_the_hybrid_model_s_shapes_at_full_size_are_those_of_c3d_and_alexnet():
    built = network.read_hybrid(SourceParams())
    assert built["video.conv1"].input_shape == (3, 16, 112, 112)
    assert built["video.fc6"].input_shape == (8192,)
    assert built["audio.features.0"].input_shape == (3, 227, 227)
    assert built["audio.classifier.1"].input_shape == (9216,)
    assert built["dbn.up.0"].input_shape == (8192,)
    assert built["linear"].output_shape == (8,)


def test_no_text_of_the_figures_leaves_them_or_runs_into_another():
    for figure in (
        architecture.architecture(network.read(SMALL), "T"),
        architecture.architecture(network.read(SourceParams()), "T"),
        hybrid.built(network.read_hybrid(SMALL_HYBRID), "T"),
        hybrid.built(network.read_hybrid(SourceParams()), "T"),
    ):
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = np.array(
            [text.get_window_extent(renderer).extents for text in figure.axes[0].texts]
        )
        width, height = figure.canvas.get_width_height()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        for i, one in enumerate(boxes):
            for two in boxes[i + 1 :]:
                apart = (one[:2] >= two[2:] - 1).any() or (two[:2] >= one[2:] - 1).any()
                assert apart, (one, two)


def test_titles_name_the_data_source_and_the_sizes():
    built = network.read(SMALL)
    title = architecture.title(built, "synthetic")
    assert "synthetic control" in title
    assert "5 frames of 48 \N{MULTIPLICATION SIGN} 48" in title
    assert "the paper's size" in architecture.title(built, None)


def test_equal_networks_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        built = network.read(SMALL)
        save(architecture.architecture(built, "T"), tmp_path / name)
    for suffix in ("svg", "png"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two


def test_the_command_draws_params_yaml_s_sizes_or_the_paper_s(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text(
        "synthetic: {clips: {}, preprocess: {n_frames: 7, frame_size: 32}, "
        "model: {stem_channels: 4, cardinality: 2, n_blocks: [1, 1, 1, 1]}}"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["architecture", "--output", "figures"]) == 0
    assert main(["architecture", "--output", "figures", "--full-size"]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {
        f"architecture{size}.{suffix}" for size in ("", "_full_size") for suffix in ("svg", "png")
    }
    assert "written: figures/architecture.svg" in capsys.readouterr().out
