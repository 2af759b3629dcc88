"""Under which licence each source is published, and what that asks of a data set made from it.

In    names of readers.
Out   `LICENCES`, and `card_lines`: what a data set card has to say.
Run   `python -c "from preprocessing.licences import card_lines; print(*card_lines(['emobank', 'csv']), sep=chr(10))"`

Licences are as the publishers give them, read in their repositories. Files of any origin (`csv`, `dataset`, ...) have
none that could be known here: the card then warns, and whoever publishes has to find out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

ANY_ORIGIN = ("records", "enriched", "text", "jsonl", "csv", "dataset")
"""Readers of files that may come from anywhere."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    title: str
    spdx: str
    """Its name in the SPDX list, or NOASSERTION where the publishers' statements do not settle it."""
    citation: str
    """Whom to name."""
    url: str
    folder: str
    """Where tests and recipes look for it under REDHEART_DATA_DIR."""
    share_alike: bool = False
    """What is adapted from it may be passed on under the same licence only."""
    note: str = ""


_WITH_NOTICE = ("MIT", "Apache-2.0")

_GOEMOTIONS = Licence(
    title="GoEmotions",
    spdx="Apache-2.0",
    citation="Demszky et al. 2020, in the files of monologg/GoEmotions-pytorch",
    url="https://github.com/monologg/GoEmotions-pytorch",
    folder="goemotions",
)
_ETHICS = Licence(
    title="ETHICS",
    spdx="MIT",
    citation="Hendrycks et al. 2021",
    url="https://github.com/hendrycks/ethics",
    folder="ethics",
    note="MIT by the authors' page on the Hub; their own licence file was not at hand, and another host of the data "
    "calls its licence ambiguous",
)
_KOSBI = Licence(
    title="KoSBi",
    spdx="MIT",
    citation="NAVER Cloud, naver-ai/korean-safety-benchmarks",
    url="https://github.com/naver-ai/korean-safety-benchmarks",
    folder="korean_safety",
)

LICENCES: dict[str, Licence] = {
    "scenarios": Licence(
        title="Red Heart scenarios",
        spdx="Apache-2.0",
        citation="this project; written and labelled by a language model",
        url="data/scenarios/README.md",
        folder="",
    ),
    "goemotions": _GOEMOTIONS,
    "goemotions_fine": _GOEMOTIONS,
    "goemotions_ko_mt": Licence(
        title="GoEmotions-Korean",
        spdx="Apache-2.0",
        citation="monologg/GoEmotions-Korean, from Demszky et al. 2020",
        url="https://github.com/monologg/GoEmotions-Korean",
        folder="goemotions_ko_mt",
        note="translated by machine, and its own README calls the quality poor; labels are those of the English texts",
    ),
    "emobank": Licence(
        title="EmoBank",
        spdx="CC-BY-SA-4.0",
        citation="Buechel and Hahn 2017, JULIELab/EmoBank",
        url="https://github.com/JULIELab/EmoBank",
        folder="emobank",
        share_alike=True,
    ),
    "ethics_util": _ETHICS,
    "ethics_deontology": _ETHICS,
    "ethics_justice": _ETHICS,
    "ethics_virtue": _ETHICS,
    "kote": Licence(
        title="KOTE",
        spdx="MIT",
        citation="Jeon et al. 2022, searle-j/KOTE",
        url="https://github.com/searle-j/KOTE",
        folder="kote",
    ),
    "nsmc": Licence(
        title="NSMC",
        spdx="CC0-1.0",
        citation="e9t/nsmc",
        url="https://github.com/e9t/nsmc",
        folder="nsmc_ratings",
        note="by a badge in its README; the reviews were collected from Naver Movies, and the dedication is the "
        "collector's, not the reviewers'",
    ),
    "va_kor": Licence(
        title="VA-KOR",
        spdx="MIT",
        citation="smbslt3/VA-KOR, from norms published in journals: MIN2005, KO2013, LEE2016, KIM2022",
        url="https://github.com/smbslt3/VA-KOR",
        folder="va_kor",
        note="the norms come from journal appendices; the licence is the collector's",
    ),
    "songys_chatbot": Licence(
        title="Chatbot_data",
        spdx="MIT",
        citation="songys/Chatbot_data, 2018",
        url="https://github.com/songys/Chatbot_data",
        folder="songys_chatbot",
    ),
    "kosbi": _KOSBI,
    "square": replace(_KOSBI, title="SQuARe"),
    "moralchoice": Licence(
        title="MoralChoice",
        spdx="MIT",
        citation="Scherrer, Shi, Feder and Blei, ninodimontalcino/moralchoice",
        url="https://github.com/ninodimontalcino/moralchoice",
        folder="moralchoice",
    ),
    "scruples_dilemmas": Licence(
        title="Scruples, dilemmas",
        spdx="Apache-2.0",
        citation="Lourie, Le Bras and Choi 2021, allenai/scruples",
        url="https://github.com/allenai/scruples",
        folder="scruples_dilemmas",
        note="its README says that the repository is intended for research purposes only",
    ),
    "event2mind": Licence(
        title="Event2Mind",
        spdx="MIT",
        citation="uwnlp/event2mind",
        url="https://github.com/uwnlp/event2mind",
        folder="event2mind",
        note="the copyright line of its licence file is left as the template, so it names nobody",
    ),
}
"""Reader -> licence of what it reads."""


