"""PDFs are read as a person would: columns in their order, tables as records, running lines once."""

import re
from collections.abc import Sequence

import pytest

from app.ingest.readers import Allowance
from app.ingest.readers import pdf as portable
from tests.ingest.ingest_files import pdf, pdf_objects, stream

LIMIT = Allowance(10_000_000)

RIVER = (
    "the river rises in the hills",
    "and runs for many miles down",
    "to the sea where the harbour",
    "was built in the last century",
    "by people who came from far",
    "away to trade in cloth and tin",
)
BOATS = (
    "under the bridge the boats lay",
    "still until the morning tide",
    "took them out again to fish",
    "for herring and for mackerel",
    "which were smoked and salted",
    "and eaten in the long winter",
)
MARKET = (
    "while in the town the market",
    "went on as it always had been",
    "with carts of apples and corn",
    "that were sold before the noon",
    "and the evening brought songs",
    "to the taverns near the bridge",
)
SALES = (
    ("Region", "2022", "2023"),
    ("North", "1,204", "1,310"),
    ("South", "980", "n/a"),
    ("West", "77", "81"),
)
RECORDS = [
    "Region: North; 2022: 1,204; 2023: 1,310",
    "Region: South; 2022: 980; 2023: n/a",
    "Region: West; 2022: 77; 2023: 81",
]

Text = tuple[int, int, str]


def drawn(*texts: Text) -> bytes:
    """Each text at its place, in the order given."""
    shown = "".join(f"1 0 0 1 {x} {y} Tm ({text}) Tj\n" for x, y, text in texts)
    return f"BT /F1 10 Tf {shown}ET\n".encode("latin-1")


def across(*columns: Sequence[str], top: int = 700) -> list[Text]:
    """Columns that are drawn line by line over all of them."""
    lines = enumerate(zip(*columns, strict=True))
    return [(40 + 185 * side, top - 14 * row, text) for row, line in lines for side, text in enumerate(line)]


def cells(rows: Sequence[Sequence[str]], *, top: int = 700, pitch: int = 20) -> list[Text]:
    return [
        (76 + 110 * column, top - pitch * row, text)
        for row, texts in enumerate(rows)
        for column, text in enumerate(texts)
        if text
    ]


def line(x: int, y: int, to_x: int, to_y: int) -> bytes:
    return b"%d %d m %d %d l S\n" % (x, y, to_x, to_y)


def ruled(rows: int, columns: int, *, top: int = 714) -> bytes:
    """The rules around the cells."""
    right, bottom = 72 + 110 * columns, top - 20 * rows
    return b"".join(
        [line(72, top - 20 * row, right, top - 20 * row) for row in range(rows + 1)]
        + [line(72 + 110 * column, top, 72 + 110 * column, bottom) for column in range(columns + 1)]
    )


def text_of(*pages: bytes) -> str:
    return portable.read(pdf(pages), LIMIT).text


def paragraphs(*pages: bytes) -> list[str]:
    return text_of(*pages).split("\n\n")


def test_columns_drawn_line_by_line_are_read_one_after_the_other():
    over, under = (
        "A heading that stands over all columns, from left to right",
        "And a line below them all, as wide",
    )
    wide = [(40, 740, over * 2), (40, 580, under * 3)]

    two = text_of(drawn(wide[0], *across(RIVER, MARKET), wide[1]))
    three = text_of(drawn(*across(RIVER, BOATS, MARKET)))

    assert two.splitlines() == [over * 2, *RIVER, *MARKET, under * 3]
    assert three.splitlines() == [*RIVER, *BOATS, *MARKET]


def test_a_word_broken_at_the_end_of_a_column_is_whole():
    broken = ("the river rises in the moun-", "tains " + RIVER[1], *RIVER[2:])

    assert "the mountains and runs" in text_of(drawn(*across(broken, MARKET)))


