"""Colour names as the reward compares them: the first base colour inside a value stands for it."""

from collections.abc import Container

_NAMES = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown "
    "burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee "
    "cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia "
    "gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender "
    "lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor "
    "mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red "
    "rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
    "taupe teal tiger turquoise violet walnut wheat white wine yellow"
)
BASE_COLOURS = tuple(_NAMES.split())
"""The original's base colours, in its order: the first one found counts."""


def base_colour(value: Container[str]) -> Container[str]:
    """Returns the first base colour in `value`, or `value` itself without one.

    In a text any letters count, so that "rectangular" is "tan" (the original's rule). In a pair of
    group and value only a whole value counts.
    """
    return next((colour for colour in BASE_COLOURS if colour in value), value)
