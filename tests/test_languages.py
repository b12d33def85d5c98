"""The rule `sentence` in languages other than English. The texts were written for these tests; a piece is a step."""

from itertools import pairwise

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from kpod.steps import split_steps, unsplit
from kpod.steps.languages import _LANGUAGES, language_of, likely_ends
from kpod.steps.scripts import CLOSERS, STOPS

# Solutions of the kind that MGSM shows, in the languages of MGSM and others.
SOLUTIONS: dict[str, list[str]] = {
    "zh": ["小明一开始有5个球。", "2罐网球，每罐3个，就是6个网球。", "5 + 6 = 11。", "答案是11。"],
    "zh-ascii": ["小明一开始有5个球.", "2罐网球,每罐3个,就是6个网球.", "5 + 6 = 11.", "答案是11."],
    "zh-tw": ["小華有 12.5 元！", "他花了 3．5 元？", " 剩下 9 元。"],
    "ja": [
        "健は最初5個のボールを持っていました。",
        "3個入りの缶が2つで6個です。",
        "5 + 6 = 11です。",
        "答えは11です。",
    ],
    "ja-wide": ["はじめに５個あった．", "１個は３．５グラムである．", "全部で１７．５グラム．"],
    "ko": [
        "민수는 처음에 공 5개를 가지고 있었습니다.",
        " 3개들이 2통은 6개입니다.",
        " 5 + 6 = 11.",
        " 정답은 11입니다.",
    ],
    "ko-glued": ["공이 5개 있었다.", "그래서 3.5개를 더 샀다.", "모두 8.5개다."],
    "hi": ["राम के पास 5 गेंदें हैं।", " वह 3.5 किलो फल लाता है।", " 5 + 6 = 11।", " उत्तर 11 है।"],
    "hi-glued": ["राम के पास 5 गेंदें हैं।", "डॉ. शर्मा ने रु. 50 दिए।", "उत्तर 55 है।"],
    "mr": ["राजूकडे 5 चेंडू आहेत.", " तो 6 चेंडू आणतो.", " उत्तर 11 आहे."],
    "bn": ["রজারের কাছে প্রথমে 5টি বল ছিল।", " 3টি করে 2 ক্যানে 6টি বল।", " 5 + 6 = 11।", " উত্তর হল 11।"],
    "pa": ["ਰਾਮ ਕੋਲ 5 ਗੇਂਦਾਂ ਹਨ।", " ਉਹ 6 ਹੋਰ ਲੈਂਦਾ ਹੈ।", " ਜਵਾਬ 11 ਹੈ।"],
    "gu": ["રામ પાસે 5 દડા છે.", " તે રૂ. 50 આપે છે.", " જવાબ 11 છે."],
    "ta": ["ராமிடம் 5 பந்துகள் உள்ளன.", " அவர் 6 வாங்குகிறார்.", " பதில் 11."],
    "te": ["రోజర్ దగ్గర మొదట 5 బంతులు ఉన్నాయి.", " 3 బంతుల డబ్బాలు 2 అంటే 6 బంతులు.", " 5 + 6 = 11.", " సమాధానం 11."],
    "kn": ["ರಾಮನ ಬಳಿ 5 ಚೆಂಡುಗಳಿವೆ.", " ಅವನು 6 ತರುತ್ತಾನೆ.", " ಉತ್ತರ 11."],
    "ml": ["രാമന്റെ കൈവശം 5 പന്തുണ്ട്.", " അവൻ 6 വാങ്ങി.", " ഉത്തരം 11."],
    "si": ["රාම් ළඟ බෝල 5ක් ඇත.", " ඔහු තව 6ක් ගනී.", " පිළිතුර 11යි."],
    "th": [
        "สมชายมีลูกบอลอยู่แล้ว 5 ลูกในตอนเริ่มต้น",
        " ลูกเทนนิส 2 กระป๋อง กระป๋องละ 3 ลูก",
        " รวมเป็น 6 ลูก 5 + 6 = 11",
        " ดังนั้นเขามีทั้งหมด 11 ลูก",
        " คำตอบคือ 11",
    ],
    "th-lines": ["มีลูกบอล 5 ลูก", "\nซื้ออีก 6 ลูก", "\nคำตอบคือ 11"],
    "lo": ["ລາວມີໝາກບານ 5 ໜ່ວຍໃນຕອນເລີ່ມຕົ້ນ ແລະຊື້ອີກ 6 ໜ່ວຍ", " ດັ່ງນັ້ນລາວມີທັງໝົດ 11 ໜ່ວຍ"],
    "km": ["គាត់មានបាល់ 5។", " គាត់ទិញ 6 ទៀត។", "ចម្លើយគឺ 11។"],
    "my": ["သူ့မှာ ဘောလုံး ၅ လုံး ရှိသည်။", " ၆ လုံး ထပ်ဝယ်သည်။", "အဖြေမှာ ၁၁ ဖြစ်သည်။"],
    "bo": ["ཁོ་ལ་པོ་ལོ་༥་ཡོད།", " ཁོས་༦་ཉོས།", "ལན་༡༡་རེད།"],
    "ar": ["كان لدى سامي 5 كرات.", " كم عددها الآن؟", " علبتان في كل منهما 3 كرات هي 6.", " الجواب هو 11."],
    "fa": ["علی ۵ توپ دارد.", " او ۶ توپ دیگر می‌خرد.", " آیا کافی است؟", " پاسخ ۱۱ است."],
    "ur": ["علی کے پاس 5 گیندیں ہیں۔", " وہ 3.5 کلو پھل لاتا ہے۔", "جواب 11 ہے۔"],
    "he": ["לדני יש 5 כדורים.", " הוא קונה עוד 6.", " התשובה היא 11."],
    "am": ["አበበ 5 ኳሶች አሉት።", " 6 ተጨማሪ ይገዛል፡፡", "ስንት አለው፧", " መልሱ 11 ነው።"],
    "hy": ["Արամն ունի 5 գնդակ։", " Նա գնում է ևս 6։", " Պատասխանը 11 է:"],
    "ka": ["გიორგის აქვს 5 ბურთი.", " ის ყიდულობს კიდევ 6-ს.", " პასუხია 11."],
    "el": ["Ο Νίκος έχει 5 μπάλες.", " Πόσες αγοράζει;", " Αγοράζει 3,5 κ.λπ. και 6 ακόμη.", " Η απάντηση είναι 11."],
    "ru": ["У Ромы было 5 мячей, т. е. мало.", " Он купил 6 за 30 руб.", " Всего 5 + 6 = 11.", " Ответ: 11."],
    "ru-abbreviations": [
        "По ул. Ленина он прошёл 3,5 км и т. д.",
        " Потом он купил яблоки, груши и др.",
        " Итого 11 кг.",
        " Ответ 11.",
    ],
    "uk": ["У Романа було 5 м'ячів, т. зв. тенісних.", " Він купив ще 6.", " Відповідь: 11."],
    "bg": ["Иван има 5 топки, т.е. малко.", " Той купува още 6.", " Отговорът е 11."],
    "de": [
        "Roger hat zu Beginn 5 Bälle.",
        " 2 Dosen mit je 3 Bällen sind 6 Bälle.",
        " 5 + 6 = 11.",
        " Die Antwort ist 11.",
    ],
    "de-abbreviations": [
        "Er kauft z. B. Äpfel, d. h. Obst für 3,50 €.",
        " Am 3. Tag zahlt er ca. 1.234,50 € inkl. Steuern.",
        " Das sind 5 * 3 = 15.",
        " Frau Dr. Müller bekommt am 1. Mai bzw. am 2. Juni 5 kg.",
        " Dann bleiben 4 usw.",
        " Also sind es 8.",
    ],
    "de-quotes": ["Anna sagt: „Ich habe 5.“", " Dann kauft sie 3.", " Es sind 8."],
    "fr": [
        "Roger a 5 balles au départ.",
        " 2 boîtes de 3 balles font 6 balles.",
        " 5 + 6 = 11.",
        " La réponse est 11.",
    ],
    "fr-abbreviations": [
        "M. Dupont achète p. ex. des pommes, c.-à-d. des fruits à 3,50 €.",
        " Mme Blanc et Mme. Noir en ont 2 !",
        " Combien en reste-t-il ?",
        " Il dit : « Il y en a 8. »",
        " Donc la réponse est 8.",
    ],
    "es": ["Roger comienza con 5 pelotas.", " 2 botes de 3 son 6 pelotas.", " 5 + 6 = 11.", " La respuesta es 11."],
    "es-abbreviations": [
        "La Sra. López compra frutas, p. ej. manzanas, por 3,50 €.",
        " ¿Cuántas tiene?",
        " El Sr. Ruiz tiene 3,5 kg.",
        " Son aprox. 8.",
        " ¡La respuesta es 8!",
    ],
    "pt": ["A Sra. Lima tem 5 bolas, p. ex. azuis.", " Ela compra mais 6 por R$ 3,50.", " A resposta é 11."],
    "it": ["Il sig. Rossi ha 5 palle, ad es. rosse.", " Ne compra altre 6 ecc.", " La risposta è 11."],
    "nl": ["Dhr. Jansen heeft 5 ballen, bijv. rode.", " Hij koopt er ca. 6 voor € 3,50.", " Het antwoord is 11."],
    "pl": ["Pan Jan ma 5 piłek, np. czerwone.", " Kupuje jeszcze 6 za 3,50 zł.", " Odpowiedź to 11."],
    "sv": ["Erik har 5 bollar, t.ex. röda.", " Han köper 6 till för ca. 30 kr.", " Svaret är 11."],
    "tr": ["Ali'nin 5 topu var.", " Dr. Kaya ona 6 top verir.", " Toplam 11 top olur.", " Cevap 11."],
    "sw": ["Roger ana mipira 5.", " Makopo 2 ya mipira 3 ni mipira 6.", " 5 + 6 = 11.", " Jibu ni 11."],
    "id": ["Budi memiliki 5 bola dan uang Rp. 5000.", " Dia membeli 6 bola lagi.", " Jadi jawabannya adalah 11."],
    "vi": ["Ban đầu Nam có 5 quả bóng.", " Nam mua thêm 6 quả.", " Đáp án là 11."],
}

