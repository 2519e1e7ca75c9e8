"""The 1D CNN on MFCCs, the audio encoder (section 2.1, eqs. 1-3)."""

from torch import Tensor, nn

from cfnsr.models.base import EmotionModel, Sizes

POOLING = 8


class MFCCNet(nn.Module):
    """MFCCs (clip, 13, 212) to X_A (clip, 64, 26): 64 channels, 26 moments of 93 ms.

    Kernel sizes, padding and dropout, which the paper leaves out, are the release's, and so are
    the parameter names.
    """

    def __init__(self, sizes: Sizes, head: bool = True) -> None:
        super().__init__()
        n_out = sizes.model.audio_channels
        n_inner = n_out // 2
        self.conv1 = nn.Conv1d(sizes.n_mfcc, n_inner, kernel_size=7, padding=2)
        self.bn1 = nn.BatchNorm1d(n_inner)
        self.conv2 = nn.Conv1d(n_inner, n_inner, kernel_size=7, padding=2)
        self.maxpool = nn.MaxPool1d(POOLING)
        self.bn2 = nn.BatchNorm1d(n_inner)
        self.dropout1 = nn.Dropout(0.2)
        self.conv3 = nn.Conv1d(n_inner, n_out, kernel_size=5, padding=2)
        self.bn3 = nn.BatchNorm1d(n_out)
        self.dropout2 = nn.Dropout(0.4)
        self.relu = nn.ReLU()

        self.n_middle_channels = n_inner
        self.n_channels = n_out
        self.n_tokens = (sizes.n_mfcc_frames - 4) // POOLING  # kernel 7 with padding 2, twice
        self.n_features = self.n_channels * self.n_tokens
        self.fc1 = nn.Linear(self.n_features, sizes.n_emotions) if head else None

    def middle(self, mfcc: Tensor) -> Tensor:
        """Up to the max-pool of eq. 2: (clip, n_middle_channels, n_tokens)."""
        x = self.bn1(self.relu(self.conv1(mfcc)))  # eq. 1
        return self.maxpool(self.relu(self.conv2(x)))

    def top(self, middle: Tensor) -> Tensor:
        """From the max-pool to X_A (eqs. 2-3, before flattening)."""
        x = self.dropout1(self.bn2(middle))
        return self.bn3(self.relu(self.conv3(x)))

    def features(self, mfcc: Tensor) -> Tensor:
        """X_A, (clip, n_channels, n_tokens)."""
        return self.top(self.middle(mfcc))

    def flatten(self, features: Tensor) -> Tensor:
        """X_A as one vector a clip, with the dropout that precedes every head."""
        return self.dropout2(features.flatten(start_dim=1))

    def classify(self, features: Tensor) -> Tensor:
        """Logits from X_A; needs `head=True`."""
        assert self.fc1 is not None, "built with head=False"
        return self.fc1(self.flatten(features))

    def forward(self, mfcc: Tensor) -> Tensor:
        return self.classify(self.features(mfcc))


class AudioOnly(EmotionModel):
    """Table 1, "1D CNN (Aud.)": the audio encoder with its own head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.audio = MFCCNet(sizes)

    def forward(self, mfcc: Tensor) -> Tensor:
        return self.audio(mfcc)
