"""How each category looks.

A drawing function gets a pen, the object's paints and four numbers from 0 to 1 that vary its looks. It draws in the
pen's coordinates, within the width that `agevlm.scenes.categories` gives the category.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agevlm.scenes.drawing import Paint, Pen
from agevlm.scenes.objects import creatures, household, outdoors, tableware, vehicles

Looks = tuple[float, float, float, float]
Artist = Callable[[Pen, Paint, Looks], None]

ARTISTS: Mapping[str, Artist] = {
    "person": creatures.person,
    "dog": creatures.dog,
    "cat": creatures.cat,
    "bird": creatures.bird,
    "car": vehicles.car,
    "bus": vehicles.bus,
    "truck": vehicles.truck,
    "bicycle": vehicles.bicycle,
    "boat": vehicles.boat,
    "kite": outdoors.kite,
    "ball": outdoors.ball,
    "tree": outdoors.tree,
    "sign": outdoors.sign,
    "umbrella": outdoors.umbrella,
    "apple": tableware.apple,
    "cup": tableware.cup,
    "bowl": tableware.bowl,
    "vase": tableware.vase,
    "bottle": tableware.bottle,
    "fork": tableware.fork,
    "spoon": tableware.spoon,
    "book": household.book,
    "laptop": household.laptop,
    "clock": household.clock,
    "street clock": household.street_clock,
    "lamp": household.lamp,
    "sofa": household.sofa,
}