def test_what_stands_apart_under_a_column_is_no_part_of_it():
    text = text_of(
        drawn((40, 760, "Left"), (225, 760, "Right"), *across(RIVER, MARKET), (40, 540, "The end"))
    )

    assert text.splitlines() == ["Left Right", *RIVER, *MARKET, "The end"]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(
            [*across(RIVER), *[(225, y, text) for _, y, text in across(MARKET)]], id="columns in order"
        ),
        pytest.param(across([f"{number}." for number in range(6)], RIVER), id="numbered list"),
        pytest.param(
            across(
                [f"Statement of work {n}" for n in range(6)], [f"To be delivered by {n}" for n in range(6)]
            ),
            id="rows of long cells",
        ),
        pytest.param(
            [
                (x, 700 - 20 * n, f"{n} of all that was agreed between both of us")
                for n in range(4)
                for x in (40, 320)
            ],
            id="rows of longer cells",
        ),
        pytest.param(
            [
                (72, 700, "Anna Smith"),
                (400, 700, "Tel 555 123"),
                (72, 686, "12 High Street"),
                (400, 686, "Fax 555 124"),
            ],
            id="letterhead",
        ),
        pytest.param(
            across(["Introduction", "Rivers", "Harbours", "Index"], ["1", "5", "12", "40"]), id="contents"
        ),
        pytest.param(
            [
                text
                for text in across(["Item", "North", "South"], ["Sold", "5", "7"], ["", "8", "9"])
                if text[2]
            ],
            id="column without a name",
        ),
    ],
)
def test_what_is_no_clear_column_or_table_stays_as_it_was_drawn(texts: list[Text]):
    alone = text_of(drawn(*texts))
    beside_a_table = text_of(drawn(*texts, *cells(SALES, top=300)) + ruled(4, 3, top=314))

    assert alone.split() == " ".join(text for _, _, text in texts).split()
    assert not {"|", ";"} & set(alone)
    assert beside_a_table.split() == " ".join([alone, *RECORDS]).split()


def test_the_labels_of_a_chart_stay_as_they_were_drawn():
    head = [
        (72, 760, "Report"),
        (300, 760, "2024"),
        (72, 740, "The boats and the carts of each of the regions by year"),
    ]
    axes = [(72, 540 - 20 * row, text) for row, text in enumerate(("Boats", "50", "40", "30"))]
    axes += [(300, 540 - 20 * row, text) for row, text in enumerate(("Carts", "90", "80", "70"))]

    shown = text_of(drawn(*head, *cells(SALES), *axes) + ruled(4, 3))

    assert shown.split("\n\n")[-1].splitlines() == [text for _, _, text in axes]


@pytest.mark.parametrize("order", ["by rows", "by columns", "upwards"])
def test_a_ruled_table_is_records_however_it_was_drawn(order: str):
    texts = cells(SALES)
    if order == "by columns":
        texts.sort(key=lambda text: text[0])
    elif order == "upwards":
        texts.reverse()

    assert paragraphs(drawn(*texts) + ruled(4, 3)) == RECORDS


def test_a_cell_of_several_lines_is_one_value():
    texts = [*cells(SALES[:3]), (296, 665, "to be"), (296, 656, "counted")]
    texts = [text for text in texts if text[2] != "n/a"]

    assert paragraphs(drawn((76, 740, "Sales"), *texts) + ruled(3, 3)) == [
        "Sales",
        RECORDS[0],
        "Region: South; 2022: 980; 2023: to be counted",
    ]


def test_a_table_of_words_has_a_header_where_it_looks_different():
    rows = [("Short", "Long"), ("EU", "European Union"), ("UN", "United Nations")]
    coloured = (
        drawn((76, 740, "Some names"))
        + b"1 0 0 rg "
        + drawn(*cells(rows[:1]))
        + b"0 g "
        + drawn(*cells(rows[1:], top=680))
    )

    assert paragraphs(coloured + ruled(3, 2)) == [
        "Some names",
        "Short: EU; Long: European Union",
        "Short: UN; Long: United Nations",
    ]
    assert paragraphs(drawn(*cells(rows)) + ruled(3, 2)) == [
        "Short | Long",
        "EU | European Union",
        "UN | United Nations",
    ]


def test_a_second_header_within_a_table_names_what_is_under_it():
    rows = [("Cats", "2022"), ("Tom", "1"), ("Felix", "2"), ("Dogs", "2023"), ("Rex", "3")]
    styled = [
        (b"1 0 0 rg " if len(row[1]) == 4 else b"0 g ") + drawn(*cells([row], top=700 - 20 * n))
        for n, row in enumerate(rows)
    ]

    assert paragraphs(b"".join(styled) + ruled(5, 2))[-2:] == ["Cats: Felix; 2022: 2", "Dogs: Rex; 2023: 3"]


def test_a_form_keeps_each_value_beside_its_label():
    rows = [("Age:", "46", "Seat:", "Left"), ("Rating:", "None", "Restraint:", ""), ("Hours:", "110", "", "")]

    assert paragraphs(drawn(*cells(rows)) + ruled(3, 4)) == [
        "Age: 46; Seat: Left",
        "Rating: None; Restraint:",
        "Hours: 110",
    ]


