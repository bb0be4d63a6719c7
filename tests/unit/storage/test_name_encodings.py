"""Names of classes as people have them, in the code pages of their systems, come out right, many files or few."""
# ruff: noqa: RUF001 (letters of other alphabets are meant)

import unicodedata

import pytest

from kfp_vision.storage.name_encodings import Decision, UnknownEncoding, find_encoding, is_valid

CLASSES = {
    "gbk": [
        "玫瑰 郁金香", "猫 狗", "雏菊 蒲公英 玫瑰 向日葵 郁金香", "苹果 香蕉 橙子", "正常 异常", "合格 不合格",
        "良品 不良品", "训练集 测试集", "可回收物 有害垃圾 厨余垃圾 其他垃圾", "健康 早疫病 晚疫病", "划痕 凹坑 裂纹",
        "百合 牡丹", "新建文件夹", "cat猫 dog狗", "01_玫瑰 02_百合", "肺炎 正常", "佩戴口罩 未佩戴口罩",
    ],
    "big5": [
        "玫瑰 鬱金香", "貓 狗", "雛菊 蒲公英 玫瑰 向日葵 鬱金香", "蘋果 香蕉 橘子", "正常 異常", "合格 不合格",
        "良品 不良品", "老虎 獅子", "草莓 西瓜", "新增資料夾", "戴口罩 未戴口罩",
    ],
    "cp932": [
        "バラ チューリップ 表示", "猫 犬", "いぬ ねこ", "薔薇 向日葵", "正常 異常", "良品 不良品",
        "りんご みかん バナナ", "桜 梅", "合格 不合格", "傷 汚れ 欠け", "01_バラ 02_ユリ", "キズ ヨゴレ",
        "晴れ 曇り 雨",
    ],
    "cp949": [
        "장미 튤립", "고양이 개", "사과 바나나 오렌지", "정상 불량", "민들레 데이지 장미 해바라기 튤립", "남자 여자",
        "양품 불량품", "한식 중식 일식", "01_장미 02_백합", "호랑이 사자 코끼리", "마스크착용 미착용", "폐렴 정상",
    ],
    "cp866": [
        "роза тюльпан", "Розы Тюльпаны", "кошка собака", "норма брак", "РОЗА ТЮЛЬПАН", "белая_роза Красная_роза",
        "собака cat", "ель дуб", "пневмония норма",
    ],
    "cp1251": [
        "роза тюльпан", "Розы Тюльпаны", "кошка собака", "норма брак", "РОЗА ТЮЛЬПАН", "белая_роза Красная_роза",
        "собака cat", "ель дуб", "кіт пес їжак", "куче котка", "мачка пас",
    ],
    "cp437": [
        "Gänseblümchen Tulpe Löwenzahn", "Äpfel Birnen", "chêne érable hêtre", "niño niña", "Käfer Vögel Bär",
        "défaut correct",
    ],
    "cp850": [
        "Árbol flor", "maçã pão limão", "Øl Brød", "jordbær rødgrød", "cão gato",
    ],
    "cp1252": [
        "Gänseblümchen Tulpe Löwenzahn", "Äpfel Birnen", "chêne érable hêtre", "niño niña", "Käfer Vögel Bär",
        "pâquerette tulipe œillet", "cão gato", "Hund Kätzchen",
    ],
    "cp1250": [
        "róża tulipan źdźbło",
    ],
    "koi8-r": [
        "роза тюльпан", "кошка собака",
    ],
    "euc-jp": [
        "バラ チューリップ",
    ],
    "cp1253": [
        "τριαντάφυλλο τουλίπα",
    ],
    "cp862": [
        "חתול כלב",
    ],
    "cp1256": [
        "وردة توليب",
    ],
}  # fmt: skip
# Names that are valid UTF-8 as well, by chance.
VALID_IN_UTF8 = {
    "gbk": ["猫", "猫 牛", "牛 鸭", "图片", "木 水", "叶 木", "莓", "千 全 斯", "苹 叶", "应转", "猫 牛 鸭 狗 鸟"],
    "cp866": ["рак", "сом рак", "сад"],
}
IN_UTF8 = (
    "玫瑰 郁金香 猫 牛 正常|貓 蘋果 鬱金香|バラ いぬ 猫 キズ|장미 개 사과|роза кот пёс рак я|їжак кіт|әже қоян құс|"
    "куче котка|мачка њушка|گربه\u200cها|❤️\u200d🔥|γάτα ρόδο Αθήνα|חתול כלב|"
    "وردة قط كلب|گربه گل پسته|แมว หมา|गुलाब कुत्ता|গোলাপ|பூனை|పిల్లి|ಬೆಕ್ಕು|പൂച്ച|બિલાડી|ਬਿੱਲੀ|"
    "පූසා|ကြောင်|ឆ្មា|ແມວ|კატა ვარდი|կատու շուն|ድመት|été chêne œillet|Äpfel Öl Bär|niño árbol año|maçã pão É|città|"
    "róża źdźbło łoś|růže ťapka kůň|őz fű ló|măr țăruș|gül çiçek ışık|öl ål älg|æble øl|þorskur æður|hồng chó ổi ớt đào|"
    "ət gül|āboli ķirsis|ąžuolas|ħobż|ĉevalo|ọ̀pẹ|māo nǚ|🌹 🐱cat|cat™ 10°C “rose” ½ µm ±5% α-Fe|абвгд"
)
CASES = [(encoding, labels) for encoding, groups in CLASSES.items() for labels in groups]


