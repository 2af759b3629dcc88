"""Labels that can be drawn: as they are where a font has their letters, in Latin letters where none has.

In    a label in any script.
Out   the same, or Hangul as the Revised Romanization writes it letter by letter, and U+XXXX for others.
Run   `python -c "from training.curves_text import *; print(romanized('한국어'))"`

matplotlib draws an empty box and warns where its font lacks a letter, and the font it comes with has no Hangul. The
page beside the pictures has every label as it is: a browser finds a font.
"""

import unicodedata
from functools import cache

INITIALS, VOWELS, FINALS = (
    letters.split(",")
    for letters in (
        "g,kk,n,d,tt,r,m,b,pp,s,ss,,j,jj,ch,k,t,p,h",
        "a,ae,ya,yae,eo,e,yeo,ye,o,wa,wae,oe,yo,u,wo,we,wi,yu,eu,ui,i",
        ",k,kk,ks,n,nj,nh,t,l,lg,lm,lb,ls,lt,lp,lh,m,p,ps,s,ss,ng,j,ch,k,t,p,h",
    )
)
FIRST, LAST = ord("가"), ord("힣")


@cache
def font_with(letters: frozenset[str]) -> str | None:
    """The name of a font of this machine that has all of these; the one that is drawn with anyway first."""
    from matplotlib import font_manager

    wanted = {ord(letter) for letter in letters}
    for path in [font_manager.findfont("DejaVu Sans"), *sorted(font_manager.findSystemFonts())]:
        family, known = letters_in(path)
        if wanted <= known:
            font_manager.fontManager.addfont(path)
            return family
    return None


@cache
def letters_in(path: str) -> tuple[str, frozenset[int]]:
    """The family of a font file, and the numbers of its letters: none for a kind that matplotlib does not read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return font.family_name, frozenset(font.get_charmap())
    except (OSError, RuntimeError):
        return "", frozenset()


@cache
def drawable(label: str) -> str:
    """What matplotlib can draw of it, with `$`, which would begin a formula, as itself."""
    from matplotlib import rcParams

    label = unicodedata.normalize("NFC", label)
    letters = frozenset(letter for letter in label if letter.isprintable())
    family = font_with(letters)
    if family is None:
        label = romanized(label)
    elif family not in rcParams["font.family"]:
        rcParams["font.family"] = [*rcParams["font.family"], family]  # looked up letter by letter, in this order
    return "".join(letter if letter.isprintable() else " " for letter in label).replace("$", r"\$")


def romanized(text: str) -> str:
    return "".join(map(_letter, unicodedata.normalize("NFC", text)))


def _letter(letter: str) -> str:
    number = ord(letter)
    if FIRST <= number <= LAST:
        syllable, final = divmod(number - FIRST, len(FINALS))
        initial, vowel = divmod(syllable, len(VOWELS))
        return INITIALS[initial] + VOWELS[vowel] + FINALS[final]
    return letter if number < 128 or font_with(frozenset(letter)) else f"U+{number:04X}"
