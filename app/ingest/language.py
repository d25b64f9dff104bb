"""The language of a text, as the name of one of PostgreSQL's text search configurations."""

import re
from collections import Counter

FALLBACK = "simple"
"""Words as they stand: for languages whose endings PostgreSQL does not know."""

# So many characters tell; a text's beginning is often not what follows, so they are taken from three places.
_SAMPLE = 3_000
# The words below make a third to a half of running text, and less than this of a text in another language.
_LEAST_SHARE = 0.1

# Of the letters of languages in Latin script that are not listed below, more than this are outside ASCII.
_MOST_ACCENTS = 0.015

_LETTERS = re.compile(r"[^\W\d_]+")

_ACCENTED = re.compile(r"[\u00c0-\u024f\u1e00-\u1eff]")

# A script that one language has, or whose words are pairs of characters whatever the language.
_SCRIPTS = {
    "arabic": re.compile(r"[\u0620-\u064a]"),
    "armenian": re.compile(r"[\u0531-\u0587]"),
    "greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "tamil": re.compile(r"[\u0b80-\u0bff]"),
    "cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "devanagari": re.compile(r"[\u0900-\u097f]"),
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"),
    "other": re.compile(
        r"[\u0590-\u05ff\u0980-\u0b7f\u0c00-\u1dff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
    ),
}
_PERSIAN_OR_URDU = re.compile(r"[\u067e\u0686\u0698\u06af\u06a9\u06cc\u06d2]")

# The most frequent words of each, without those that say nothing because many of the others have them as well.
_WORDS = {
    "latin": {
        "basque": "eta da ez bat ere du dira dute zen baina izan beste egin hau zuen ziren edo bere",
        "catalan": "els amb són per les aquest aquesta més és va pel dels una que del seva també seu",
        "danish": "og det er til af på en som ikke den har blev hvor han med også efter være af ved fra",
        "dutch": "de het een van en is dat op te zijn voor met niet aan er ook werd door bij naar",
        "english": "the of and to in is that for was on with as by are be this from it at or which not",
        "finnish": "ja on ei että oli se hän mutta ovat kun joka myös tai kuin niin ole jossa sekä sen",
        "french": "le la les des et est du dans une que pour qui par sur plus au avec ce pas il aux sont",
        "german": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch bei aus war wurde sind einer oder",
        "hungarian": "az és hogy nem egy is volt meg ez csak vagy mint azt már de el után voltak",
        "indonesian": "yang dan di untuk dengan dari pada ini dalam tidak adalah itu oleh ke sebagai akan telah",
        "irish": "agus an na ar is bhí sé le go do tá leis ag seo ach mar nach raibh sa ina",
        "italian": "di che il la della per è in un del una dei non con sono gli nel alla più anche le delle",
        "lithuanian": "ir yra kad buvo iš su tai kaip bet jo apie į nuo taip pat po ar už jis",
        "norwegian": "og det er til av på en som ikke den har ble hvor han med også etter være av ved fra",
        "portuguese": "de que do da em os um para uma não com no na por mais as dos como foi ao são",
        "romanian": "și de în la cu care pe este din nu un pentru sunt fost mai au sau prin fi",
        "spanish": "de la que el en los se del las un por con una para es su al como más fue lo",
        "swedish": "och det är att som på av för en med den till inte har om ett var de från",
        "turkish": "ve bir bu için ile da de olarak olan daha çok gibi en sonra kadar ise ya var",
    },
    "cyrillic": {
        "russian": "и в не на что с он как это по но из у за от для был его к так же или",
        "serbian": "и је у да се на су од за са који као или били био што није али",
        # Languages without a configuration, so that their texts are not taken for those of their neighbours.
        f"{FALLBACK} (Bulgarian)": "и на е да се за от с по като са не в до при че но или това",
        f"{FALLBACK} (Ukrainian)": "і в на що з не та у до як за від це його але є був для або які",
    },
    "devanagari": {
        "hindi": "के में है की से को का और पर हैं ने कि यह एक था नहीं भी इस थे",
        "nepali": "को र मा छ यो पनि ले का लागि भएको एक छन् हो गरेको थियो तथा",
        f"{FALLBACK} (Marathi)": "आहे आणि या व हे ते होते होता असे येथे आहेत एक की तर मध्ये",
    },
}
_LANGUAGES_OF = {
    script: {language: frozenset(words.split()) for language, words in languages.items()}
    for script, languages in _WORDS.items()
}


def detect(text: str) -> str:
    """English also for a text of such words, or of so few, that no language is told by them, if it has hardly any accents."""
    sample = _sample(text)
    if sample.isascii():
        return _by_words(sample, "latin")
    sizes = {script: len(letters.findall(sample)) for script, letters in _SCRIPTS.items()}
    script = max(sizes, key=lambda name: sizes[name])
    if script in _LANGUAGES_OF:
        return _by_words(sample, script)
    if script == "arabic" and len(_PERSIAN_OR_URDU.findall(sample)) > sizes[script] / 50:
        return FALLBACK
    return FALLBACK if script == "other" else script


def _sample(text: str) -> str:
    if len(text) <= 3 * _SAMPLE:
        return text
    middle, end = len(text) // 2, len(text) - _SAMPLE
    return f"{text[:_SAMPLE]} {text[middle : middle + _SAMPLE]} {text[end:]}"


def _by_words(sample: str, script: str) -> str:
    # Of Devanagari, vowel signs belong to the word.
    words = sample.split() if script == "devanagari" else _LETTERS.findall(sample.lower())
    counts = Counter(words)
    found = {
        language: sum(counts[word] for word in known) for language, known in _LANGUAGES_OF[script].items()
    }
    # Names repeat "la" and "de" in any language; a language has more of its words than these.
    kinds = {
        language: sum(word in counts for word in known) for language, known in _LANGUAGES_OF[script].items()
    }
    best = max(found, key=lambda language: found[language] * kinds[language])
    if found[best] > _LEAST_SHARE * len(words):
        return best.partition(" ")[0]
    is_plain = script == "latin" and len(_ACCENTED.findall(sample)) <= _MOST_ACCENTS * len(sample)
    return "english" if best == "english" or is_plain else FALLBACK
