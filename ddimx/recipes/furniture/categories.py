"""Which category a piece of furniture belongs to, and which pieces are variants of one another.

Sweet Home 3D's own categories are rooms. Here the English name decides, by the first rule that
fits; ``OVERRIDES`` names the items whose name misleads. An item without a category (clothes, tools,
plugs, food) is left out, as are flat ones: rugs, doors and windows, which are all one panel.

From the third recipe on what decides is what a person sees in 32 cells a side: ``BY_SIGHT`` has the
items that look like another category than their names say, ``LEFT_OUT`` those that show nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from ...octree.geometry import iou
from ...octree.tree import Octree
from .sweethome import Item

# 1 cut polygons wrongly that are not convex; 2 goes by names alone, and without variants.
RECIPE = 3
ALIKE, ALIKE_DEPTH = 0.6, 5  # intersection over union at this depth from which two are variants
FLAT = 0.03  # the least side, as a share of the longest: a cell or two at depth 6

CATEGORIES = (
    *("chair", "table", "sofa", "bed", "bench", "cabinet", "lamp", "bath", "appliance"),
    *("plant", "vessel", "vehicle", "person"),
)

# The first pattern found in the name decides. "" means no category.
_RULES: tuple[tuple[str, str], ...] = (
    (
        "",
        r"fan$|bat$|remote|keyboard|camera|tablet|phone|\bhouse|model|knife|ottoman|puff|wheelchair",
    ),
    ("", r"candle|flashlight|fluorescent|clock|joystick|scale$|intercom|elevator$|abdominal"),
    ("bath", r"bath$|bathtub|toilets unit|urinal|bidet|washbasin|lavatory|vanity|basin$|jacuzzi"),
    ("bath", r"shower stall"),
    ("cabinet", r"bedside|changing table|dressing table|wardrobe|cupboard|cabinet|drawers|chest$"),
    ("cabinet", r"bookcase|shelves|island|tv stand|locker|^safe$|trunck|living room|^sink$"),
    ("bench", r"bench$|bank$|beach chair|deck chair|lounge|relax chair|hammock"),
    ("bed", r"\bbed$|crib|futon$|opened convertible"),
    ("sofa", r"sofa|couch"),
    ("chair", r"chair|stool|class seat"),
    ("table", r"\btable\b|desk$|workbench"),
    ("", r"\bwindow\b|\bdoor\b"),
    ("person", r"male$|boy$|girl$"),
    (
        "vehicle",
        r"\bbus$|chevrolet|sedan|ford focus|peugeot|renault|^suv$|seat leon|smart car|beetle",
    ),
    ("vehicle", r"truck|^van$|^scooter|bicycle|^bike$|tricycle|yamaha|fork lift|rowboat"),
    ("vessel", r"\b(bottle|glass|cup|mug|bowl|jar|pottery|vase|pot|flacon|creamer|sugar|kettle)$"),
    ("vessel", r"^boiler|coffee press|teapot|large pan|barrel|dustbin|trash ?can"),
    ("appliance", r"^apple im|^speaker|stereo|printer|^radio$"),
    ("plant", r"plant$|tree$|cactus|yucca|bamboo|tulips|orchids|lily$|spathiphyllum|flowers"),
)
_BY_ROOM = {"Lights": "lamp"}
_BY_TAG = {"Tree": "plant", "Plant": "plant", "Flowers": "plant", "Appliance": "appliance"}

OVERRIDES = {
    "blend-swap-cc-by-workbench": "table",
    "scopia-ext-chair": "sofa",  # two seats wide
    "scopia-box-room": "cabinet",
    "scopia-office-box": "cabinet",
}

# From here on as seen in octrees of depth 5.
BY_SIGHT = {
    # Loungers and deck chairs, with a back to lean against and no place for two.
    "blend-swap-cc-0-relaxchair": "chair",
    "blend-swap-cc-0-deckchair": "chair",
    "blend-swap-cc-by-chair-deck": "chair",
    "blend-swap-cc-by-poollounge": "chair",
    "scopia-beach-chair": "chair",
    "kator-legaz-chair-ottoman": "chair",
    "blend-swap-cc-by-wheelchair": "chair",
    "blend-swap-cc-by-carrito-de-madera": "vehicle",  # a toy car
    "blend-swap-cc-by-toytrain": "vehicle",
    "kator-legaz-ashtray": "vessel",
    "kator-legaz-recycling-bin": "vessel",
    "scopia-com-bath2-soap": "vessel",  # a bottle
    "scopia-apples": "vessel",  # in a bowl
    "scopia-bowlwithfruits": "vessel",
    "scopia-bowlwithsalad": "vessel",
    "scopia-clothes-basket": "vessel",
    "scopia-shopping-basket": "vessel",
    "blend-swap-cc-by-saltshaker": "vessel",
}
LEFT_OUT = {
    "several pieces": ("scopia-apple-pc", "scopia-mini-stereo"),
    "a plain box, cylinder or plate": (
        *("blend-swap-cc-0-japaneselantern", "scopia-ceiling-lamp", "scopia-rattantable"),
        *("blend-swap-cc-0-tablewithtablecloth", "blend-swap-cc-0-showerstall", "scopia-jacuzzi"),
        *("blend-swap-cc-0-speaker2", "blend-swap-cc-0-speaker3", "scopia-dvd"),
        *("scopia-stereo-amplifier", "scopia-video-projector", "scopia-playstation4"),
        *("scopia-kitchenhood", "scopia-internal-unity-air-conditioning"),
        *("scopia-external-unity-air-conditioning", "scopia-electric-water-heater"),
        *("scopia-electric-water-heater-big", "scopia-gaz-water-heater"),
        *("blend-swap-cc-0-cosmeticspot", "scopia-hedgetextured", "kator-legaz-apple-imac-1998"),
    ),
    "not to be recognized": (
        *("blend-swap-cc-0-walllight", "kator-legaz-track-lights", "scopia-saloon-lamp"),
        *("kator-legaz-wall-lamp-artwork", "kator-legaz-wall-spotlight", "scopia-small-urinal"),
        *("blend-swap-cc-0-mano-cooktop", "blend-swap-cc-0-stove", "scopia-hammock"),
        *("scopia-sandwichmaker", "scopia-stonegrilldevice", "scopia-futon", "scopia-vase5"),
        *("blend-swap-cc-by-utensilspot", "blend-swap-cc-0-islandextension"),
        *("blend-swap-cc-0-flacon", "blend-swap-cc-0-outdoorlamp", "blend-swap-cc-0-augalas"),
        "scopia-ext-chair",
    ),
}
_NOT_SEEN = frozenset(name for names in LEFT_OUT.values() for name in names)


def category_of(item: Item, recipe: int = RECIPE) -> str | None:
    """Return an item's category, one of ``CATEGORIES``, or None if it has none or is flat.

    Args:
        recipe: 1 and 2 go by the names alone.
    """
    if min(item.size) < FLAT * max(item.size):
        return None
    if recipe > 2 and item.shape_id in _NOT_SEEN:
        return None
    if recipe > 2 and item.shape_id in BY_SIGHT:
        return BY_SIGHT[item.shape_id]
    if item.shape_id in OVERRIDES:
        return OVERRIDES[item.shape_id]
    name = item.name.lower()
    for category, pattern in _RULES:
        if re.search(pattern, name):
            return category or None
    by_tag = next((_BY_TAG[tag] for tag in item.tags if tag in _BY_TAG), None)
    return _BY_ROOM.get(item.room, by_tag)


def families(
    items: Sequence[Item], categories: Sequence[str], trees: Sequence[Octree]
) -> list[int]:
    """Return a number for each item that variants of one design share.

    Two items of one category are variants if they come from one published work, if they are of one
    library and differ in their names by what follows the first digit ("concept-sedan-01v1",
    "concept-sedan-02"), or if they occupy nearly the same cells (see ``ALIKE``).
    """
    parent = list(range(len(items)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)

    family_by_name: dict[tuple[str, ...], int] = {}
    cells: dict[str, list[tuple[int, Octree]]] = {}
    for i, (item, category, tree) in enumerate(zip(items, categories, trees, strict=True)):
        library, _, name = item.key.partition("#")
        stem = re.split(r"[\W_]*\d", name.lower())[0] or name
        join(i, family_by_name.setdefault((category, "named", library, stem), i))
        if item.credit.url:
            join(i, family_by_name.setdefault((category, "work", item.credit.url), i))
        own = tree.coarser(min(tree.depth, ALIKE_DEPTH))
        others = cells.setdefault(category, [])
        for j, other in others:
            if iou(own, other) >= ALIKE:
                join(i, j)
        others.append((i, own))
    return [root(i) for i in range(len(items))]


def split_families(names: Sequence[str], groups: Sequence[int], held_out: float) -> list[str]:
    """Return "train", "val" or "test" for each item of one category, families together.

    Args:
        names: what identifies the items; their hashes decide, not their order.
        groups: each item's family.
        held_out: the share that goes to each of val and test: at least one item, if that leaves
            anything to train on. Families that do not fit go to train.
    """
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    parts = ["train"] * len(names)
    share = max(1, round(held_out * len(names))) if len(names) > 2 else 0
    room = {"val": share, "test": share}
    for family in sorted(members.values(), key=lambda own: min(_digest(names[i]) for i in own)):
        for part, free in room.items():
            if len(family) <= free:
                room[part] -= len(family)
                for i in family:
                    parts[i] = part
                break
    return parts


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
