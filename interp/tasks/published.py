"""The words and texts of published generators, as facts: their lists, in their order.

Indirect object identification: arXiv 2211.00593, Easy-Transformer (easy_transformer/ioi_dataset.py).
Colored Objects: arXiv 2310.08744, circuit_reuse (cobjs_data.py). Greater-than: arXiv 2305.00586,
gpt2-greater-than (dataset.py, utils.py), with the nouns as ACDC lists them (acdc/greaterthan).
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# {A} and {B} are the names in the order they are written: in BABA the subject is the first of them.
IOI_TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S2} gave a {gift} to",
    "Then, {A} and {B} had a lot of fun at the {place}. {S2} gave a {gift} to",
    "Then, {A} and {B} were working at the {place}. {S2} decided to give a {gift} to",
    "Then, {A} and {B} were thinking about going to the {place}. {S2} wanted to give a {gift} to",
    "Then, {A} and {B} had a long argument, and afterwards {S2} said to",
    "After {A} and {B} went to the {place}, {S2} gave a {gift} to",
    "When {A} and {B} got a {gift} at the {place}, {S2} decided to give it to",
    "When {A} and {B} got a {gift} at the {place}, {S2} decided to give the {gift again} to",
    "While {A} and {B} were working at the {place}, {S2} gave a {gift} to",
    "While {A} and {B} were commuting to the {place}, {S2} gave a {gift} to",
    "After the lunch, {A} and {B} went to the {place}. {S2} gave a {gift} to",
    "Afterwards, {A} and {B} went to the {place}. {S2} gave a {gift} to",
    "Then, {A} and {B} had a long argument. Afterwards {S2} said to",
    "The {place} {A} and {B} went to had a {gift}. {S2} gave it to",
    "Friends {A} and {B} found a {gift} at the {place}. {S2} gave it to",
)
IOI_NAMES = _words("""
    Michael Christopher Jessica Matthew Ashley Jennifer Joshua Amanda Daniel David James Robert John
    Joseph Andrew Ryan Brandon Jason Justin Sarah William Jonathan Stephanie Brian Nicole Nicholas
    Anthony Heather Eric Elizabeth Adam Megan Melissa Kevin Steven Thomas Timothy Christina Kyle
    Rachel Laura Lauren Amber Brittany Danielle Richard Kimberly Jeffrey Amy Crystal Michelle Tiffany
    Jeremy Benjamin Mark Emily Aaron Charles Rebecca Jacob Stephen Patrick Sean Erin Jamie Kelly
    Samantha Nathan Sara Dustin Paul Angela Tyler Scott Katherine Andrea Gregory Erica Mary Travis
    Lisa Kenneth Bryan Lindsey Kristen Jose Alexander Jesse Katie Lindsay Shannon Vanessa Courtney
    Christine Alicia Cody Allison Bradley Samuel
    """)
IOI_PLACES = _words("store garden restaurant school hospital office house station")
IOI_GIFTS = _words("ring kiss bone basketball computer necklace drink snack")

OBJECTS_BLOCK = (
    "Q: On the {surface}, {start} {a0} {colour 0} {noun 0}, {a1} {colour 1} {noun 1}, "
    "and {a2} {colour 2} {noun 2}. What color is the {asked}?\nA:"
)
OBJECTS_SURFACES = ("table", "desk", "floor")
OBJECTS_COLOURS = _words("red orange yellow green blue purple brown black")
OBJECTS_ITEMS = _words("""
    pencil notebook pen cup plate jug mug puzzle textbook leash necklace bracelet bottle ball
    envelope lighter bowl
    """)

YEARS_NOUNS = _words("""
    abduction accord affair agreement appraisal assaults assessment attack attempts campaign
    captivity case challenge chaos clash collaboration coma competition confrontation consequence
    conspiracy construction consultation contact contract convention cooperation custody deal
    decline decrease demonstrations development disagreement disorder dispute domination dynasty
    effect effort employment endeavor engagement epidemic evaluation exchange existence expansion
    expedition experiments fall fame flights friendship growth hardship hostility illness impact
    imprisonment improvement incarceration increase insurgency invasion investigation journey
    kingdom marriage modernization negotiation notoriety obstruction operation order outbreak
    outcome overhaul patrols pilgrimage plague plan practice process program progress project
    pursuit quest raids reforms reign relationship retaliation riot rise rivalry romance rule
    sanctions shift siege slump stature stint strikes study test testing tests therapy tour
    tradition treaty trial trip unemployment voyage warfare work
    """)


def _span(first: int, last: int) -> set[int]:
    return set(range(first, last + 1))


# A start year has to be two tokens for GPT-2, its century and two digits (arXiv 2305.00586), and the
# first and last such year of a century (01 and 99) are not drawn. So these years never start a span:
_JOINED = {
    11: _span(2, 9) | {11} | _span(13, 18) | _span(20, 29) | _span(51, 59) | _span(89, 98),
    12: {80},
    13: _span(2, 9),
    14: {40},
    15: _span(2, 9),
}
YEARS = tuple(
    f"{century}{year:02d}"
    for century in range(11, 18)
    for year in range(2, 99)
    if year not in _JOINED.get(century, ())
)