def test_a_cell_that_goes_over_several_columns_stays_whole():
    texts = [
        *cells(SALES),
        (76, 620, "counted at the end of each of the years"),
        (76, 609, "by the board itself"),
    ]
    rules = ruled(4, 3) + b"".join([line(x, 634, x, 600) for x in (72, 402)]) + line(72, 600, 402, 600)

    assert paragraphs(drawn(*texts) + rules) == [
        *RECORDS,
        "counted at the end of each of the years by the board itself",
    ]


def test_a_table_whose_rows_are_not_clear_stays_as_it_was_drawn():
    rows = [("EU", "European Union"), ("UN", "United Nations"), ("AU", "African Union")]
    whole = drawn(*cells(rows)) + ruled(3, 2)
    half = whole.replace(line(72, 674, 292, 674), line(182, 674, 292, 674))

    assert " | " in text_of(whole)
    assert text_of(half).split("\n") == [" ".join(row) for row in rows]


def test_underlined_words_make_no_rows():
    assert paragraphs(drawn(*cells(SALES)) + ruled(4, 3) + line(76, 682, 100, 682)) == RECORDS


def test_rectangles_are_rules_and_curves_are_not():
    boxes = b"".join(
        b"%d %d 110 20 re f\n" % (72 + 110 * column, 694 - 20 * row)
        for row in range(4)
        for column in range(3)
    )
    curves = b"200 700 m 250 650 300 650 350 700 c S 0.5 g 72 694 m 300 694 320 600 72 600 c f 5 5 5 5 re f\n"

    assert paragraphs(b"q 0.9 g " + boxes + curves + b"Q " + drawn(*cells(SALES))) == RECORDS


def test_rules_that_are_one_path_make_a_table():
    assert paragraphs(drawn(*cells(SALES)) + ruled(4, 3).replace(b" S\n", b"\n") + b"S") == RECORDS


def test_each_of_two_tables_on_a_page_has_its_own_names():
    boats = [("Boat", "2024"), ("Anna", "3"), ("Vera", "5")]
    texts = [*cells(SALES), (76, 580, "And the boats"), *cells(boats, top=500)]

    assert paragraphs(drawn(*texts) + ruled(4, 3) + ruled(3, 2, top=514)) == [
        *RECORDS,
        "And the boats",
        "Boat: Anna; 2024: 3",
        "Boat: Vera; 2024: 5",
    ]


def test_what_stands_beside_the_rows_of_a_table_is_not_taken_apart():
    rows = [("EU", "European Union"), ("UN", "United Nations")]
    shown = text_of(drawn(*cells(rows), (300, 680, "beside")) + ruled(2, 2))

    assert shown.split() == "EU European Union UN United Nations beside".split()


def test_boxes_around_one_column_are_no_table():
    rows = [("Harbour", "", ""), ("Market", "", ""), ("Bridge", "", "")]

    assert text_of(drawn(*cells(rows)) + ruled(3, 3)) == "Harbour\nMarket\nBridge"


@pytest.mark.parametrize("first", [("Loss", "n/a", "n/a"), ("Loss", "none", "yes"), ("Loss", "", "")])
def test_a_row_of_no_names_is_no_header(first: tuple[str, str, str]):
    rows = [first, ("Gain", "5", "6"), ("Debt", "7", "8")]

    assert paragraphs(drawn(*cells(rows)) + ruled(3, 3))[-1] == "Debt | 7 | 8"
    assert text_of(drawn(*cells(rows, pitch=14))).split()[-3:] == ["Debt", "7", "8"]


def test_numbers_under_names_are_records_also_without_rules():
    text = "The sales of the regions are in this table, of which there is more to say below it."

    assert paragraphs(drawn((76, 740, text), *cells(SALES, pitch=14), (76, 630, text))) == [
        text,
        *RECORDS,
        text,
    ]


def test_a_number_stays_in_its_row_where_labels_break_and_stand_alone():
    rows = [
        ("", "2012", "2011"),
        ("Revenue from", "", ""),
        ("operations", "$     1,000", "$       900"),
        ("Assets", "", ""),
        ("Ships", "\\(500\\)", "\\(450\\)"),
        ("", "1,500", "1,350"),
        ("Notes", "", ""),
    ]

    assert paragraphs(drawn(*cells(rows, pitch=14))) == [
        "Revenue from operations; 2012: $ 1,000; 2011: $ 900",
        "Assets",
        "Ships; 2012: (500); 2011: (450)",
        "1,500 | 1,350",
        "Notes",
    ]


