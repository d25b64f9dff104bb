import pytest

from app.ingest.language import detect

TEXTS = {
    "arabic": "يدفع المستأجر الإيجار في اليوم الثالث من كل شهر.",
    "armenian": "Վարձակալը վարձը վճարում է ամեն ամսվա երրորդ օրը։",
    "danish": "Lejeren betaler huslejen den tredje dag i måneden, og det er ikke tilladt at betale efter denne dag.",
    "dutch": "De huurder betaalt de huur op de derde dag van de maand en het is niet toegestaan later te betalen.",
    "english": "The tenant pays the rent on the third day of each month.",
    "finnish": "Vuokralainen maksaa vuokran kuun kolmantena päivänä ja se on maksettava, mutta ei käteisellä.",
    "french": "Le locataire paie le loyer le troisième jour du mois, et la caution est rendue à la fin du bail.",
    "german": "Der Mieter zahlt die Miete am dritten Tag des Monats, und die Kaution wird mit dem Ende fällig.",
    "greek": "Ο ενοικιαστής πληρώνει το ενοίκιο την τρίτη ημέρα κάθε μήνα.",
    "hindi": "किरायेदार हर महीने के तीसरे दिन किराया देता है और यह अनुबंध में लिखा है।",
    "hungarian": "A bérlő a hónap harmadik napján fizeti meg a bérleti díjat, és ez nem csak az első hónapra szól.",
    "italian": "Il conduttore paga il canone il terzo giorno del mese e la cauzione è resa alla fine della locazione.",
    "norwegian": "Leietakeren betaler husleien den tredje dagen i måneden, og det er ikke mulig å betale etter denne.",
    "portuguese": "O inquilino paga a renda no terceiro dia do mês e a caução não é devolvida antes do fim.",
    "romanian": "Chiriașul plătește chiria în a treia zi a lunii și garanția nu este returnată la sfârșit.",
    "russian": "Арендатор платит за аренду на третий день месяца, и это не зависит от того, как он живёт.",
    "spanish": "El inquilino paga la renta el tercer día del mes y la fianza se devuelve al final del contrato.",
    "swedish": "Hyresgästen betalar hyran den tredje dagen i månaden och det är inte möjligt att betala efter det.",
    "tamil": "வாடகைதாரர் ஒவ்வொரு மாதமும் மூன்றாம் நாள் வாடகை செலுத்துகிறார்.",
    "turkish": "Kiracı her ayın üçüncü günü kirayı öder ve bu bir sözleşme için çok önemli olarak görülür.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_language_is_known_by_its_letters_and_its_most_frequent_words(language: str):
    assert detect(TEXTS[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "租客每月三日付房租。",
        "借主は毎月三日に家賃を支払います。",
        "ผู้เช่าจ่ายค่าเช่าทุกวันที่สามของเดือน",
        "세입자는 매달 셋째 날에 집세를 낸다.",
        "הדייר משלם את שכר הדירה ביום השלישי בכל חודש.",
        "مستأجر اجاره را در روز سوم هر ماه پرداخت می‌کند که در قرارداد آمده است.",
        "Наемателят плаща наема на третия ден от месеца и не може да се бави.",
        "Nájemce platí nájem třetí den v měsíci a kauce se vrací při skončení nájmu.",
    ],
)
def test_a_language_that_postgresql_has_no_endings_of_keeps_its_words_as_they_are(text: str):
    assert detect(text) == "simple"


@pytest.mark.parametrize("text", ["", "?!", "\0", "3.5 kW; 12 V", "A. B. Smith"])
def test_what_tells_no_language_is_taken_for_english(text: str):
    assert detect(text) == "english"


def test_a_long_text_is_told_by_its_beginning_its_middle_and_its_end():
    assert detect("The head of this page is not in its language.\n" + TEXTS["german"] * 5_000) == "german"