# What a stop, a quotation or a list mark does, whatever the language.
FORMS: dict[str, list[str]] = {
    "digits around a stop": ["价格是3．5元，重量是3。5公斤。", "所以一共7元。"],
    "a stop between two sums": ["一半就是除以 2。", "80 / 2 = 40。", "40 * 2 = 80。", "6+6=12。"],
    "closing quotes and brackets stay": ["他说：“我有5个。”", "她有（也许）3个（真的！）", "一共8个。"],
    "a quotation of two sentences": ["老师说：「你有5个。他有3个。」", "所以一共8个。"],
    "a quotation goes on": ["「答えは5です。」と言った。", "それは正しい。"],
    "who said it": ["“一共有几个？”他问。", "“8个。”小明说。"],
    "several marks in a row": ["真的吗？！", "是的！！", "好。"],
    "a numbered list without line breaks": ["1. 他有5个。", "2. 他吃2个。", "3．剩下3个。"],
    "steps without line breaks": ["第一步：5 + 6 = 11", "第二步：11 - 3 = 8"],
    "a label alone on a line": ["解：\n他有5个。", "\n答：\n一共8个。"],
    "a step's name alone on a line": ["Schritt 1:\nEr hat 5 Äpfel und isst 2.", "\nSchritt 2:\nEs sind noch 3."],
    "half width and full width": ["ﾊﾟﾝが5個｡", "3個食べた｡", "残り2個｡"],
    "maths stays whole": ["设 \\(x。y\\) 为5。", "则：\n\\[x = 3。所以\\]", "答案是8。"],
    "a typed danda": ["राम के पास 5 हैं|", " उत्तर 5 है|"],
    "no comma starts a step": ["他有5个。，然后3个。", "一共8个。"],
    "spaces behind the stop": ["他有5个。", "　 他有3个。", " \n一共8个。"],
    "mixed with English": ["He says 你好。", " Then he pays $3.50.", " 完了。"],
}