def card_lines(readers: Iterable[str]) -> list[str]:
    """Markdown lines: a table of the sources, what they ask for, and a warning for every source of unknown licence."""
    names = sorted(set(readers))
    known = [name for name in names if name in LICENCES]
    lines = ["| Reader | Work | Licence | Name | From |", "|---|---|---|---|---|"] if known else []
    for name in known:
        licence = LICENCES[name]
        lines.append(f"| `{name}` | {licence.title} | {licence.spdx} | {licence.citation} | {licence.url} |")
    for note in dict.fromkeys(
        f"{LICENCES[name].title}: {LICENCES[name].note}." for name in known if LICENCES[name].note
    ):
        lines += ["", note]
    asked = [*_notices(known), *_share_alike(known), *_warnings([name for name in names if name not in LICENCES])]
    return lines + [line for item in asked for line in ("", item)]


def share_alike(readers: Iterable[str]) -> list[str]:
    """The licences, by their SPDX names, under which alone a data set with rows of these readers may be passed on."""
    return sorted({LICENCES[name].spdx for name in readers if name in LICENCES and LICENCES[name].share_alike})


def _notices(known: Sequence[str]) -> list[str]:
    """MIT and Apache-2.0 ask that text and notice travel with copies, Apache-2.0 that changes are told."""
    titles = dict.fromkeys(LICENCES[name].title for name in known if LICENCES[name].spdx in _WITH_NOTICE)
    if not titles:
        return []
    return [
        f"Whoever passes these rows on adds the licence files, with their copyright notices, of {', '.join(titles)}, "
        "and says that rows were changed."
    ]


def _share_alike(known: Sequence[str]) -> list[str]:
    lines = []
    for spdx in share_alike(known):
        titles = dict.fromkeys(LICENCES[name].title for name in known if LICENCES[name].spdx == spdx)
        whose = dict.fromkeys(LICENCES[name].citation for name in known if LICENCES[name].spdx == spdx)
        lines.append(
            f"**Share-alike.** Rows of {', '.join(titles)} are adapted here, and {spdx} allows that to be passed on "
            f"under {spdx} only: publish this data set, if at all, under that licence, name {', '.join(whose)}, link "
            "the licence, and say what was changed. Whether it reaches weights trained on the rows is unsettled."
        )
    return lines


def _warnings(unknown: Sequence[str]) -> list[str]:
    return [
        f"**Licence unknown.** What `{name}` read may come from anywhere, and nothing here says on what terms: find "
        "out before you pass these rows on."
        for name in unknown
    ]
