"""Octree streams to leaves in four Triton launches, whatever the depth and the number of trees.

``sum_tiles`` and ``scan_tiles`` make the prefix sum of the tokens' children over the whole batch,
``place_children`` writes to every cell where its parent stands, and ``decode_leaves`` climbs from
each leaf to the root. The formulas are those of the reference. A broken stream is reported and
reads and writes no place outside the tensors: places that come from data are clamped.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bits_set(v):
    """Count the bits set in integers of 8 bits, by adding neighbors: a table would be a load."""
    v = v - ((v >> 1) & 0x55)
    v = (v & 0x33) + ((v >> 2) & 0x33)
    return (v + (v >> 4)) & 0x0F


@triton.jit
def tree_of(offsets, place, trees, steps):
    """Return the last tree that begins at or before each place: int32, of place's shape."""
    low = place * 0
    high = low + trees
    for _ in range(steps):
        middle = (low + high) // 2
        begun = tl.load(offsets + middle).to(tl.int32) <= place
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle)
    return low


@triton.jit
def tree_of_leaf(offsets, sums, leaf, trees, steps):
    """Return the last tree whose leaves begin at or before each leaf: int32, of leaf's shape."""
    low = leaf * 0
    high = low + trees
    for _ in range(steps):
        middle = (low + high) // 2
        leaves_before = tl.load(sums + middle) - tl.load(offsets + middle).to(tl.int32) + middle
        begun = leaves_before <= leaf
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle)
    return low


@triton.jit(do_not_specialize=["length", "trees"])
def sum_tiles(tiles, valid, tokens, length, trees, TILE: tl.constexpr):
    """Sum the children of each tile of tokens, and call every tree valid until shown otherwise."""
    lane = tl.program_id(0) * TILE + tl.arange(0, TILE)  # [TILE]
    token = tl.load(tokens + lane, mask=lane < length, other=0).to(tl.int32)
    tl.store(tiles + tl.program_id(0), tl.sum(bits_set(token), 0))
    tl.store(valid + lane, tl.full([TILE], 1, tl.int1), mask=lane < trees)


@triton.jit(do_not_specialize=["count"])
def scan_tiles(tiles, count, CHUNK: tl.constexpr):
    """Replace each tile's sum by the sum of those before it; one program."""
    total_before = tl.full([], 0, tl.int32)
    for start in range(0, count, CHUNK):
        lane = start + tl.arange(0, CHUNK)  # [CHUNK]
        value = tl.load(tiles + lane, mask=lane < count, other=0)
        tl.store(tiles + lane, total_before + tl.cumsum(value, 0) - value, mask=lane < count)
        total_before += tl.sum(value, 0)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=["length", "trees", "steps"])