def steps(text: str) -> list[str]:
    return [text[start:stop] for start, stop in split_steps(text)]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_is_cut_where_its_sentences_end(name: str):
    assert steps("".join(SOLUTIONS[name])) == SOLUTIONS[name]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_cut_where_a_reader_would_cut_it(name: str):
    assert steps("".join(FORMS[name])) == FORMS[name]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_language_is_told_by_its_script_or_its_words(name: str):
    told = {"zh": "en", "ko": "en", "mr": "hi", "si": "en", "th": "en", "lo": "en", "km": "en", "bo": "en"}
    told |= {"fa": "ar", "ur": "ar", "he": "en", "ka": "en", "vi": "en"}
    code = name.partition("-")[0]
    found = language_of("".join(SOLUTIONS[name]))
    assert found == told.get(code, code)


ENGLISH = ["a = 3, e = 4, y = 5, o = 6, de = 7", "Die is cast 5 times.", "El Paso", "5 + 6 = 11", "", "Total: 5 et al."]


@pytest.mark.parametrize("text", ENGLISH)
def test_few_words_of_another_language_leave_a_text_english(text: str):
    assert language_of(text) == "en"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("他有五个苹果然后又买了三个" * 5, True),
        ("他有五个苹果然后又买了三个" * 5 + "。他吃了两个", False),
        ("他有五个苹果", False),
        ("គាត់មានបាល់ប្រាំហើយគាត់ទិញប្រាំមួយទៀត" * 6, True),
        ("គាត់មានបាល់ប្រាំហើយគាត់ទិញប្រាំមួយទៀត" * 6 + "\nចម្លើយ", False),
        ("у него пять яблок и три груши " * 6, True),
        ("a long text in English without a single stop " * 9, False),
        ("une très longue phrase sans le moindre point à la fin " * 9, False),
        ("答案是 " + "forty two and three more " * 9, False),
        ("", False),
        (" \u3000", False),
        ("\ud83d" * 200, False),
    ],
)
def test_a_long_text_of_one_step_is_told_in_a_foreign_script(text: str, told: bool):
    assert unsplit(text) is told