def paths(labels: str, each: int) -> list[str]:
    return [f"photos/{label}/IMG ({number}).jpg" for label in labels.split() for number in range(each)]


@pytest.mark.parametrize("each", [1, 40])
@pytest.mark.parametrize("encoding, labels", CASES)
def test_names_in_a_code_page_are_decoded(encoding, labels, each):
    names = paths(labels, each)
    raw = [name.encode(encoding) for name in names]
    found = find_encoding(raw)
    assert [name.decode(found.codec) for name in raw] == names


def test_names_in_utf8_are_utf8_and_ascii_needs_no_decision():
    assert find_encoding([name.encode() for name in paths("玫瑰 роза Gänse", 2)]) == Decision("UTF-8", "utf-8")
    assert find_encoding([b"daisy/1.jpg"]) == Decision()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("labels", IN_UTF8.split("|"))
def test_names_in_utf8_of_any_language_are_utf8_one_by_one_and_together(labels, form):
    for names in (labels, *labels.split()):
        raw = [unicodedata.normalize(form, name).encode() for name in paths(names, 1)]
        assert all(name.isascii() for name in raw) or find_encoding(raw).codec == "utf-8"


@pytest.mark.parametrize(
    "letters", ["абвгдежзиклмнопрстуфхцчшэюя", "αβγδεζηθικλμνξοπρστυφχψω", "אבגדהוזחטיכ", "ابتثجحخدذ", "äöüß", "αβ"]
)
def test_the_letters_of_an_alphabet_in_utf8_are_utf8(letters):
    assert find_encoding([name.encode() for name in paths(" ".join(letters), 1)]) == Decision("UTF-8", "utf-8")


@pytest.mark.parametrize("each", [1, 40])
@pytest.mark.parametrize(
    "encoding, labels", [(encoding, labels) for encoding, groups in VALID_IN_UTF8.items() for labels in groups]
)
def test_names_in_a_code_page_that_are_valid_utf8_by_chance_are_decoded(encoding, labels, each):
    names = paths(labels, each)
    raw = [name.encode(encoding) for name in names]
    assert sum(is_valid(label.encode(encoding), "utf-8") for label in labels.split()) >= min(3, len(labels.split()))
    assert [name.decode(find_encoding(raw).codec) for name in raw] == names


def test_names_that_are_as_probable_in_utf8_as_in_a_code_page_are_shown_in_both():
    assert find_encoding(["猫/1.jpg".encode("gbk")]) == Decision("GBK", "gb18030", "UTF-8", ("猫", "è"))
    assert find_encoding(["å/1.jpg".encode()]) == Decision("UTF-8", "utf-8", "GBK", ("å", "氓"))


def test_names_of_which_a_few_were_cut_off_are_utf8():
    raw = [name.encode() for name in paths("玫瑰 郁金香 百合 牡丹", 2)]
    assert find_encoding([*raw, "照片".encode()[:-1] + b"/1.jpg"]) == Decision("UTF-8", "utf-8")
    by_chance = [name.encode("gbk") for name in paths("牡猫 玫瑰 郁金香 百合", 2)]
    assert find_encoding(by_chance).name == "GBK"


def test_the_file_names_count_as_well_as_the_folders():
    raw = ["cat/фото кошки 1.jpg".encode("cp866"), "dog/фото собаки 1.jpg".encode("cp866")]
    assert [name.decode(find_encoding(raw).codec) for name in raw] == ["cat/фото кошки 1.jpg", "dog/фото собаки 1.jpg"]


def test_a_second_reading_that_is_almost_as_probable_is_named():
    found = find_encoding(["A類/1.jpg".encode("big5"), "B類/1.jpg".encode("big5")])
    assert "Big5" in (found.name, found.second)
    assert "A類, B類" in found.sample


@pytest.mark.parametrize("names", [[bytes(range(0x80, 0x100))], ["玫瑰".encode("gbk"), b"\x80\xff\xfe"]])
def test_names_in_no_code_page_are_not_decoded(names):
    with pytest.raises(UnknownEncoding):
        find_encoding(names)


def test_the_order_of_the_names_does_not_matter():
    raw = [name.encode("gbk") for name in paths("玫瑰 郁金香 百合", 3)]
    assert find_encoding(raw) == find_encoding(reversed(raw))