def place_children(
    up, sums, valid, tiles, tokens, offsets, length, trees, steps, TILE: tl.constexpr
):
    """Write each cell's parent and octant, and the children before each tree."""
    begin = tl.program_id(0) * TILE
    lanes = tl.arange(0, TILE)
    place = begin + lanes  # [TILE]
    inside = place < length
    token = tl.load(tokens + place, mask=inside, other=0).to(tl.int32)
    children = bits_set(token)
    ends = tl.load(tiles + tl.program_id(0)) + tl.cumsum(children, 0)  # [TILE], inclusive
    children_before = ends - children

    tree = tree_of(offsets, tl.minimum(place, length - 1), trees, steps)
    root = tl.maximum(tl.load(offsets + tree).to(tl.int32), 0)
    end = tl.minimum(tl.load(offsets + tree + 1).to(tl.int32), length)
    is_root = inside & (place == root)
    tl.store(sums + tree, children_before, mask=is_root)
    tl.store(sums + tree + 1, ends, mask=inside & (place == length - 1))
    tl.store(valid + tree, tl.full([TILE], 0, tl.int1), mask=inside & (token == 0))

    # The children before the own tree: sums never fall, so it is the largest at a root so far; and
    # for a tree that began in an earlier tile, the sum up to that tile and what it had of others.
    first_root = tl.load(offsets + tree_of(offsets, begin, trees, steps)).to(tl.int32)
    first_root = tl.minimum(tl.maximum(first_root, 0), length - 1)
    other = first_root // TILE * TILE + lanes
    others = tl.load(tokens + other, mask=other < first_root, other=0).to(tl.int32)
    total_before = tl.load(tiles + first_root // TILE) + tl.sum(bits_set(others), 0)
    own = tl.associative_scan(tl.where(is_root, children_before, -1), 0, _larger)
    own = tl.where(own < 0, total_before, own)

    # Where the first child stands, kept from overflowing where a stream is broken.
    child = root + 1 + tl.minimum(tl.maximum(children_before - own, 0), length)  # [TILE]
    link = place << 3
    for octant in tl.static_range(8):
        occupied = ((token >> octant) & 1) != 0
        tl.store(up + child, link + octant, mask=inside & occupied & (child < end))
        child += occupied.to(tl.int32)


@triton.jit(do_not_specialize=["length", "trees", "leaves", "steps", "depth", "size"])
def decode_leaves(
    keys,
    tree_to,
    centers,
    half,
    valid,
    up,
    sums,
    tokens,
    offsets,
    lower,
    edge,
    length,
    trees,
    leaves,
    steps,
    depth,
    size,
    HAS_CUBE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Climb from each leaf to the root; ``size`` is a leaf's edge in the unit cube."""
    leaf = tl.program_id(0) * TILE + tl.arange(0, TILE)  # [TILE]
    inside = leaf < leaves
    no = tl.full([TILE], 0, tl.int1)

    tree = tree_of_leaf(offsets, sums, leaf, trees, steps)
    root = tl.load(offsets + tree).to(tl.int32)
    end = tl.load(offsets + tree + 1).to(tl.int32)
    until = tl.load(sums + tree + 1) - end + tree + 1  # leaves of this tree and those before
    place = tl.minimum(tl.maximum(end - until + leaf, 0), length - 1)
    token = tl.load(tokens + place, mask=inside, other=1)
    wrong = token != 1
    key = tl.zeros([TILE], tl.int64)
    x = tl.zeros([TILE], tl.int32)
    y = tl.zeros([TILE], tl.int32)
    z = tl.zeros([TILE], tl.int32)
    for level in range(depth):
        wrong |= place == root
        step = tl.load(up + place, mask=inside & (place != root), other=0)
        octant = step & 7
        key |= octant.to(tl.int64) << (3 * level)
        x |= (octant >> 2) << level
        y |= ((octant >> 1) & 1) << level
        z |= (octant & 1) << level
        place = tl.minimum(tl.maximum(step >> 3, 0), length - 1)
    wrong |= place != root
    tl.store(valid + tree, no, mask=inside & wrong)

    target = centers + leaf.to(tl.int64) * 3
    if HAS_CUBE:
        width = tl.load(edge + tree, mask=inside, other=0.0)
        corner = lower + tree * 3
        low_x = tl.load(corner, mask=inside, other=0.0)
        low_y = tl.load(corner + 1, mask=inside, other=0.0)
        low_z = tl.load(corner + 2, mask=inside, other=0.0)
    else:
        width = tl.full([TILE], 1.0, tl.float32)
        low_x = tl.full([TILE], -0.5, tl.float32)
        low_y = low_x
        low_z = low_x
    tl.store(target, low_x + width * ((x.to(tl.float32) + 0.5) * size), mask=inside)
    tl.store(target + 1, low_y + width * ((y.to(tl.float32) + 0.5) * size), mask=inside)
    tl.store(target + 2, low_z + width * ((z.to(tl.float32) + 0.5) * size), mask=inside)
    tl.store(keys + leaf, key, mask=inside)
    tl.store(tree_to + leaf, tree, mask=inside)

    # The same lanes look at the trees themselves: each must have leaves and inner cells, and all
    # their leaves must be as many as there is room for.
    number = leaf
    mine = number < trees
    from_place = tl.load(offsets + number, mask=mine, other=0).to(tl.int32)
    to_place = tl.load(offsets + number + 1, mask=mine, other=0).to(tl.int32)
    children = tl.load(sums + number + 1, mask=mine, other=0)
    children -= tl.load(sums + number, mask=mine, other=0)
    count = children - (to_place - from_place) + 1
    total = tl.load(sums + trees) - length + trees
    fits = (count > 0) & (count < to_place - from_place) & (total == leaves)
    tl.store(valid + number, no, mask=mine & (fits == 0))
    if HAS_CUBE:
        unit = tl.load(edge + number, mask=mine, other=0.0)
    else:
        unit = tl.full([TILE], 1.0, tl.float32)
    tl.store(half + number, 0.5 * size * unit, mask=mine)