NASTY = (
    "ab A1 25.,:;!?…\"'()[]{}<>*_-=+/$%#\\`\n\t\u00a0\u200b😀日本។กขआகାا日ʼ٣５½«»„“”‚‘「」『』（）|·\u0301\x00\ud83d"
    + STOPS
)
ANY_TEXT = st.one_of(
    st.text(NASTY, max_size=40),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=40),
    st.lists(st.sampled_from(["z. B.", "Am 3. Tag", "т. е.", "डॉ.", "第一步：", "答:", "und", "der", "日。"])).map(
        "".join
    ),
)


@given(ANY_TEXT, st.sampled_from(["sentence", "line", "period"]))
def test_steps_of_any_string_tile_it_and_none_is_blank(text: str, rule: str):
    unsplit(text)
    if text.strip():
        spans = split_steps(text, rule)
        assert [0, *(stop for _, stop in spans)] == [*(start for start, _ in spans), len(text)]
        assert all(text[start:stop].strip() for start, stop in spans)


@given(ANY_TEXT, st.sampled_from(sorted(_LANGUAGES)))
def test_the_models_of_all_languages_read_any_string(text: str, language: str):
    assert all(0 <= end <= len(text) for end in likely_ends(text, language))


@given(st.text("日本5aक", min_size=1, max_size=9), st.sampled_from(STOPS), st.text("本क", min_size=1, max_size=9))
def test_every_stop_ends_a_step_with_or_without_a_space(before: str, stop: str, after: str):
    for gap in ("", " ", "\n"):
        assert steps(f"本{before}{stop}{gap}{after}") == [f"本{before}{stop}", f"{gap}{after}"]


@given(st.sampled_from("।。．"), st.integers(0, 999), st.integers(0, 999), st.sampled_from(CLOSERS))
def test_a_number_is_never_cut_and_a_closing_quote_never_left_behind(stop: str, one: int, other: int, closer: str):
    assert steps(f"他有{one}{stop}{other}个") == [f"他有{one}{stop}{other}个"]
    assert steps(f"他有{one}{stop}{closer}本{other}个") == [f"他有{one}{stop}{closer}", f"本{other}个"]


HOSTILE = [
    "日。",
    "日",
    "日.",
    "「",
    "「日」",
    "“日。",
    "（。）",
    "ก ",
    " ",
    "。 ,",
    "„",
    "„a“",
    "»",
    "| ",
    "z. B. ",
    "т. е. ",
    "Der 3. T",
]
HOSTILE += ["第一步：", "Α; ", "é. ", "A．", "\ud83d。", "é\n", "步骤 1："]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_long_text_of_any_script_is_split_in_one_go(unit: str):
    text = "é" + unit * (10_000 // len(unit)) + "x"
    spans = split_steps(text)
    assert spans[-1][1] == len(text)
    assert all(one[1] == other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize("unit", ["日。", "日", "A b. ", "„", "z. B. ", "é "])
def test_sentencex_reads_a_long_line_in_windows_that_are_hardly_longer_than_it(unit: str, monkeypatch):
    """It counts characters from the start of what it is given at every mark: of a whole line that is quadratic."""
    lengths: list[int] = []
    read = sentencex.get_sentence_boundaries
    monkeypatch.setattr(
        sentencex, "get_sentence_boundaries", lambda code, text: lengths.append(len(text)) or read(code, text)
    )
    text = unit * (40_000 // len(unit))
    ends = likely_ends(text, "en")
    assert ends[-1] == len(text)
    assert sum(lengths) <= 4 * len(text)
    if len(ends) > 1:
        assert max(lengths) <= 4096


def test_a_long_line_is_read_in_windows_as_if_it_were_short():
    sentence = "Er kauft z. B. Äpfel für 3,50 €. Am 3. Tag „isst“ er 5 kg. "
    num = 12_000 // len(sentence)
    assert len(steps(sentence * num)) == 2 * num
    assert likely_ends("日。" * 5_000, "ja") == list(range(2, 10_001, 2))
