"""Whose work a model in a furniture library is, and what may be done with it.

The catalogue names each item's creator and one licence for the library. Models from Blend Swap come
with a page about the licence as well, and the more demanding of the two counts: two items of the
CC0 library are under CC BY. Known libraries are credited as their LICENSE.TXT demands.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

CC0, CC_BY, CC_BY_US = "CC0 1.0", "CC BY 3.0", "CC BY 3.0 US"
ADDRESS = {
    CC0: "https://creativecommons.org/publicdomain/zero/1.0/",
    CC_BY: "https://creativecommons.org/licenses/by/3.0/",
    CC_BY_US: "https://creativecommons.org/licenses/by/3.0/us/",
}
# From each library's LICENSE.TXT, by the catalogue's id.
NOTICES = {
    "SweetHome3D#BlendSwap-CC-0-Models": (
        "Models by various authors from https://www.blendswap.com, cleaned and converted to OBJ by "
        "Emmanuel Puybaret / eTeks <info@eteks.com>."
    ),
    "SweetHome3D#BlendSwap-CC-BY-Models": (
        "Models by the authors named below from https://www.blendswap.com, cleaned and converted "
        "to OBJ by Emmanuel Puybaret / eTeks <info@eteks.com>."
    ),
    "SweetHome3D#KatorLegazModels": "Copyright 2003-2008 Andrew Kator & Jennifer Legaz.",
    "SweetHome3D#ReallusionModels": "Copyright 2008-2016 Reallusion, http://www.reallusion.com/.",
    "SweetHome3D#ScopiaModels": (
        "Copyright 2006-2020 Scopia Visual Interfaces Systems, s.l. (http://www.scopia.es) and "
        "2014-2020 Emmanuel Puybaret / eTeks <info@eteks.com>."
    ),
}

_NUMBER = re.compile(r"blendswap\.com/blends/view/(\d+)")
_TITLES = (
    re.compile(r"^\s*\d+ - (.+?) - Downloaded from"),
    re.compile(r'Thank you for downloading "(.+?)" by '),
    re.compile(r"Blend #\d+: (.+?) Released under"),
    re.compile(r"\bName: (.+?) Author:"),
)


@dataclass(frozen=True)
class Credit:
    """What a notice about one model says.

    Attributes:
        creator: as the catalogue names them.
        licence: a short name, a key of ``ADDRESS`` for the known ones.
        title: the work's own title, where its page gives one.
        url: where it was published, where its page says so.
    """

    creator: str
    licence: str
    title: str = ""
    url: str = ""


def licence_name(words: str) -> str:
    """Return the short name of a licence from what a catalogue says of it."""
    plain = " ".join(words.split())
    if re.search(r"public domain|\bCC-?0\b|Creative Commons Zero", plain, re.IGNORECASE):
        return CC0
    if re.search(r"Attribution 3\.0 United States", plain):
        return CC_BY_US
    if re.search(r"Creative Commons Attribution 3\.0(?! License\w)", plain):
        return CC_BY
    return plain or "no licence stated"


def credit_of(creator: str, library_licence: str, page: str | None) -> Credit:
    """Return an item's credit; ``page`` is the licence page beside its model, text or HTML."""
    if page is None:
        return Credit(creator, library_licence)
    without = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    text = " ".join(html.unescape(without).split())
    demands = "Creative Commons Attribution 3.0" in text and library_licence == CC0
    licence = CC_BY if demands else library_licence
    title = next((match[1] for match in (t.search(text) for t in _TITLES) if match), "")
    number = _NUMBER.search(page)
    url = f"https://www.blendswap.com/blends/view/{number[1]}" if number else ""
    return Credit(creator, licence, title.strip(), url)
