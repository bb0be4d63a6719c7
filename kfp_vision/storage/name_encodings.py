# ruff: noqa: RUF001 (letters of other alphabets are meant)
"""Finds the encoding of the names in an archive that does not say it.

Archivers on Windows write names in the code page of the system, and no word of which. A name of a class is too short for
the detectors of texts: of 103 archives with such names, charset-normalizer 3.5 reads 43 wrongly, chardet 7 reads 15 to 35.
So all names of the archive are read in each code page, and the one is taken in which they are the most probable: each character
has the probability of its kind (a frequent syllable, a rare ideograph, a symbol) in the languages that use the code page. UTF-8
is weighed likewise, each name in its most probable language, since a few short names are valid in it by chance.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

EXAMPLE = "gbk"  # an encoding, for messages
MAX_NAMES, MAX_COLLECTED = 1000, 100_000  # parts of names that are compared, and that are collected to choose them from
LEAST_VALID = 3  # so many names, of some that are not, say that all were in UTF-8
UNLIKELY = math.log(1e-5)  # a character that no name holds: box drawings, for example
LETTER, SIGN = math.log(1 / 30), math.log(1 / 2000)  # of ASCII
PLAIN_SIGNS = " _-.()&+,"
EXTRA_PRIOR = -6.0  # of code pages that are rare in zips
CLOSE = 3.0  # a second reading that is less than e^3 times less probable is named
LEAST = -5.5  # per byte; the names of the tests are above -5.1, and text in other encodings mostly below
CAPITAL, MORE_CAPITALS, CAPITAL_WITHIN = -1.0, -0.3, -5.0
SEVERAL_ACCENTS = -3.0  # one accented letter after another
UTF8 = "UTF-8"
UTF8_PRIOR = 2.0
CUT_OFF = -12.0  # a name in UTF-8 that ends within a character
ODD = -5.0  # a name of accented letters alone, or a word of several scripts, or names of single letters
RARE_SCRIPT = -3.0  # names in a script that fewer people write than the Latin, the Cyrillic and those of East Asia
NOT_TEXT = ("Cc", "Cf", "Cn", "Co")  # control characters, and code points without a character
WORD = re.compile(r"[^\W\d_]+")
# First words of the Unicode names of letters that share a word.
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL"}
NUMBER_AND_ENDING = re.compile(rb"[\d\s().-]*(\.\w{1,5})?$")
# The characters that Chinese class names are made of most: frequent ones, and those of things, plants, animals and defects.
FREQUENT_HANZI = frozenset(
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事"
    "只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情"
    "部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处"
    "总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象"
    "记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领"
    "传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史"
    "商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏草树木猫狗鸟鱼虫牛羊猪鸡鸭"
    "鹅虎熊狮猴兔鼠蛇苹蕉橙梨桃葡萄瓜莓菜米麦豆良异病斑锈叶健康缺陷划伤裂纹污渍损垃圾男图集丹牡菊兰荷莲竹松柏杨柳桂梅樱"
)
FREQUENT_HANGUL = frozenset(
    "이다는의에가을한고지하사기로도를인대리어있시자아부전은수정서일상주해그나면보여제스원장중만구것관성들동방공유경과선국조문내비오당연미용게세"
    "신생재위마우화라야개민모계치회물소실단적안분양없불명금바무반행발결두같거니려던되체호등강진통영요교심차품포운타파트드르크프터노토루레카피티데"
    "베네메디러버너머저더허워래배매색녹황청백흑남북월말꽃초풀새닭돼송늘감달딸복숭참추밀쌀김밥국찌볶음식질병건합격폴폐플캔종류컵"
)
# Share of each letter in Russian text, in percent.
RUSSIAN = {
    "о": 10.97, "е": 8.45, "а": 8.01, "и": 7.35, "н": 6.7, "т": 6.26, "с": 5.47, "р": 4.73, "в": 4.54, "л": 4.4, "к": 3.49,
    "м": 3.21, "д": 2.98, "п": 2.81, "у": 2.62, "я": 2.01, "ы": 1.9, "ь": 1.74, "г": 1.7, "з": 1.65, "б": 1.59, "ч": 1.44,
    "й": 1.21, "х": 0.97, "ж": 0.94, "ш": 0.73, "ю": 0.64, "ц": 0.48, "щ": 0.36, "э": 0.32, "ф": 0.26, "ё": 0.13, "ъ": 0.04,
}  # fmt: skip
OTHER_CYRILLIC = "іїєґўђѓљњћќџј"  # of Ukrainian, Belarusian, Serbian and Macedonian
FREQUENT_ACCENTS, WESTERN_ACCENTS = "éäöüèàçñ", "êëâáãåîïíìôóòõøûúùæœßÿ"
FREQUENT_SIGNS = "°±½²³µ×®©™–“”’…№"
CENTRAL_ACCENTS = "ąćęłńóśźżáčďéěíňřšťúůýžäöüßőűăâîșțşţđ"


class UnknownEncoding(ValueError):
    """No encoding makes names of these bytes."""


@dataclass(frozen=True)
class Decision:
    """The encoding of the names of an archive.

    Attributes:
        name: of the encoding, as people call it; empty if all names say their encoding or are ASCII.
        codec: of Python.
        second: the name of an encoding that is almost as probable; often empty.
        sample: a few names in both encodings, for a person to see which is right.
    """

    name: str = ""
    codec: str = "utf-8"
    second: str = ""
    sample: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class _CodePage:
    """A code page, and how probable the characters of names are in it.

    Attributes:
        name: as people call it.
        codec: of Python.
        weigh: returns the logarithm of the probability of a character outside ASCII.
        beside_ascii: added for a letter of it beside one of ASCII.
        capitals: whether its letters have two cases.
        accents: whether its letters are Latin ones with accents.
        prior: added for all names together.
    """

    name: str
    codec: str
    weigh: Callable[[str], float]
    beside_ascii: float = 0.0
    capitals: bool = False
    accents: bool = False
    prior: float = 0.0


def find_encoding(names: Iterable[bytes]) -> Decision:
    """Finds the encoding of names.

    Args:
        names: paths with forward slashes, in the same unknown encoding.

    Returns:
        The encoding in which they are the most probable: a code page, or UTF-8, if all names are valid in it, or most are, as
            when a few were cut off within a character. That alone does not decide: short names are valid UTF-8 by chance, as
            the cat of GBK, 猫, which is an è there.

    Raises:
        UnknownEncoding: they are not probable in any.

    Example:
        find_encoding(["玫瑰/1.jpg".encode("gbk"), "郁金香/1.jpg".encode("gbk")]).name  # "GBK"
    """
    parts: set[bytes] = set()
    for name in names:
        if not name.isascii() and len(parts) < MAX_COLLECTED:
            parts.update(NUMBER_AND_ENDING.sub(b"", part) for part in name.split(b"/") if not part.isascii())
    if not parts:
        return Decision()
    compared = sorted(parts)[:MAX_NAMES]
    readings = [(_weigh(compared, page), page.name, page.codec) for page in CODE_PAGES]
    if max(readings)[0] < LEAST * sum(map(len, compared)):
        readings = []
    valid = sum(is_valid(part, "utf-8") for part in parts)
    if valid == len(parts) or (valid >= LEAST_VALID and 2 * valid > len(parts)):
        readings.insert(0, (_weigh_utf8(compared), UTF8, "utf-8"))
    if not readings:
        raise UnknownEncoding(_show(compared, "ascii"))
    readings.sort(key=lambda reading: -reading[0])
    most, best, codec = readings[0]
    sample = _show(compared, codec)
    for weight, second, other in readings[1:2]:
        if weight > most - CLOSE and (shown := _show(compared, other)) != sample:
            return Decision(best, codec, second, (sample, shown))
    return Decision(best, codec, sample=("", "") if best == UTF8 else (sample, ""))


def _show(parts: list[bytes], codec: str) -> str:
    return ", ".join(part.decode(codec, "backslashreplace") for part in parts[:3])


def is_valid(name: bytes, codec: str) -> bool:
    """Checks that bytes are valid in an encoding.

    Args:
        name: the bytes.
        codec: of Python.
    """
    try:
        name.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _weigh(parts: list[bytes], page: _CodePage) -> float:
    """Returns the logarithm of the probability of names in a code page."""
    try:
        return page.prior + sum(_weigh_name(part.decode(page.codec), page) for part in parts)
    except UnicodeDecodeError:
        return -math.inf


def _weigh_utf8(parts: list[bytes]) -> float:
    """Returns the logarithm of the probability of names in UTF-8, each in the language in which it is the most probable."""
    texts = [unicodedata.normalize("NFC", part.decode()) for part in parts if is_valid(part, "utf-8")]
    total, languages = UTF8_PRIOR + CUT_OFF * (len(parts) - len(texts)), set()
    for text in texts:
        weight, language = max(((_weigh_name(text, page), page) for page in LANGUAGES), key=lambda pair: pair[0])
        total += max(weight, UNLIKELY * len(text))  # also where characters join or turn others, as in Persian
        languages.add(language)
    total += sum(language.prior for language in languages)
    return total + ODD * (sum(map(_is_odd, texts)) + any(map(_is_single_letter, texts)))


def _weigh_name(text: str, page: _CodePage) -> float:
    """Returns the logarithm of the probability of a name, without the prior of the code page."""
    total, before = 0.0, ""
    for character in text:
        if unicodedata.category(character) in NOT_TEXT:
            return -math.inf
        total += _weigh_character(character, before, page)
        before = character
    return total


def _is_odd(text: str) -> bool:
    """Checks whether a name is made of accented letters alone, begins with an accent, or has a word of several scripts."""
    words = WORD.findall(text)
    scripts = [{unicodedata.name(letter, "").partition(" ")[0] for letter in word} for word in words]
    letters = "".join(words)
    is_accents = letters != "" and all("À" <= letter < "ƀ" for letter in letters)
    return (
        is_accents
        or unicodedata.combining(text[:1] or " ") > 0
        or any(len(each) > 1 and not each <= EAST_ASIAN for each in scripts)
    )


def _is_single_letter(text: str) -> bool:
    letters = "".join(WORD.findall(text))
    return len(letters) == 1 and "ƀ" <= letters < "\u0800"


def _weigh_character(character: str, before: str, page: _CodePage) -> float:
    ascii_letter_before = before.isascii() and before.isalpha()
    if character.isascii():
        mixed = character.isalpha() and before != "" and not before.isascii()
        return (LETTER if character.isalnum() or character in PLAIN_SIGNS else SIGN) + (page.beside_ascii if mixed else 0.0)
    weight = page.weigh(character) + (page.beside_ascii if ascii_letter_before else 0.0)
    if page.accents and before and not before.isascii():
        weight += SEVERAL_ACCENTS
    if page.capitals and character.isupper():
        weight += CAPITAL_WITHIN if before.islower() else MORE_CAPITALS if before.isupper() else CAPITAL
    return weight


def _share(percent: float, characters: int) -> float:
    """Returns the logarithm of the probability of each of some characters that share a part of the text."""
    return math.log(percent / 100 / characters)


def _chinese(character: str) -> float:
    """Weighs a character of GBK: the levels of GB 2312, then what GBK and GB 18030 added."""
    encoded = character.encode("gb18030")
    if len(encoded) != 2:
        return _share(0.01, 1_000_000)
    if character in FREQUENT_HANZI:
        return _share(50, len(FREQUENT_HANZI))
    lead, trail = encoded
    if trail >= 0xA1 and 0xB0 <= lead <= 0xD7:  # level 1, the 3,755 frequent ones
        return _share(42, 3755 - len(FREQUENT_HANZI))
    if trail >= 0xA1 and 0xD8 <= lead <= 0xF7:
        return _share(6, 3008)
    if trail >= 0xA1 and lead in (0xA1, 0xA3):  # punctuation and full-width letters
        return _share(1, 190)
    return _share(0.1, 600) if trail >= 0xA1 and lead <= 0xA9 else _share(0.8, 14000)


def _taiwanese(character: str) -> float:
    """Weighs a character of Big5: its levels of 5,401 frequent and 7,652 rare ones."""
    code = int.from_bytes(character.encode("cp950", "replace"), "big")
    if code <= 0x7F:  # a question mark for one that only UTF-8 has
        return UNLIKELY
    if 0xA440 <= code <= 0xC67E:
        return _share(96, 5401)
    return _share(3, 7652) if 0xC940 <= code <= 0xF9D5 else _share(1, 400)


def _japanese(character: str) -> float:
    """Weighs a character of Shift JIS: kana, and the levels of JIS X 0208."""
    code = int.from_bytes(character.encode("cp932", "replace"), "big")
    if code <= 0x7F:  # a question mark for one that only EUC-JP has
        return UNLIKELY
    if code <= 0xFF:  # half-width katakana
        return _share(1, 63)
    if 0x829F <= code <= 0x82F1:  # hiragana
        return _share(15, 83)
    if 0x8340 <= code <= 0x8396 or character == "ー":  # katakana
        return _share(40, 87)
    if 0x889F <= code <= 0x9872:
        return _share(40, 2965)
    return _share(2, 3390) if 0x989F <= code <= 0xEAA4 else _share(2, 500)


def _korean(character: str) -> float:
    """Weighs a character of code page 949: the syllables of KS X 1001, the others, and Chinese ones."""
    encoded = character.encode("cp949", "replace")
    if len(encoded) != 2:  # a question mark for one that only UTF-8 has
        return UNLIKELY
    lead, trail = encoded
    if trail >= 0xA1 and 0xB0 <= lead <= 0xC8:
        rare = 2350 - len(FREQUENT_HANGUL)
        return _share(85, len(FREQUENT_HANGUL)) if character in FREQUENT_HANGUL else _share(12, rare)
    if "가" <= character <= "힣":
        return _share(1, 8822)
    return _share(0.5, 4888) if trail >= 0xA1 and lead >= 0xCA else _share(1, 900)


def _cyrillic(character: str) -> float:
    letter = character.lower()
    if share := RUSSIAN.get(letter):
        return math.log(share / 100)
    if letter in OTHER_CYRILLIC:
        return math.log(0.002)
    is_cyrillic = character < "\u0500" and "CYRILLIC" in unicodedata.name(character, "")
    return math.log(0.0005) if is_cyrillic else UNLIKELY


def _latin(shares: dict[str, float], character: str) -> float:
    letter = character.lower()
    for letters, share in shares.items():
        if letter in letters:
            return math.log(share)
    return math.log(0.0005) if character.isalpha() and character < "ƀ" else UNLIKELY


def _signs(character: str) -> float:
    return math.log(0.002) if character in FREQUENT_SIGNS else _western(character)


def _living(character: str) -> float:
    """Weighs a character of UTF-8 in a language that has no code page here; all characters of a name are of one script."""
    return -math.log(60) if unicodedata.name(character, "").partition(" ")[0] in LIVING_SCRIPTS else UNLIKELY


def _script(script: str, letters: int, character: str) -> float:
    of_script = unicodedata.name(character, "").startswith(script) and unicodedata.category(character)[0] in "LM"
    return -math.log(letters) if of_script else UNLIKELY


_western = partial(_latin, {FREQUENT_ACCENTS: 0.025, WESTERN_ACCENTS: 0.015})
_central = partial(_latin, {CENTRAL_ACCENTS: 0.015})
_other = partial(_CodePage, beside_ascii=-6.0, prior=EXTRA_PRIOR)
# In the order of preference among equals.
CODE_PAGES = (
    _CodePage("GBK", "gb18030", _chinese, -1.5, prior=1.0),
    _CodePage("Big5", "cp950", _taiwanese, -1.5),
    _CodePage("Shift JIS", "cp932", _japanese, -1.5),
    _CodePage("EUC-KR", "cp949", _korean, -1.5),
    _CodePage("cp866", "cp866", _cyrillic, -6.0, capitals=True),
    _CodePage("Windows-1251", "cp1251", _cyrillic, -6.0, capitals=True),
    _CodePage("Windows-1252", "cp1252", _western, capitals=True, accents=True),
    _CodePage("cp437", "cp437", _western, capitals=True, accents=True),
    _CodePage("cp850", "cp850", _western, capitals=True, accents=True),
    _CodePage("Windows-1250", "cp1250", _central, capitals=True, accents=True, prior=EXTRA_PRIOR),
    _CodePage("cp852", "cp852", _central, capitals=True, accents=True, prior=EXTRA_PRIOR),
    _other("KOI8-R", "koi8_r", _cyrillic, capitals=True),
    _other("EUC-JP", "euc_jp", _japanese, beside_ascii=-1.5),
    _other("Windows-1253", "cp1253", partial(_script, "GREEK", 36), capitals=True),
    _other("cp737", "cp737", partial(_script, "GREEK", 36), capitals=True),
    _other("Windows-1255", "cp1255", partial(_script, "HEBREW", 27)),
    _other("cp862", "cp862", partial(_script, "HEBREW", 27)),
    _other("Windows-1256", "cp1256", partial(_script, "ARABIC", 36)),
    _other("cp874", "cp874", partial(_script, "THAI", 100)),  # 80 letters, whose marks have their places
)
LIVING_SCRIPTS = frozenset(
    "ARMENIAN GEORGIAN DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA "  # noqa: SIM905
    "MALAYALAM SINHALA LAO MYANMAR KHMER ETHIOPIC TIBETAN".split()
)
# Of the code pages whose languages names in UTF-8 may be in; counts once for all names in a language.
PRIORS = dict.fromkeys(("GBK", "Big5", "Shift JIS", "EUC-KR", "cp866", "Windows-1252", "Windows-1250"), 0.0)
PRIORS |= dict.fromkeys(("Windows-1253", "Windows-1255", "Windows-1256", "cp874"), RARE_SCRIPT)  # Greek, Hebrew, Arabic, Thai
LANGUAGES = (
    *(replace(page, prior=PRIORS[page.name]) for page in CODE_PAGES if page.name in PRIORS),
    _CodePage("signs", "utf-8", _signs),
    _CodePage("others", "utf-8", _living, prior=RARE_SCRIPT),
)
