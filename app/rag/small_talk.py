"""Turns that need no passages: small talk, and wishes for the last answer in another form.

A turn counts as one only if all of its words belong to it, as a question that is taken for small talk is not answered, while
small talk that is searched for costs only the search.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.llm.protocols import ChatMessage

Kind = Literal["greeting", "thanks", "farewell", "acknowledgement", "reformulation"]

_LONGEST = 120
_SPACES = re.compile(r"[\s,.;:!¡¿?…~\"“”„«»()\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f300-\U0001faff-]+")


@dataclass(frozen=True, slots=True)
class SmallTalk:
    """`reply` is what is said by an answerer that can only quote."""

    kind: Kind
    reply: str


@dataclass(frozen=True, slots=True)
class _Phrases:
    """Of one language. `social` are whole phrases by kind, the kind that tells most first; a turn is one or several of them.
    `reformulation` is a whole turn."""

    social: tuple[tuple[Kind, re.Pattern[str]], ...]
    filler: re.Pattern[str]
    reformulation: re.Pattern[str]
    replies: dict[Kind, str]


def recognise(question: str, history: Sequence[ChatMessage]) -> SmallTalk | None:
    """None for what is to be searched for. Only an answer that is remembered can be put into another form."""
    if len(question) > _LONGEST:
        return None
    said = " ".join(_SPACES.sub(" ", question.casefold().replace("’", "'")).split())
    if not said:
        return None
    has_answer = any(message.role == "assistant" for message in history)
    for phrases in _LANGUAGES:
        kind = _kind(said, phrases, has_answer=has_answer)
        if kind is not None:
            return SmallTalk(kind, phrases.replies[kind])
    return None


def _kind(said: str, phrases: _Phrases, *, has_answer: bool) -> Kind | None:
    if has_answer and phrases.reformulation.fullmatch(said):
        return "reformulation"
    found: set[Kind] = set()
    rest = said
    while rest:
        match = None
        for kind, pattern in phrases.social:
            if match := pattern.match(rest):
                found.add(kind)
                break
        match = match or phrases.filler.match(rest)
        if match is None:
            return None
        rest = rest[match.end() :].lstrip()
    return next((kind for kind, _ in phrases.social if kind in found), None)


def _phrases(
    *,
    thanks: str,
    farewell: str,
    greeting: str,
    acknowledgement: str,
    filler: str,
    ask: str,
    answer: str,
    form: str,
    change: str,
    again: str,
    please: str,
    replies: tuple[str, str, str, str, str],
) -> _Phrases:
    """`filler` is what stands beside small talk and is none alone. A wish begins with `ask`, is for the `answer`, or for a
    `form` of it; `change` is a verb that wants a form, `again` one that does without."""
    kinds: tuple[Kind, ...] = ("thanks", "farewell", "greeting", "acknowledgement")
    texts = (thanks, farewell, greeting, acknowledgement)
    begin = rf"(?:(?:{please}) )?(?:(?:{ask}) )?(?:(?:{please}) )?(?:(?:{answer}) )?(?:(?:{please}) )?"
    changed = rf"(?:{change})(?: (?:{answer}))?(?: (?:{form})){{1,2}}"
    repeated = rf"(?:{again})(?: (?:{answer}))?(?: (?:{form})){{0,2}}"
    wish = rf"{begin}(?:{changed}|{repeated}|(?:{form})(?: (?:{form}))?)(?: (?:{please}))?"
    return _Phrases(
        tuple((kind, re.compile(rf"(?:{text})(?!\S)")) for kind, text in zip(kinds, texts, strict=True)),
        re.compile(rf"(?:{filler})(?!\S)"),
        re.compile(wish),
        dict(zip((*kinds, "reformulation"), replies, strict=True)),
    )


_LANGUAGES = (
    _phrases(
        greeting="hello|hi|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)|how are you(?: (?:today|doing))?"
        "|nice to meet you",
        thanks="thanks(?: (?:a lot|so much|very much|again|a million))?|thank you(?: (?:so much|very much|again))?|many thanks|thx|ty|cheers"
        "|(?:much|really) appreciated|i appreciate (?:it|your help)",
        farewell="bye(?: bye)?|goodbye|good bye|see you(?: (?:later|soon))?|have a (?:nice|good|great) (?:day|evening|weekend|one)|good night"
        "|that's all(?: for (?:now|today))?|that is all(?: for (?:now|today))?",
        acknowledgement="ok|okay|great|perfect|cool|awesome|excellent|wonderful|super|got it|i see|understood|alright|all right|makes sense"
        "|that (?:helps|helped)(?: a lot)?|that's (?:great|perfect|helpful|very helpful)|very helpful",
        filler="there|everyone|everybody|all|and|nice|good|very|so much|for (?:your|the) help",
        ask="(?:can|could|would|will) you|i want you to|i'd like you to|now|and now|ok|okay",
        form="(?:(?:a (?:bit|little)|much|even) )?(?:shorter|longer|simpler|briefer|more (?:briefly|concisely|concise|simply|formally|formal|detailed)|less formal)"
        "|(?:in|as|into|to) (?:a |an |one |two |three )?(?:few words|short|brief|sentences?|bullet points?|bullets|(?:bulleted |numbered )?list|table|paragraph"
        "|(?:simple|simpler|plain|other|different) (?:words|terms|language|english)|email|e-mail)"
        "|(?:in|into|to) (?:english|german|french|spanish|italian|portuguese|dutch|polish|russian|turkish|arabic|hindi|chinese|japanese|korean|ukrainian)"
        "|again|once more|briefly|for a (?:child|beginner|layman)",
        change="make|keep|write|say|put|phrase|format|explain",
        again="rephrase|reword|rewrite|summari[sz]e|shorten|simplify|translate|repeat|tl ?dr",
        answer="it|that|this|your (?:last |previous )?(?:answer|reply|response|message)|the (?:last |previous )?(?:answer|reply|response)|the above",
        please="please|pls",
        replies=(
            "You are welcome.",
            "Goodbye!",
            "Hello! Ask me about the documents.",
            "Ask whenever you want to know more.",
            "I quote the documents word for word: without a language model I cannot put an answer into another form.",
        ),
    ),
    _phrases(
        greeting="hallo|hi|hey|moin|servus|grüezi|grüß (?:gott|dich|sie)|guten (?:morgen|tag|abend)|wie geht es (?:dir|ihnen)|wie geht's",
        thanks="danke(?: (?:schön|sehr|dir|ihnen|vielmals))?|dankeschön|vielen (?:lieben )?dank(?: (?:dir|ihnen))?|besten dank|herzlichen dank|tausend dank",
        farewell="tschüss|tschüs|ciao|auf wiedersehen|bis (?:bald|später|morgen|dann)|schönen (?:tag|abend)(?: noch)?|gute nacht|das war(?:'s| es| alles)",
        acknowledgement="ok|okay|sehr gut|super|prima|toll|perfekt|klasse|alles klar|verstanden|verstehe|ach so|das hilft(?: mir)?(?: sehr)?",
        filler="zusammen|und|gut|sehr|für (?:die|deine|ihre) hilfe",
        ask="kannst du|können sie|könntest du|könnten sie|jetzt|und jetzt|nun",
        form="(?:(?:etwas|viel|noch|ein bisschen|ein wenig) )?(?:kürzer|länger|einfacher|knapper|förmlicher|ausführlicher|formeller)(?: fassen)?"
        "|(?:in|als|mit) (?:ein paar|einem|einer|zwei|drei|wenigen|anderen|einfachen|kurzen)? ?(?:sätzen|satz|worten|stichpunkten|stichworten|liste|tabelle|e-mail|aufzählung)"
        "|(?:auf|ins|in) (?:deutsch|deutsche|englisch|englische|französisch|französische|spanisch|spanische|italienisch|italienische)(?: (?:übersetzen|schreiben))?"
        "|noch ?einmal|nochmals?|noch mal|zusammen",
        change="mache?|fasse?|schreibe?|sage?|formuliere?|erkläre?",
        again="übersetze?|wiederhole?|kürze?|zusammenfassen|übersetzen|wiederholen|umformulieren",
        answer="es|das|dies|deine (?:letzte )?antwort|ihre (?:letzte )?antwort|die (?:letzte )?antwort|mir das",
        please="bitte",
        replies=(
            "Gern geschehen.",
            "Auf Wiedersehen!",
            "Hallo! Fragen Sie mich nach den Dokumenten.",
            "Fragen Sie gern weiter.",
            "Ich gebe die Dokumente wörtlich wieder: ohne Sprachmodell kann ich eine Antwort nicht umformulieren.",
        ),
    ),
    _phrases(
        greeting="bonjour|bonsoir|salut|coucou|comment (?:allez-vous|allez vous|ça va|vas-tu|vas tu)|ça va",
        thanks="merci(?: (?:beaucoup|bien|infiniment|à vous|à toi))?|mille mercis",
        farewell="au revoir|à bientôt|à plus(?: tard)?|à demain|bonne (?:journée|soirée|nuit)|c'est tout",
        acknowledgement="ok|d'accord|parfait|super|génial|très bien|compris|je vois|entendu|c'est (?:parfait|clair)",
        filler="à tous|et|bien|pour (?:votre|ton) aide",
        ask="(?:peux|pouvez|pourrais|pourriez)[ -](?:tu|vous)|maintenant|et maintenant",
        form="(?:(?:un peu|beaucoup|encore) )?(?:plus|moins) (?:court|long|simple|bref|formel|détaillé|simplement|brièvement)|(?:en|sous) (?:une |deux |trois |quelques )?(?:phrases?|mots"
        "|forme de liste|liste|points|tableau)|(?:en|vers l'|vers le )(?: )?(?:français|anglais|allemand|espagnol|italien)|encore une fois|à nouveau|brièvement",
        change="fais|faites|écris|écrivez|dis|dites|explique|expliquez",
        again="résume|résumez|résumer|reformule|reformulez|reformuler|traduis|traduisez|traduire|répète|répétez|répéter|raccourcis",
        answer="le|la|ça|cela|ceci|ta (?:dernière )?réponse|votre (?:dernière )?réponse|la (?:dernière )?réponse|moi ça",
        please="s'il (?:te|vous) plaît|s'il (?:te|vous) plait|svp|stp",
        replies=(
            "Je vous en prie.",
            "Au revoir !",
            "Bonjour ! Posez-moi une question sur les documents.",
            "N'hésitez pas à poser une autre question.",
            "Je cite les documents mot pour mot : sans modèle de langage, je ne peux pas reformuler une réponse.",
        ),
    ),
    _phrases(
        greeting="hola|buenos días|buenas(?: (?:tardes|noches))?|qué tal|saludos|cómo (?:estás|está|están)",
        thanks="gracias(?: (?:por (?:tu|su|la) ayuda|de nuevo))?|muchas gracias|muchísimas gracias|mil gracias",
        farewell="adiós|hasta (?:luego|pronto|mañana|la vista)|chao|nos vemos|que tenga(?:s)? (?:un )?buen día|eso es todo",
        acknowledgement="ok|vale|de acuerdo|perfecto|genial|muy bien|entendido|entiendo|claro|estupendo",
        filler="a todos|y|bien|por (?:tu|su|la) ayuda",
        ask="(?:puedes|puede|podrías|podría)(?: usted)?|ahora|y ahora",
        form="(?:(?:un poco|mucho|aún) )?(?:más|menos) (?:corto|corta|largo|larga|simple|sencillo|breve|formal|detallado|claro)|en (?:una |dos |tres |pocas |otras )?(?:frases?|palabras"
        "|lista|puntos|tabla)|(?:en|al) (?:español|inglés|alemán|francés|italiano|portugués)|otra vez|de nuevo|una vez más|brevemente",
        change="haz|haga|hazlo|hacerlo|escribe|escriba|di|explica|explícalo",
        again="resume|resuma|resumir|resúmelo|resumirlo|reformula|reformule|traduce|traduzca|traducir|tradúcelo|traducirlo|repite|repita|repetir|repítelo|repetirlo|acorta",
        answer="lo|la|eso|esto|tu (?:última )?respuesta|su (?:última )?respuesta|la (?:última )?respuesta",
        please="por favor",
        replies=(
            "De nada.",
            "¡Adiós!",
            "¡Hola! Pregúntame por los documentos.",
            "Pregunta lo que quieras saber.",
            "Cito los documentos palabra por palabra: sin un modelo de lenguaje no puedo dar otra forma a una respuesta.",
        ),
    ),
)