def test_a_table_goes_on_on_the_next_page_under_its_names():
    towns = [(f"Town {number}", f"{100 + number}", f"{200 + number}") for number in range(6)]
    head, foot = (76, 760, "Report of the board"), (300, 30, "Page 1")
    first = drawn(head, *cells([SALES[0], *towns[:3]]), foot) + ruled(4, 3)
    second = drawn(head, *cells(towns[3:]), foot) + ruled(3, 3)
    bare = [drawn(*cells([SALES[0], *towns[:3]])), drawn(*cells(towns[3:]))]
    between = drawn((76, 740, "And now for towns of another kind"), *cells(towns[3:])) + ruled(3, 3)

    assert "Region: Town 4; 2022: 104; 2023: 204" in text_of(first, second)
    assert "Region: Town 4; 2022: 104; 2023: 204" in text_of(*bare)
    assert "Town 4 | 104 | 204" in text_of(first, between)


def test_running_lines_are_in_the_text_once_and_pages_stay_exact():
    pages = [
        drawn(
            (72, 760, "Report of the board"),
            (72, 600, f"Of the year {year} much is told."),
            (300, 30, f"- {n} -"),
        )
        for n, year in enumerate(range(2001, 2007), 1)
    ]

    reading = portable.read(pdf(pages, labels=b"0<</S/r>>"), LIMIT)

    assert [(label, reading.text[start:end]) for label, start, end in reading.pages] == [
        ("i", "Report of the board\nOf the year 2001 much is told.\n- 1 -"),
        *[
            (label, f"Of the year {year} much is told.")
            for label, year in zip(("ii", "iii", "iv", "v", "vi"), range(2002, 2007), strict=True)
        ],
    ]
    assert text_of(*pages[:4]).count("Report of the board") == 4


def test_what_is_repeated_elsewhere_or_is_all_of_a_page_stays():
    pages = [drawn((72, 600, "Same here"), (72, 400, f"Page of {n}")) for n in range(6)]

    assert text_of(*pages).count("Same here") == 6
    assert re.findall(r"\d", text_of(*[drawn((72, 760, f"Number {n}")) for n in range(6)])) == list("012345")


def test_sloping_text_is_no_part_of_columns():
    draft = b"BT /F1 40 Tf 0.7 0.7 -0.7 0.7 150 300 Tm (DRAFT) Tj ET "
    upwards = b"BT /F1 9 Tf 0 1 -1 0 30 300 Tm (in the margin) Tj ET "

    assert text_of(draft + drawn(*across(RIVER, MARKET)) + upwards).splitlines() == [
        "DRAFT",
        *RIVER,
        *MARKET,
        "in the margin",
    ]


def test_text_from_right_to_left_stays_as_it_was_drawn():
    to_hebrew = b"begincmap 1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfrange <61> <7a> <05d0> endbfrange endcmap"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>"
    content = drawn(*cells([(line, line) for line in RIVER])) + ruled(6, 2)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        page,
        stream(content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>",
        stream(to_hebrew),
    ]

    lines = portable.read(pdf_objects(objects), LIMIT).text.splitlines()

    assert not any("|" in line for line in lines)
    assert all(letter >= "\u05d0" for letter in "".join(lines[0].split()))


@pytest.mark.parametrize(
    "more",
    [b"1 1 m 9 9 l S " * 20_001, b"1 1 m " + b"9 9 l 1 1 l " * 10_001 + b"S ", b"9 9 90 90 re S " * 2_600],
    ids=["objects", "points", "rules"],
)
def test_the_rules_of_a_drawing_are_not_looked_at(more: bytes):
    rows = [("EU", "European Union"), ("UN", "United Nations"), ("AU", "African Union")]

    assert " | " in text_of(drawn(*cells(rows)) + ruled(3, 2))
    assert " | " not in text_of(more + drawn(*cells(rows)) + ruled(3, 2))


@pytest.mark.parametrize("times", [4, 16], ids=["words", "characters"])
def test_a_page_of_very_much_stays_as_it_was_drawn(times: int):
    more = [(40, 560 - 20 * row, f"a{row} b " * 3_000) for row in range(times)]
    rest = drawn(*across(RIVER, MARKET), *more) + ruled(28, 2)

    assert text_of(rest).split()[:11] == f"{RIVER[0]} {MARKET[0]}".split()[:11]
