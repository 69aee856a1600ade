"""The words of the synthetic world: what things are called, what is printed, what is held out."""

from __future__ import annotations

import random
import zlib
from functools import cache
from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "heldout"]
Rgb: TypeAlias = tuple[int, int, int]

TASKS: tuple[str, ...] = (
    "describe",
    "attribute",
    "exists",
    "count",
    "spatial",
    "compare",
    "find",
    "list",
    "read",
    "chart",
)

PLURALS: dict[str, str] = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "diamond": "diamonds",
    "hexagon": "hexagons",
    "cross": "crosses",
    "ring": "rings",
    "moon": "moons",
}
SHAPES: tuple[str, ...] = tuple(PLURALS)

COLOURS: dict[str, Rgb] = {
    "red": (218, 42, 46),
    "orange": (246, 136, 22),
    "yellow": (250, 216, 36),
    "green": (42, 156, 72),
    "blue": (38, 98, 214),
    "purple": (136, 58, 174),
    "black": (38, 38, 42),
    "white": (252, 252, 252),
}

PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")

# Every colour and eight of the shapes lose exactly one partner, so that each part of a held-out
# combination is well known from other combinations.
HELDOUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("orange", "hexagon"),
        ("yellow", "triangle"),
        ("green", "heart"),
        ("blue", "ring"),
        ("purple", "square"),
        ("black", "diamond"),
        ("white", "moon"),
    }
)

_COMMON = """
AIR ALL ANT ANY APE APPLE APRIL ARM ARROW ART ATLAS AUTUMN BABY BACK BAG BAKER BALL BANANA BAND
BANK BARN BASKET BATH BEACH BEAN BEAR BED BEE BELL BIKE BIRD BLACK BLUE BOAT BOOK BOOT BOTTLE
BOX BOY BREAD BRICK BRIDGE BROWN BRUSH BUS BUTTER CAFE CAKE CALL CAMERA CAMP CANDLE CAR CARD
CASTLE CAT CHAIR CHEESE CHERRY CIRCLE CITY CLEAN CLOCK CLOSED CLOUD COAT COFFEE COLD COOK CORN
COW CREAM CROWN CUP DANCE DANGER DAY DEER DESK DOCTOR DOG DOLL DOOR DOWN DREAM DRINK DRUM DUCK
EAGLE EAR EARTH EAST EGG ENTER ENGINE EXIT EYE FAIR FALL FARM FAST FEATHER FIELD FIRE FISH FIVE
FLAG FLOOR FLOWER FOOD FOOT FOREST FORK FOUR FOX FREE FRIEND FROG FRUIT GAME GARDEN GATE GIFT
GLASS GOAT GOLD GOOD GRAPE GRASS GREEN GUITAR HAIR HAND HAPPY HARBOR HAT HEART HELLO HILL HOME
HONEY HORSE HOT HOTEL HOUSE ICE INK IRON ISLAND JACKET JAM JAR JELLY JUICE JULY JUMP JUNE
JUNGLE KEY KING KITE KITTEN KNIFE LADDER LAKE LAMP LEAF LEFT LEMON LETTER LIGHT LION LOCK LUNCH
MAGIC MAP MAPLE MARKET MEAL MELON MILK MINT MIRROR MONDAY MONEY MONKEY MOON MORNING MOUSE MUSIC
NEST NEW NIGHT NINE NO NORTH NOSE NUT OAK OCEAN OFF OLD OLIVE ON ONE ONION OPEN ORANGE OVEN OWL
PAINT PALM PAPER PARK PARTY PEACH PEAR PEN PENCIL PEPPER PIANO PIE PIG PILOT PINK PIZZA PLANE
PLANT PLUM POLICE POND POST POTATO PUSH PULL PURPLE QUEEN QUICK QUIET RABBIT RADIO RAIN RED
RIGHT RING RIVER ROAD ROBOT ROCK ROOF ROOM ROSE SALE SALT SAND SCHOOL SEA SEED SEVEN SHARK SHEEP
SHIP SHOE SHOP SILVER SIX SKY SLOW SNOW SOAP SOCK SOUP SOUTH SPOON SPRING STAR STATION STOP STORE
STREET SUGAR SUMMER SUN SUNDAY TABLE TAXI TEA TEN TENT THREE TIGER TIME TOAST TOMATO TOWER TOWN
TOY TRAIN TREE TRUCK TULIP TURTLE TWO UP VALLEY VAN VIOLET WAGON WALL WATCH WATER WEST WHALE
WHEEL WHITE WIND WINDOW WINTER WOLF WOOD YELLOW YES ZEBRA ZERO ZOO
"""
COMMON_WORDS: tuple[str, ...] = tuple(_COMMON.split())

