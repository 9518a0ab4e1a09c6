"""The octree transformer's parts: positions, what a token looks like, one block."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.segment_attention import Segments, segment_attention
from ..layers import Keyed
from .tokens import IDS, MASK, NEIGHBORHOOD, Layout

ROTARY_BASE = 100.0
FOURIER_OCTAVES = 6
PRESENT, UNKNOWN = 8, 9  # columns after a token's eight bits: there is one; it is [MASK]


def centers(layout: Layout, depth: int) -> Tensor:
    """Return the cells' centers in units of a leaf of depth ``depth``, float32 [N, 3].

    On this common grid a cell and its descendants are near one another, whatever their levels.
    """
    size = (1 << (depth - layout.level)).to(torch.float32)
    return (layout.cells.to(torch.float32) + 0.5) * size[:, None]


def rotary_table(position: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the factors of a 3D rotary embedding: float32 [N, 3] -> two of [N, 1, D].

    Each axis turns a third of the pairs (i, i + D/2) at falling frequencies (RoFormer, arXiv
    2104.09864, by axis); pairs that are left over do not turn. The first holds each column's
    cosine, the second the sine that its partner is multiplied by, negative in the first half.
    """
    pairs = head_dim // 2
    each = pairs // 3
    steps = torch.arange(each, dtype=torch.float32, device=position.device) / max(each, 1)
    angles = (position[:, :, None] * ROTARY_BASE**-steps).flatten(1)  # [N, 3 each]
    angles = F.pad(angles, (0, pairs - 3 * each))[:, None, :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of x [N, ..., D] by each token's angles.

    ``table`` is that of :func:`rotary_table`, with as many dimensions as x.
    """
    cos, sin = (part.to(x.dtype) for part in table)
    a, b = x.chunk(2, dim=-1)
    # Whole rows at a time, and in place: half the time of four products of half rows.
    return (x * cos).add_(torch.cat([b, a], dim=-1).mul_(sin))


def gelu_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return GELU, in its approximation by tanh, of a linear layer: x [N, in] -> [N, out].

    A CPU that multiplies bf16 in hardware has oneDNN compute both in one pass where nothing is
    recorded, as TorchInductor does: PyTorch's own tanh takes as long as the product.
    """
    weight, onednn = layer.weight, torch.ops.mkldnn
    if (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and all(hasattr(onednn, n) for n in ("_linear_pointwise", "_is_mkldnn_bf16_supported"))
        and onednn._is_mkldnn_bf16_supported()
    ):
        out: Tensor = onednn._linear_pointwise(x, weight, layer.bias, "gelu", [], "tanh")
        return out
    return F.gelu(layer(x), approximate="tanh")


class TokenEmbedding(nn.Module):
    """What a token is given at the start: its neighborhood's bits, its place, its condition.

    The cells of a level are known before their tokens, so each token sees which of its 27
    neighboring cells there are, and those neighbors' tokens where they are known: 27 times
    eight child bits, "is there" and "is [MASK]". Neighbors are of the same shape, level and
    stream only, so that nothing leaks from finer levels or from the clean stream.
    """

    bits: Tensor

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("bits", _bit_table(), persistent=False)
        # The name is a key of published weights.
        self.neighbourhood = nn.Linear(len(NEIGHBORHOOD) * 10, width)
        self.token = nn.Embedding(IDS, width)
        self.place = nn.Linear(6 * FOURIER_OCTAVES, width)

    def forward(self, layout: Layout, ids: Tensor) -> Tensor:
        """ids uint8 [N] in their layout -> [N, width]."""
        like, ids = self.place.weight.dtype, ids.to(torch.int64)
        padded_ids = F.pad(ids, (0, 1), value=IDS)  # beyond the last: absent
        neighbor_bits = F.embedding(padded_ids[layout.neighbors], self.bits).flatten(1)
        waves = layout.once(("waves", self.depth, like), lambda: self._waves(layout).to(like))
        place = self.place(waves) + self.neighbourhood(neighbor_bits.to(like))  # [N, 27 * 10]
        out: Tensor = place + self.token(ids)
        return out

    def _waves(self, layout: Layout) -> Tensor:
        """Return sines and cosines of the cells' centers, float32 [N, 6 octaves]."""
        unit = centers(layout, self.depth) / 2**self.depth - 0.5
        octaves = 2.0 ** torch.arange(FOURIER_OCTAVES, device=unit.device)
        angles = (unit[:, :, None] * octaves * torch.pi).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class LevelDropout(Keyed):
    """Dropout of channels by one keyed mask for all tokens of a (shape, level).

    A mask of its own for every token would cost more words than the layer costs arithmetic. That
    tokens share one is variational dropout (arXiv 1512.05287).
    """

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Drop channels of x [N, width] and rescale the rest; the identity outside training."""
        if not self.training or self.rate == 0.0:
            return x
        levels, width = layout.counts.shape[1], x.shape[1]
        if self.key is None:
            mask = torch.rand(layout.batch * levels, width, device=x.device) >= self.rate
        else:
            mask = self.kept(levels * width, x.device).view(-1, width)
        return x * mask[layout.row] / (1.0 - self.rate)


class Block(nn.Module):
    """Attention over segments and a feed-forward layer, each with norm and residual."""

    def __init__(self, width: int, heads: int, dropout: float, layer: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        # Numbered by stream and branch: the two streams of a step draw masks of their own.
        self.dropouts = nn.ModuleList(LevelDropout(dropout, 4 * layer + i) for i in range(4))

    def forward(
        self,
        h: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        context: tuple[Tensor, Tensor] | None,
        layout: Layout,
        stream: int = 0,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """h [N, width] -> the same, and its keys and values [N, H, D] for others to attend to.

        ``rotary`` is :func:`rotary_table`'s. ``context`` are keys and values of coarser
        levels; None where these are in ``h`` itself.
        """
        drop_1, drop_2 = self.dropouts[2 * stream], self.dropouts[2 * stream + 1]
        qkv = self.qkv(self.norm_1(h)).unflatten(-1, (3, self.heads, -1))
        q, k = rotate(qkv[:, :2], (rotary[0][:, None], rotary[1][:, None])).unbind(1)
        v = qkv[:, 2].contiguous()
        # Several clean levels at once are one another's context.
        attention_output = segment_attention(
            q, k, v, segments, *((k, v) if context is None else context)
        )
        h = h + drop_1(self.out(attention_output.flatten(1)), layout)
        up = gelu_linear(self.up, self.norm_2(h))
        h = h + drop_2(self.down(up), layout)
        return h, (k, v)


def _bit_table() -> Tensor:
    """Rows: what is seen of each id, and of no token at all, float32 [257, 10]."""
    # In NumPy: where a network is built without its memory, PyTorch's integer operations on no
    # data import TorchDynamo, which takes a second.
    table = np.zeros((IDS + 1, 10), np.float32)
    table[:IDS, :8] = (np.arange(IDS)[:, None] >> np.arange(8)) & 1
    table[:IDS, PRESENT] = 1.0
    table[MASK, UNKNOWN] = 1.0
    return torch.from_numpy(table)
