"""Of a few languages, the words by which a question shows that it leans on what was said before it."""

import re
from dataclasses import dataclass

from app import wording

_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Language:
    """`empty` are the words that say nothing of what is asked about. `points_back` finds a word that stands for one said
    before, `looks_so` what only looks like it, `opens` the beginning of what goes on with something, and `defines` that of a
    question for a meaning, which is new and short."""

    code: str
    empty: frozenset[str]
    points_back: re.Pattern[str]
    looks_so: re.Pattern[str]
    opens: re.Pattern[str]
    defines: re.Pattern[str]

    def content(self, text: str) -> dict[str, str]:
        """The words that tell what a text is about, each by its stem, in the order of the text."""
        found: dict[str, str] = {}
        for word in words(text):
            plain = word.casefold().replace("’", "'")
            if len(plain) > 1 and plain not in self.empty:
                found.setdefault(wording.stem(plain), word)
        return found


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def of(text: str, otherwise: Language | None = None) -> Language | None:
    """The language of which most empty words stand in the text; `otherwise` if none does."""
    said = words(text.casefold().replace("’", "'"))
    known = [(len(language.empty.intersection(said)), language) for language in _LANGUAGES]
    most, language = max(known, key=lambda pair: pair[0])
    if not most:
        return otherwise
    if otherwise is not None and len(otherwise.empty.intersection(said)) == most:
        return otherwise
    return language


