"""Weights of the paper's release (github.com/skeletonNN/CFN-SR), read into this project's models.

The release writes three kinds of state dict, each with or without the `module.` of a parallel run:

* its `resnet50`, keys like `layer1.0.conv1.weight`, goes to `model.video`;
* its `MFCCNet`, keys like `conv3.weight`, goes to `model.audio`;
* its `MSAFNet`, keys like `video_model_blocks.0.3.0.conv1.weight`, `msaf.0.y_affine.weight` and
  `fc.weight`, is a whole `CFNSR`.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from cfnsr import InputError

_VIDEO_LAYERS = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
_AUDIO_LAYERS = {0: "conv1", 2: "bn1", 3: "conv2", 6: "bn2", 8: "conv3", 10: "bn3"}
_FUSED_PREFIXES = {
    **{f"video_model_blocks.0.{i}.": f"video.{name}." for i, name in enumerate(_VIDEO_LAYERS)},
    **{f"audio_model_blocks.0.{i}.": f"audio.{name}." for i, name in _AUDIO_LAYERS.items()},
    "msaf.0.channel_affine.": "attention.position_affine.",
    "msaf.0.y_affine.": "attention.summary_affine.",
    "msaf.0.attn_weight_affine.": "attention.score.",
    "msaf.0.audio_attention.layer_norm.": "encoder.norm.",
    "msaf.0.audio_attention.layers.": "encoder.layers.",
    "fc.": "head.",
}
_ENCODER_PARTS = {
    ".self_attn.in_proj_": ".attention.in_proj.",
    ".self_attn.": ".attention.",
    ".layer_norms.0.": ".attention_norm.",
    ".layer_norms.1.": ".feedforward_norm.",
    ".fc1.": ".expand.",
    ".fc2.": ".contract.",
}
_CONSTANTS = (".version", "._float_tensor")


def from_release(state_dict: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy a state dict of the release into `model`, or into the encoder that it belongs to.

    An encoder's head is left out where `model` has none. Nothing is copied on an error.
    `CFNSR(..., stem_relu=False, batch_summed_attention=True)` then computes what the release does.

    Raises:
        InputError: keys of none of the three kinds, or keys or shapes that `model` does not have.
    """
    state = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    if any(key.startswith("video_model_blocks.") for key in state):
        target: nn.Module | None = model
        state = {
            _ours(key): tensor for key, tensor in state.items() if not key.endswith(_CONSTANTS)
        }
    elif "layer1.0.conv1.weight" in state:
        target = getattr(model, "video", None)
    elif "conv3.weight" in state:
        target = getattr(model, "audio", None)
    else:
        raise InputError(
            "expected a state dict of the release's resnet50, MFCCNet or MSAFNet, found keys like "
            f"{', '.join(list(state)[:3]) or 'none'}; pass the dict of tensors itself"
        )
    name = type(model).__name__
    if target is None:
        raise InputError(f"{name} has no encoder that this state dict could go to")
    expected = target.state_dict()
    for head in ("fc.", "fc1."):
        if f"{head}weight" not in expected:
            state = {key: tensor for key, tensor in state.items() if not key.startswith(head)}
    wrong = sorted(expected.keys() ^ state.keys()) or [
        key for key in expected if expected[key].shape != state[key].shape
    ]
    if wrong:
        raise InputError(
            f"the state dict does not fit {name}: {len(wrong)} tensors are missing, too many or "
            f"of another shape, the first is {wrong[0]}; compare model: in params.yaml with the "
            "network that was saved"
        )
    target.load_state_dict(state)


def _ours(key: str) -> str:
    """The name here of a tensor of the release's MSAFNet."""
    for theirs, ours in _FUSED_PREFIXES.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
            break
    if key.startswith("encoder."):
        for theirs, ours in _ENCODER_PARTS.items():
            key = key.replace(theirs, ours)
    return key
