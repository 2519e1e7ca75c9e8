"""The self-attention encoder on audio tokens (section 2.3, eqs. 5-6; Vaswani et al. 2017)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    r"""Multi-head self-attention (eq. 5), causally masked as in the release:

    .. math:: \mathrm{softmax}(Q K^\top / \sqrt{d_k}) V

    Q, K and V are projections of the same tokens; a token sees itself and those before it.
    """

    def __init__(self, n_channels: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        if n_channels % n_heads:
            raise ValueError(f"{n_channels} channels cannot be split over {n_heads} heads")
        self.n_heads = n_heads
        self.in_proj = nn.Linear(n_channels, 3 * n_channels)
        self.out_proj = nn.Linear(n_channels, n_channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.in_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (clip, token, channel) to the same shape, and weights (clip, head, token, token).

        The weights are those before dropout: each row sums to one.
        """
        n_clips, n_tokens, n_channels = tokens.shape
        q, k, v = (
            self.in_proj(tokens)
            .view(n_clips, n_tokens, 3, self.n_heads, n_channels // self.n_heads)
            .permute(2, 0, 3, 1, 4)  # (q, k, v) clip head token channel
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(n_channels // self.n_heads)
        future = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
        heads = self.dropout(weights) @ v
        return self.out_proj(heads.transpose(1, 2).reshape(tokens.shape)), weights


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward of four times the width, each pre-norm and residual.

    The paper's eq. 6 normalises after the feed-forward; the release, whose 26.30 M parameters
    and log this follows, before each half, with one more layer norm after the last layer.
    """

    def __init__(self, n_channels: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_channels)
        self.attention = SelfAttention(n_channels, n_heads, dropout)
        self.feedforward_norm = nn.LayerNorm(n_channels)
        self.expand = nn.Linear(n_channels, 4 * n_channels)
        self.contract = nn.Linear(4 * n_channels, n_channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        attended, _ = self.attention(self.attention_norm(tokens))
        tokens = tokens + self.dropout(attended)
        hidden = self.dropout(F.relu(self.expand(self.feedforward_norm(tokens))))
        return tokens + self.dropout(self.contract(hidden))


class Encoder(nn.Module):
    """X_A (clip, channel, token) to as many encoded tokens (clip, token, channel).

    Input times sqrt(channels) plus sinusoidal positions, dropout 0.3, then the layers with
    dropout 0.1 (release).
    """

    def __init__(self, n_channels: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(n_channels, n_heads, dropout=0.1) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_channels)
        self.dropout = nn.Dropout(0.3)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.transpose(1, 2)
        n_tokens, n_channels = tokens.shape[1:]
        positions = sinusoidal_positions(n_tokens, n_channels, tokens.device).to(tokens)
        tokens = self.dropout(math.sqrt(n_channels) * tokens + positions)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)


def sinusoidal_positions(
    n_tokens: int, n_channels: int, device: torch.device | None = None
) -> Tensor:
    """Positions (token, channel), counted from 1 as the release does: sines, then cosines.

    Angular frequencies fall geometrically from 1 to 1/10000 over half the channels.
    """
    n_frequencies = n_channels // 2
    frequencies = 10_000.0 ** -torch.linspace(0, 1, n_frequencies, device=device)
    angles = torch.arange(1, n_tokens + 1, device=device)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