def _any(alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


def _first(alternatives: str) -> re.Pattern[str]:
    return re.compile(rf"\W*(?:{alternatives})\b", re.IGNORECASE)


_LANGUAGES = (
    Language(
        "en",
        frozenset(
            "a about actually after all also am an and any anything are as at be because been being best better btw but by can cannot could"
            " currently describe detail details did different do does doing don't else enough even ever explain for from get give given go"
            " good great had has have having here how i i'm if in into is it it's its just kind kinds know like look make many may me mean"
            " meant might more most much my need no not now of off oh ok okay on one only or other our out over own please possible really"
            " same see should so some something sorry speaking still such sure take tell than thank thanks that that's the their them then"
            " there these they thing things think this those to too type types up us use using very want was way we well were what what's"
            " when where whether which while who whom whose why will with wonder work works would yes you your".split()
        ),
        _any(
            "it|its|this|those|these|they|them|their|he|she|him|his|same|ones?|here|there|former|latter|previous|above|mentioned|meant"
            r"|that(?=\W*$|\s+(?:is|was|one|means?|works?)\b)|(?:^\W*|\b(?:is|was|does|did|do|about|of|for|like|with|into|after|before) )that"
        ),
        _any(
            "(?:is|are|was|were) there|there (?:is|are|was|were)|is it (?:possible|true|necessary|ok|safe)|it(?:'s| is) (?:possible|true)"
            "|that i"
        ),
        _first("and|but|so|then|or|also|what about|how about|what if|why not|any|anything|no|yes|ok|okay"),
        re.compile(
            r"\W*(?:what (?:is|are)|what's|define)\b(?!\s+(?:the|your|its|my|a better)\b)", re.IGNORECASE
        ),
    ),
    Language(
        "de",
        frozenset(
            "aber alle alles als also am an andere anderen auch auf aus bei bin bis bitte da dabei dadurch dafür damit dann daran das dass"
            " davon dazu dein dem den denn der des die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer"
            " eines er es etwas für gegen genau gibt habe haben hast hat hatte ich ihm ihn ihnen ihr ihre ihrem ihren im in ins ist ja jede"
            " jeder jetzt kann kannst kein keine können man mehr mein meine mich mir mit nach nein nicht noch nun nur ob oder ohne schon"
            " sehr sein seine seit sich sie sind so soll sollte über um und uns unter viel viele vom von vor wann war waren warum was"
            " welche welchem welchen welcher welches wem wen wenn wer werden weshalb wie wieso wieviel will wir wird wo woher wohin worüber"
            " wurde wurden würde zu zum zur zwischen".split()
        ),
        _any(
            "es|er|sie|ihn|ihm|ihnen|dies|diese[mnrs]?|davon|dafür|damit|dazu|daran|darauf|darüber|dabei|dort|dessen|deren|jene[mnrs]?"
            "|derselbe|dieselben?|dasselbe|das (?:ist|war|heißt|bedeutet|kostet|geht|funktioniert|gemeint)|(?:ist|war|heißt|bedeutet|kostet"
            "|geht|funktioniert|kann|macht|meine) das"
        ),
        _any("gibt es|gab es|es gibt|es gab|ist es (?:möglich|wahr|nötig)|können sie|haben sie|sie können"),
        _first(
            "und|aber|also|dann|oder|auch|was ist mit|wie sieht es|wie wäre|nein|ja|noch|sonst|weitere|irgendwelche"
        ),
        re.compile(
            r"\W*(?:was (?:ist|sind|bedeutet|heißt)|definiere)\b(?!\s+(?:der|die|das|dein|mein)\b)",
            re.IGNORECASE,
        ),
    ),
    Language(
        "fr",
        frozenset(
            "a ai alors après as au aucun aussi autre autres aux avant avec avez avoir bien c'est ce cela celle celui ces cet cette ceux"
            " chez combien comme comment dans de depuis des dont donc du elle elles en encore entre est est-ce et eux faire fait faut ici il"
            " ils j'ai je la là le les leur leurs lui ma mais me mes mon même moi moins ne non nos notre nous on ont ou où oui par parce pas"
            " peut peux plus pour pourquoi puis qu'est-ce qu'il qu'elle quand que quel quelle quelles quels qui quoi sa sans se sera ses si"
            " son sont sous sur ta te tes ton tous tout toute toutes très tu un une va veut vos votre vous y à ça été être".split()
        ),
        _any(
            "il|elle|ils|elles|cela|ça|celui|celle|ceux|celles|cet|cette|ces|là|lui|eux|leurs?|y|le même|la même|les mêmes"
        ),
        _any(
            "il y a|y a-t-il|il y avait|il faut|est-il possible|il est possible|peut-il|est-ce qu'il y a|s'il (?:te|vous) plaît"
        ),
        _first("et|mais|alors|donc|ou|aussi|puis|qu'en est-il|et pour|non|oui|d'autres|autre chose|encore"),
        re.compile(
            r"\W*(?:qu['’]est-ce que?|c['’]est quoi|définis)\b(?!\s+(?:le|la|les|ton|mon|cela|ça)\b)",
            re.IGNORECASE,
        ),
    ),
    Language(
        "es",
        frozenset(
            "a al algo alguna alguno algún además ahora ahí allí antes aquí así aunque bien cada como con contra cual cuales cualquier cuando"
            " cuanto cuál cuáles cuándo cuánta cuántas cuánto cuántos cómo de del desde donde dos dónde e el ella ellas ellos en entonces"
            " entre era eran es esa esas ese eso esos esta estaba estar estas este esto estos está están fue fueron gracias ha haber había han"
            " hasta hay hace hacer he la las le les lo los me mi mis mucho muy más nada ni no nos nuestra nuestro o os otra otras otro otros"
            " para pero poco por porque puede pueden puedo pues que quien quiero quién qué se sea ser si sin sobre solo son su sus sí también"
            " tan te tengo tiene tienen todo todos tu tus un una uno unos unas usted va y ya yo él".split()
        ),
        _any(
            "él|ella|ellos|ellas|ello|eso|esto|es[ea]s?|esos|aquell[oa]s?|aquel|ahí|allí|lo mismo|el mismo|la misma|los mismos|las mismas"
        ),
        _any("por eso|es decir|esto es"),
        _first("y|pero|entonces|o|también|qué tal|y qué|no|sí|algún|alguna|algo más|otros?|otras?|además"),
        re.compile(
            r"\W*(?:qué (?:es|son|significa)|define)\b(?!\s+(?:tu|mi|eso|esto)\b)",
            re.IGNORECASE,
        ),
    ),
)
