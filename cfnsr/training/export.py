"""A trained network as an ONNX file: `python -m cfnsr export --run FOLDER model.onnx`.

Its inputs are the arrays that preprocessing leaves (`cfnsr.data.preprocess`), unscaled. How they
are made, and in which order the emotions come, is in the file's metadata, as JSON.
"""

import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from cfnsr import InputError
from cfnsr.data.clips import colour_statistics
from cfnsr.data.files import writing
from cfnsr.models.base import Sizes
from cfnsr.params import SourceParams, n_channels
from cfnsr.training.trained import Trained

#: Taken over from run.json.
INFO = ("row", "data", "protocol", "fold", "seed", "actors", "preprocess", "scaling", "versions")


class FromArrays(nn.Module):
    """A network and what comes before it: frames are normalised, all else is scaled."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model
        self.inputs = trained.row.inputs
        mean, sd = colour_statistics(n_channels(trained.info["data"]))
        self.register_buffer("frames_mean", mean)
        self.register_buffer("frames_sd", sd)
        for name, scaling in trained.scaling.items():
            self.register_buffer(f"{name}_mean", torch.from_numpy(scaling.mean))
            self.register_buffer(f"{name}_sd", torch.from_numpy(scaling.sd))

    def forward(self, *arrays: Tensor) -> Tensor:
        """Arrays of the row's inputs, (clip, ...), to logits (clip, emotion)."""
        scaled = map(self.scaled, self.inputs, arrays)
        return self.model(*scaled)

    def scaled(self, name: str, array: Tensor) -> Tensor:
        """As `cfnsr.data.clips.normalise` and `Scaling` do."""
        mean, sd = getattr(self, f"{name}_mean"), getattr(self, f"{name}_sd")
        if name == "frames":  # clip frame S S channel
            return ((array / 255 - mean) / sd).movedim(-1, 1)
        trailing = (1,) * (array.ndim - 2)
        return ((array - mean.view(-1, *trailing)) / sd.view(-1, *trailing)).float()


def export(trained: Trained, path: Path) -> None:
    """Write a network as ONNX, for any number of clips.

    Args:
        trained: on the processor.

    Raises:
        InputError: packages are missing, the row cannot be translated, or the disk is full or
            read-only.
    """
    try:
        import onnxscript  # noqa: F401  of torch's exporter
    except ImportError:
        raise InputError("export needs more packages: pip install cfnsr[onnx]") from None
    settings, examples = trained.preprocess, []
    sizes = Sizes.of(SourceParams(preprocess=settings), trained.corpus)
    pictures = (settings.n_frames, settings.frame_size, settings.frame_size)
    for name in trained.row.inputs:
        if name == "frames":
            shape = (2, *pictures, n_channels(trained.info["data"]))
            examples.append(torch.zeros(shape, dtype=torch.uint8))
        else:
            examples.append(torch.zeros(2, *sizes.shape(name)))
    clip = torch.export.Dim("clip")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        try:
            program = torch.onnx.export(
                FromArrays(trained).eval(),
                tuple(examples),
                input_names=list(trained.row.inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple({0: clip} for _ in examples),),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"{trained.row.label} cannot be written as ONNX; export another row"
            ) from error
    assert program is not None
    about = {"emotions": trained.corpus.emotions} | {name: trained.info[name] for name in INFO}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path, external_data=False)