_CONSONANTS = "BCDFGHJKLMNPRSTVWXYZQ"
_VOWELS = "AEIOU"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def is_heldout_word(word: str) -> bool:
    """Whether a printed word or number of two or more characters never occurs in training."""
    return len(word) > 1 and zlib.crc32(word.encode()) % 10 == 0


def allowed(colour: str, shape: str, split: str) -> bool:
    """Whether a combination may be shown or spoken of in a split."""
    return split != "train" or (colour, shape) not in HELDOUT_PAIRS


@cache
def _pairs(kind: str, value: str, equal: bool, heldout: bool) -> tuple[tuple[str, str], ...]:
    """The (colour, shape) pairs that do or do not meet a criterion, known or held out."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    if kind != "any":
        place = 0 if kind == "colour" else 1
        pairs = [pair for pair in pairs if (pair[place] == value) == equal]
    return tuple(pair for pair in pairs if (pair in HELDOUT_PAIRS) == heldout)


def pick_pair(
    rng: random.Random, split: str, kind: str = "any", value: str = "", equal: bool = True
) -> tuple[str, str]:
    """A (colour, shape) pair whose `kind` ("colour", "shape" or "any") is or is not `value`.

    The held-out split shows its own combinations more often than chance would, to measure them.
    """
    if split == "heldout" and rng.random() < 0.3:
        rare = _pairs(kind, value, equal, True)
        if rare:
            return rng.choice(rare)
    return rng.choice(_pairs(kind, value, equal, False))


@cache
def _common(low: int, high: int, heldout: bool) -> tuple[str, ...]:
    return tuple(
        word
        for word in COMMON_WORDS
        if low <= len(word) <= high and is_heldout_word(word) == heldout
    )


def _letters(rng: random.Random, low: int, high: int) -> str:
    """A made-up word: three in five can be pronounced, so that letters are read, not guessed."""
    length = rng.randint(low, high)
    if rng.random() < 0.6:
        start = rng.randrange(2)
        return "".join(
            rng.choice(_VOWELS if (start + k) % 2 else _CONSONANTS) for k in range(length)
        )
    return "".join(rng.choices(_LETTERS, k=length))


def pick_word(
    rng: random.Random, split: str, low: int = 2, high: int = 8, numbers: bool = True
) -> str:
    """Something to print: a common word, a made-up one or, if wanted, a number."""
    heldout = split == "heldout" and rng.random() < 0.5
    draw = rng.random()
    if numbers and draw > 0.85:
        while True:
            text = str(rng.randrange(10, 10 ** rng.randint(2, 4)))
            if is_heldout_word(text) == heldout:
                return text
    if draw < 0.43:
        common = _common(low, high, heldout)
        if common:
            return rng.choice(common)
    while True:
        text = _letters(rng, low, high)
        if is_heldout_word(text) == heldout:
            return text


def pick_labels(rng: random.Random, split: str, count: int, wordy: bool) -> tuple[str, ...]:
    """Names of chart categories: letters in a row or, half of the time if `wordy`, short words."""
    if not wordy or rng.random() < 0.5:
        first = rng.choice((0, 0, 0, rng.randrange(20)))
        return tuple(_LETTERS[first : first + count])
    words = _common(3, 3, False)
    if split == "heldout":
        words += _common(3, 3, True)
    return tuple(rng.sample(words, count))
