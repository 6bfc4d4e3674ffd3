"""What generated shops sell: kinds of goods, what is said of them, and in which versions."""

from dataclasses import dataclass

COLOURS = tuple(
    "black white red blue green grey pink yellow brown purple orange navy beige teal ivory "
    "burgundy".split()
)
SHADES = ("dark", "light", "matte", "bright")
SCENTS = tuple("lavender vanilla citrus rose mint coconut cedar unscented".split())
FLAVOURS = tuple("original honey chili lemon garlic cocoa ginger maple berry salted".split())
CLOTHES_SIZES = tuple("x-small small medium large x-large xx-large".split())
SHOE_SIZES = ("6", "7", "8", "9", "10", "11", "12")
PACKS = ("pack of 1", "pack of 2", "pack of 4", "pack of 6", "pack of 12")
BOTTLES = ("2 fl oz", "4 fl oz", "8 fl oz", "12 fl oz", "16 fl oz")
LENGTHS = ("3 ft", "6 ft", "10 ft", "15 ft", "25 ft")
MEASURES = ("16x16 inch", "18x18 inch", "20x30 inch", "24x36 inch", "48x72 inch", "60x84 inch")
CAPACITIES = ("32gb", "64gb", "128gb", "256gb", "512gb")
STYLES = ("classic", "modern", "sport", "travel", "deluxe")

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "color": COLOURS,
    "scent": SCENTS,
    "flavor name": FLAVOURS,
    "size": CLOTHES_SIZES,
    "shoe size": SHOE_SIZES,
    "item package quantity": PACKS,
    "bottle size": BOTTLES,
    "length": LENGTHS,
    "dimensions": MEASURES,
    "capacity": CAPACITIES,
    "style": STYLES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of goods.

    Attributes:
        department: The shop's category.
        query: The search that its products are found with, in the plural.
        noun: What one of them is called.
        path: Categories below the department's.
        attributes: What can be true of one.
        options: Option groups that one can have.
        dollars: Least and most usual price.
    """

    department: str
    query: str
    noun: str
    path: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    dollars: tuple[int, int]


DEPARTMENT_PATHS = {
    "beauty": "Beauty & Personal Care",
    "electronics": "Electronics",
    "fashion": "Clothing, Shoes & Jewelry",
    "garden": "Home & Kitchen",
    "grocery": "Grocery & Gourmet Food",
}

_CARE = ("cruelty free", "dermatologist tested", "fragrance free", "long lasting", "alcohol free")
_HAIR = ("sulfate free", "paraben free", "damaged hair", "dry hair", "argan oil", "tea tree")
_SKIN = ("sensitive skin", "hyaluronic acid", "anti aging", "fine lines", "dry skin", "oil free")
_CLOTHES = ("machine wash", "long sleeve", "slim fit", "quick drying", "loose fit", "soft cotton")
_SHOES = ("rubber sole", "non slip", "arch support", "memory foam", "ankle strap", "light weight")
_DEVICES = ("fast charging", "high speed", "easy carry", "water resistant", "plug play", "low power")
_SOUND = ("noise cancelling", "stereo sound", "hands free", "long battery", "deep bass")
_HOME = ("easy clean", "machine washable", "super soft", "fade resistant", "eco friendly")
_WOOD = ("solid wood", "easy assemble", "space saving", "metal legs", "storage space", "white finish")
_FOOD = ("gluten free", "non gmo", "low sodium", "high protein", "plant based", "sugar free")
_DRINK = ("caffeine free", "fair trade", "single origin", "certified organic", "low calorie")


def _kinds(
    department: str, rows: tuple[tuple[str, str, tuple[str, ...], str, tuple[str, ...], str], ...]
) -> tuple[Kind, ...]:
    return tuple(
        Kind(
            department=department,
            query=query,
            noun=noun,
            path=tuple(path.split(" > ")),
            attributes=attributes,
            options=options,
            dollars=(int(dollars.split("-")[0]), int(dollars.split("-")[1])),
        )
        for query, noun, attributes, path, options, dollars in rows
    )


KINDS: tuple[Kind, ...] = (
    *_kinds(
        "beauty",
        (
            ("shampoos", "shampoo", _HAIR + _CARE[:3], "Hair Care > Shampoo", ("scent", "bottle size"), "6-40"),
            ("hair masks", "hair mask", _HAIR + _CARE[:2], "Hair Care > Masks", ("scent", "bottle size"), "8-45"),
            ("face creams", "face cream", _SKIN + _CARE, "Skin Care > Face", ("scent", "bottle size"), "9-60"),
            ("body lotions", "body lotion", _SKIN + _CARE, "Skin Care > Body", ("scent", "bottle size"), "5-30"),
            ("lip balms", "lip balm", _CARE + _SKIN[:2], "Skin Care > Lips", ("flavor name", "item package quantity"), "3-20"),
            ("hair brushes", "hair brush", ("non slip", "easy clean", "wooden handle", "scalp massage", "anti static"), "Hair Care > Tools", ("color", "style"), "6-35"),
            ("nail polishes", "nail polish", ("quick dry", "high gloss", *_CARE), "Nails > Polish", ("color", "item package quantity"), "4-25"),
            ("makeup bags", "makeup bag", ("water resistant", "easy carry", "easy clean", "large capacity"), "Tools > Bags", ("color", "style"), "8-40"),
        ),
    ),
    *_kinds(
        "electronics",
        (
            ("headphones", "headphones", _SOUND + _DEVICES[:2], "Headphones > Over Ear", ("color", "style"), "15-190"),
            ("portable speakers", "speaker", _SOUND + _DEVICES[2:4], "Audio > Speakers", ("color", "style"), "15-150"),
            ("charging cables", "charging cable", _DEVICES + ("gold plated", "nylon braided"), "Accessories > Cables", ("color", "length"), "5-30"),
            ("memory cards", "memory card", _DEVICES + ("shock proof", "temperature proof"), "Storage > Cards", ("capacity", "item package quantity"), "8-120"),
            ("phone cases", "phone case", ("shock proof", "wireless charging", "scratch resistant", "slim design", "easy install"), "Phones > Cases", ("color", "style"), "7-40"),
            ("tripods", "tripod", ("carbon fiber", "quick release", "easy carry", "light weight", "non slip"), "Photo > Tripods", ("color", "style"), "18-160"),
            ("tablet stands", "tablet stand", ("aluminum alloy", "easy install", "non slip", "light weight"), "Tablets > Stands", ("color", "style"), "9-60"),
            ("night lights", "night light", ("motion sensor", "energy saving", *_DEVICES[4:], "usb port"), "Lighting > Indoor", ("color", "item package quantity"), "8-45"),
        ),
    ),
    *_kinds(
        "fashion",
        (
            ("women's dresses", "dress", _CLOTHES + ("daily wear", "elastic waist"), "Women > Dresses", ("color", "size"), "14-90"),
            ("men's t-shirts", "t-shirt", _CLOTHES + ("classic fit", "short sleeve"), "Men > Shirts", ("color", "size"), "9-45"),
            ("men's jackets", "jacket", _CLOTHES + ("wind proof", "zipper pockets"), "Men > Jackets", ("color", "size"), "25-180"),
            ("women's sweaters", "sweater", _CLOTHES + ("cable knit", "high neck"), "Women > Sweaters", ("color", "size"), "16-95"),
            ("women's sandals", "sandals", _SHOES + ("open toe", "high heel"), "Women > Shoes", ("color", "shoe size"), "15-80"),
            ("men's sneakers", "sneakers", _SHOES + ("lace up", "breathable mesh"), "Men > Shoes", ("color", "shoe size"), "25-140"),
            ("socks", "socks", ("cushioned sole", "moisture wicking", "machine wash", "arch support"), "Men > Socks", ("color", "item package quantity"), "6-35"),
            ("scarves", "scarf", ("super soft", "hand wash", "light weight", "cable knit"), "Women > Accessories", ("color", "style"), "8-50"),
        ),
    ),
    *_kinds(
        "garden",
        (
            ("area rugs", "rug", _HOME + ("non slip", "low pile"), "Rugs > Area Rugs", ("color", "dimensions"), "18-240"),
            ("throw pillows", "pillow", _HOME + ("memory foam", "double sided"), "Bedding > Pillows", ("color", "dimensions"), "9-60"),
            ("blankets", "blanket", _HOME + ("king size", "light weight"), "Bedding > Blankets", ("color", "dimensions"), "15-110"),
            ("window curtains", "curtain", _HOME + ("thermal insulated", "room darkening"), "Windows > Curtains", ("color", "dimensions"), "14-95"),
            ("side tables", "side table", _WOOD, "Furniture > Tables", ("color", "style"), "30-260"),
            ("bookcases", "bookcase", _WOOD + ("wall mounted",), "Furniture > Shelves", ("color", "style"), "45-390"),
            ("candles", "candle", ("soy wax", "long lasting", "hand poured", "lead free"), "Decor > Candles", ("scent", "item package quantity"), "6-45"),
            ("storage baskets", "basket", ("easy clean", "space saving", "heavy duty", "hand woven"), "Storage > Baskets", ("color", "dimensions"), "9-70"),
        ),
    ),
    *_kinds(
        "grocery",
        (
            ("coffees", "coffee", _DRINK + ("dark roast", "whole bean"), "Beverages > Coffee", ("flavor name", "item package quantity"), "7-50"),
            ("teas", "tea", _DRINK + ("loose leaf", "hand picked"), "Beverages > Tea", ("flavor name", "item package quantity"), "5-40"),
            ("snack bars", "snack bar", _FOOD + ("low carb", "nut free"), "Snacks > Bars", ("flavor name", "item package quantity"), "4-35"),
            ("popcorns", "popcorn", _FOOD + ("air popped", "whole grain"), "Snacks > Popcorn", ("flavor name", "item package quantity"), "4-30"),
            ("hot sauces", "hot sauce", _FOOD + ("no artificial flavors",), "Sauces > Hot Sauce", ("flavor name", "bottle size"), "4-28"),
            ("olive oils", "olive oil", ("cold pressed", "extra virgin", *_FOOD[:2], "certified organic"), "Oils > Olive", ("flavor name", "bottle size"), "8-55"),
            ("dried fruits", "dried fruit", _FOOD + ("freeze dried", "no added sugar"), "Snacks > Fruit", ("flavor name", "item package quantity"), "5-38"),
            ("spice blends", "spice blend", _FOOD + ("hand mixed", "resealable bag"), "Spices > Blends", ("flavor name", "item package quantity"), "4-26"),
        ),
    ),
)
"""All kinds, eight a department."""
