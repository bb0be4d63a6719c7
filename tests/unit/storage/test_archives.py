"""Hostile archives: no member is written elsewhere or over another, and damaged ones are rejected."""

import bz2
import gzip
import io
import lzma
import tarfile
import unicodedata
import zipfile

import pytest
from support import zip_names

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan
from kfp_vision.storage import archives

BLOCK = 512  # POSIX.1-2017, pax, "ustar Interchange Format"
PACKS = ("photos.tar", "photos.tgz", "photos.tar.gz", "photos.tar.bz2", "photos.zip")

GEESE = unicodedata.normalize("NFC", "Gänse/1.jpg")


def pack(path, files):
    """Writes an archive of (name, content) pairs, of the kind its suffix names; names are unchanged and may repeat."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                archive.writestr(name, content)
        return path
    kind = {".tar": "w", ".bz2": "w:bz2"}.get(path.suffix, "w:gz")
    with tarfile.open(path, kind) as archive:
        for name, content in files:
            archive.addfile(member(name, size=len(content)), io.BytesIO(content))
    return path


def member(name, **values):
    described = tarfile.TarInfo(name)
    for field, value in values.items():
        setattr(described, field, value)
    return described


def names(path):
    return [name for name, _, _ in archives.read_members(path, str(path))]


def read_all(path):
    """Reads all members in order; returns their contents by name."""
    return {name: read() for name, _, read in archives.read_members(path, str(path))}


def refusal(path):
    with pytest.raises(InputError) as refused:
        read_all(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", PACKS)
def test_member_names_are_relative_to_the_top_folder(tmp_path, kind):
    written = ["./daisy/1.jpg", "/daisy/2.jpg", "../daisy/3.jpg", "../../daisy/4.jpg", "a/../../daisy/5.jpg", "daisy//6.jpg"]
    path = pack(tmp_path / kind, [(name, name.encode()) for name in written])
    assert read_all(path) == {f"daisy/{number}.jpg": name.encode() for number, name in enumerate(written, start=1)}


@pytest.mark.parametrize("kind", PACKS)
def test_a_top_folder_does_not_change_the_classes(tmp_path, kind):
    files = [("daisy/1.jpg", b"a"), ("tulip/1.jpg", b"b")]
    flat = pack(tmp_path / kind, files)
    (tmp_path / "topped").mkdir()
    topped = pack(tmp_path / "topped" / kind, [(f"my photos/{name}", content) for name, content in files])
    assert scan.scan_images(str(flat)).classes == scan.scan_images(str(topped)).classes == {"daisy": 1, "tulip": 1}


@pytest.mark.parametrize("name", ["..", "/", ".", "daisy/.."])
def test_members_with_empty_names_are_skipped(tmp_path, name):
    assert read_all(pack(tmp_path / "photos.tar", [(name, b"evil"), ("daisy/1.jpg", b"a")])) == {"daisy/1.jpg": b"a"}


def test_links_devices_and_pipes_are_skipped(tmp_path):
    path = tmp_path / "photos.tar"
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate(kinds):
            archive.addfile(member(f"daisy/{number}.jpg", type=kind, linkname="/etc/passwd"))
        archive.addfile(member("daisy/whole.jpg", size=1), io.BytesIO(b"a"))
    assert read_all(path) == {"daisy/whole.jpg": b"a"}


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666])  # link, character, block, pipe: inode(7)
def test_links_and_devices_in_a_zip_are_skipped(tmp_path, mode):
    odd = zipfile.ZipInfo("daisy/odd.jpg")
    odd.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(odd, "/etc/passwd")
        archive.writestr("daisy/1.jpg", b"a")
    assert read_all(tmp_path / "photos.zip") == {"daisy/1.jpg": b"a"}


@pytest.mark.parametrize("kind", ["photos.tgz", "photos.zip"])
@pytest.mark.parametrize("pair", [("Daisy/1.jpg", "daisy/1.JPG"), (GEESE, unicodedata.normalize("NFD", GEESE))])
def test_names_that_collide_in_some_file_systems_are_kept_apart(tmp_path, kind, pair):
    path = pack(tmp_path / kind, [(pair[0], b"one"), (pair[1], b"two")])
    (tmp_path / "files").mkdir()
    files = archives.unpack(path, str(path), tmp_path / "files")
    assert {name: file.read_bytes() for name, file in files.items()} == {pair[0]: b"one", pair[1]: b"two"}
    assert sorted(file.name for file in (tmp_path / "files").iterdir()) == ["0", "1"]


@pytest.mark.parametrize("second", ["daisy/1.jpg", "./daisy/1.jpg", "../daisy/1.jpg", "/daisy/1.jpg"])
def test_a_duplicate_name_is_rejected(tmp_path, second):
    path = pack(tmp_path / "photos.tar", [("daisy/1.jpg", b"one"), (second, b"two")])
    assert refusal(path) == (
        f"error: an archive must not contain a name twice; got daisy/1.jpg twice in {path}. Pack its folder again."
    )


def test_unflagged_utf8_and_backslashes_in_names_are_read(tmp_path):
    path = tmp_path / "photos.zip"
    pack(path, [("G__nse/1.jpg", b"a"), ("daisy|2.jpg", b"b")])
    path.write_bytes(path.read_bytes().replace(b"G__nse", "Gänse".encode()).replace(b"daisy|2", b"daisy\\2"))
    assert read_all(path) == {"Gänse/1.jpg": b"a", "daisy/2.jpg": b"b"}


@pytest.mark.parametrize("kind", ["photos.tgz", "photos.tar.bz2", "photos.zip"])
def test_an_archive_bomb_is_rejected_before_unpacking(tmp_path, kind):
    path = pack(tmp_path / kind, [("daisy/1.jpg", bytes(100 << 20)), ("daisy/2.jpg", b"a")])
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"an archive of this size must unpack to at most 64 MiB; got more in .*photos"):
        names(path)


def test_a_bomb_of_many_members_is_rejected_at_the_limit(tmp_path):
    path = pack(tmp_path / "photos.tgz", [(f"daisy/{number}.jpg", bytes(10 << 20)) for number in range(10)])
    names_read = []
    with pytest.raises(InputError, match="must unpack to at most 64 MiB"):
        names_read.extend(name for name, _, _ in archives.read_members(path, str(path)))
    assert len(names_read) <= 6


def test_a_bomb_in_a_header_is_rejected_without_reading_it(tmp_path):
    header = member("pax", type=tarfile.XHDTYPE, size=4 << 30).tobuf()
    with gzip.open(tmp_path / "photos.tgz", "wb") as file:
        file.write(header + bytes(1 << 20))
    assert "must unpack to at most 64 MiB" in refusal(tmp_path / "photos.tgz")


def test_a_member_that_claims_too_many_bytes_is_rejected_by_its_header(tmp_path):
    path = tmp_path / "photos.tar"
    path.write_bytes(member("daisy/1.jpg", size=8 << 30).tobuf() + bytes(10 * BLOCK))
    assert "must unpack to at most 64 MiB" in refusal(path)


def test_ordinary_compression_is_not_a_bomb(tmp_path):
    path = pack(tmp_path / "photos.tgz", [(f"daisy/{number}.bmp", bytes(1 << 20)) for number in range(50)])
    assert len(names(path)) == 50


@pytest.mark.parametrize("kind", ["photos.tar", "photos.zip"])
def test_the_number_of_entries_is_limited(tmp_path, monkeypatch, kind):
    assert archives.MAX_ENTRIES == 2_000_000
    monkeypatch.setattr(archives, "MAX_ENTRIES", 100)
    path = pack(tmp_path / kind, [(f"daisy/{number}.jpg", b"") for number in range(100)])
    assert len(names(path)) == 100
    path = pack(tmp_path / kind, [(f"daisy/{number}.jpg", b"") for number in range(101)])
    with pytest.raises(InputError, match=r"an archive must have at most 100 entries; got .*photos.* into several"):
        names(path)


def headers(tar):
    """Returns the offset of each member's header."""
    with tarfile.open(tar) as archive:
        return [entry.offset for entry in archive]


@pytest.mark.parametrize("kind", ["photos.tar", "photos.tgz"])
@pytest.mark.parametrize("damage", [b"x", b"\0" * BLOCK, b"\xff" * BLOCK], ids=["a byte", "zeros", "ones"])
def test_a_tar_with_a_damaged_header_is_not_read_as_a_shorter_one(tmp_path, kind, damage):
    plain = pack(tmp_path / "plain.tar", [(f"daisy/{number}.jpg", b"a" * 700) for number in range(6)])
    intact, offset = plain.read_bytes(), headers(plain)[3]
    broken = intact[:offset] + damage + intact[offset + len(damage) :]
    path = tmp_path / kind
    path.write_bytes(gzip.compress(broken) if kind.endswith("tgz") else broken)
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 3, "Python's own reader stops there without a word"
    assert refusal(path) == (
        f"error: an archive must be intact; got {path} (damaged after byte {offset:,}). Pack or download it again."
    )


@pytest.mark.parametrize("kept", ["at a header", "in a header", "behind the last member"])
def test_a_tar_truncated_between_two_members_is_rejected(tmp_path, kept):
    path = pack(tmp_path / "photos.tar", [(f"daisy/{number}.jpg", b"a" * BLOCK) for number in range(6)])
    starts = headers(path)
    at = {"at a header": starts[3], "in a header": starts[3] + 100, "behind the last member": starts[5] + 2 * BLOCK}[kept]
    path.write_bytes(path.read_bytes()[:at])
    assert "must be intact" in refusal(path)


def test_a_compressed_tar_without_checksum_is_rejected(tmp_path):
    path = pack(tmp_path / "photos.tgz", [("daisy/1.jpg", b"a")])
    path.write_bytes(path.read_bytes()[:-8])  # CRC32 and ISIZE: RFC 1952, section 2.3
    assert "must be intact" in refusal(path)


def test_a_compressed_tar_with_a_wrong_checksum_is_rejected(tmp_path):
    path = pack(tmp_path / "photos.tgz", [("daisy/1.jpg", b"a")])
    intact = bytearray(path.read_bytes())
    intact[-8] ^= 1
    path.write_bytes(intact)
    assert "CRC check failed" in refusal(path)


def test_an_encrypted_zip_is_rejected_by_its_directory(tmp_path):
    path = pack(tmp_path / "photos.zip", [("daisy/1.jpg", b"bytes")])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1  # the encryption flag, in both headers of the member
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        names(path)
    assert str(refused.value) == (
        f"error: an archive must not be encrypted; got daisy/1.jpg in {path}. Pack it without a password."
    )


def test_a_zip_within_a_tar_is_not_taken_for_the_archive(tmp_path):
    inner = pack(tmp_path / "inner.zip", [("evil/1.jpg", b"evil")]).read_bytes()
    path = pack(tmp_path / "photos.tar", [("daisy/1.jpg", b"a"), ("more/inner.zip", inner)])
    assert zipfile.is_zipfile(path)
    assert names(path) == ["daisy/1.jpg", "more/inner.zip"]


def test_a_member_shorter_than_declared_is_rejected(tmp_path):
    path = tmp_path / "photos.tar"
    path.write_bytes(member("daisy/1.jpg", size=5000).tobuf() + b"a" * 1000)
    assert "must be intact" in refusal(path)


def test_a_full_disk_is_reported_as_such(tmp_path):
    path = pack(tmp_path / "photos.tar", [("daisy/1.jpg", b"a" * 100_000)])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "0").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"an archive must fit the scratch space; got .*No space left.*Set TMPDIR"):
        archives.unpack(path, str(path), tmp_path / "files")


CHINESE = ["玫瑰/1.jpg", "玫瑰/2.jpg", "郁金香/1.jpg", "郁金香/表示.jpg"]


def write_tar(path, names, *, encoding, kind=tarfile.GNU_FORMAT):
    mode = {".gz": "w:gz", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode, format=kind, encoding=encoding) as archive:
        for name in names:
            archive.addfile(member(name, size=1), io.BytesIO(b"a"))
    return path


@pytest.fixture
def given_encoding():
    yield archives.set_name_encoding
    archives.set_name_encoding("")


@pytest.mark.parametrize("encoding", ["gbk", "big5", "cp932", "cp949", "cp866", "cp1251", "cp437", "utf-8"])
def test_zip_names_in_a_code_page_are_decoded(tmp_path, encoding):
    labels = {
        "cp932": "バラ 表示",
        "cp949": "장미 튤립",
        "cp866": "роза тюльпан",
        "cp1251": "роза тюльпан",
        "cp437": "Bär Käfer",
    }
    written = [f"{label}/{n}.jpg" for label in labels.get(encoding, "玫瑰 百合").split() for n in (1, 2)]
    path = zip_names.write_zip(tmp_path / "photos.zip", {name.encode(encoding): b"a" for name in written})
    assert names(path) == written


def test_the_unicode_path_field_wins_if_it_was_made_for_the_name(tmp_path):
    raw = {name.encode("gbk"): name for name in CHINESE}
    extras = {stored: b"\x55\x54\1\0\0" + zip_names.unicode_path(stored, name) for stored, name in raw.items()}
    files = dict.fromkeys(raw, b"a")
    assert names(zip_names.write_zip(tmp_path / "right.zip", files, extras)) == CHINESE
    (first, *_) = extras
    extras[first] = zip_names.unicode_path(first, "renamed/1.jpg", checksum_of=b"another name")
    assert names(zip_names.write_zip(tmp_path / "stale.zip", files, extras)) == CHINESE
    extras = {stored: zip_names.unicode_path(stored, f"其他/{name}") for stored, name in raw.items()}
    assert names(zip_names.write_zip(tmp_path / "other.zip", files, extras)) == [f"其他/{name}" for name in CHINESE]


def test_a_damaged_unicode_path_field_is_ignored(tmp_path):
    raw = {name.encode("gbk"): b"a" for name in CHINESE}
    for number, extra in enumerate((b"\x75\x70", b"\x75\x70\1\0\1", b"\x75\x70\0\0")):
        extras = dict.fromkeys(raw, extra)
        assert names(zip_names.write_zip(tmp_path / f"{number}.zip", raw, extras)) == CHINESE


def test_a_zip_may_mix_names_that_say_their_encoding_with_others(tmp_path):
    path = tmp_path / "photos.zip"
    raw = {b"plain/1.jpg": b"a"} | {name.encode("gbk"): b"a" for name in CHINESE}
    extras = {CHINESE[0].encode("gbk"): zip_names.unicode_path(CHINESE[0].encode("gbk"), CHINESE[0])}
    assert names(zip_names.write_zip(path, raw, extras)) == ["plain/1.jpg", *CHINESE]


def test_backslashes_separate_folders_but_not_within_a_character(tmp_path):
    written = {"写真\\表示\\1.jpg": b"a", "写真\\ソ連\\2.jpg": b"b", "写真\\空\\": b""}
    path = zip_names.write_zip(tmp_path / "photos.zip", {name.encode("cp932"): content for name, content in written.items()})
    assert "表示".encode("cp932")[1:2] == b"\\"
    assert read_all(path) == {"写真/表示/1.jpg": b"a", "写真/ソ連/2.jpg": b"b"}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_tar_names_in_a_code_page_are_decoded(tmp_path, suffix, kind):
    path = write_tar(tmp_path / f"photos.{suffix}", CHINESE, encoding="gbk", kind=kind)
    assert names(path) == CHINESE


def test_long_tar_names_in_a_code_page_are_decoded(tmp_path):
    long = [f"{'/'.join(('红玫瑰与郁金香', '新鲜的水果和蔬菜') * 8)}/{n}.jpg" for n in (1, 2)]
    assert names(write_tar(tmp_path / "photos.tar", long, encoding="gbk")) == long


def test_tar_names_in_utf8_are_decoded_with_pax_headers_and_without(tmp_path):
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        assert names(write_tar(tmp_path / f"{number}.tar", CHINESE, encoding="utf-8", kind=kind)) == CHINESE


def test_all_names_of_a_tar_are_decoded_alike_though_some_are_valid_utf8(tmp_path):
    written = ["牡猫/1.jpg", "玫瑰/1.jpg", "郁金香/1.jpg"]
    assert "牡猫".encode("gbk").decode("utf-8").isprintable()  # by chance
    assert names(write_tar(tmp_path / "photos.tar", written, encoding="gbk")) == written


def test_a_given_encoding_is_used_and_checked(tmp_path, given_encoding):
    path = zip_names.write_zip(tmp_path / "photos.zip", {"花/1.jpg".encode("big5"): b"a"})
    given_encoding("big5")
    assert names(path) == ["花/1.jpg"]
    assert archives.note_on_names(str(path)) == f"The names in {path} are read as big5, as name_encoding says."
    given_encoding("ascii")
    assert refusal(path) == (
        "error: the names in an archive must be in one known encoding; got \\xaa\\xe1/1.jpg in "
        f"{path}, which is not ascii. Set name_encoding of advanced (or KFP_VISION_NAME_ENCODING) to it, such as gbk, or pack "
        "the folder again with names in UTF-8."
    )


def test_an_encoding_may_come_from_the_environment(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "photos.tar", ["花/1.jpg"], encoding="big5")
    monkeypatch.setenv("KFP_VISION_NAME_ENCODING", "big5")
    assert names(path) == ["花/1.jpg"]
    monkeypatch.setenv("KFP_VISION_NAME_ENCODING", "klingon")
    assert refusal(path) == (
        "error: KFP_VISION_NAME_ENCODING must name a codec of Python that extends ASCII; got klingon. Set it to gbk, say."
    )


@pytest.mark.parametrize("kind", ["photos.zip", "photos.tar"])
def test_names_in_no_encoding_are_rejected_by_name(tmp_path, kind):
    raw = b"\x80\xff\xfe/1.jpg"
    if kind.endswith("zip"):
        path = zip_names.write_zip(tmp_path / kind, {"玫瑰/1.jpg".encode("gbk"): b"a", raw: b"a"})
    else:
        raws = ["玫瑰/1.jpg".encode("gbk"), raw]
        path = write_tar(tmp_path / kind, [name.decode("utf-8", "surrogateescape") for name in raws], encoding="utf-8")
    line = refusal(path)
    assert line.startswith("error: the names in an archive must be in one known encoding; got ")
    assert "\\x80\\xff\\xfe" in line and "name_encoding" in line


def test_a_zip_with_the_utf8_flag_and_other_bytes_is_damaged(tmp_path):
    path = zip_names.write_zip(tmp_path / "photos.zip", {"玫瑰/1.jpg".encode("gbk"): b"a"}, flags=1 << 11)
    assert "an archive must be intact" in refusal(path)


def test_unpacking_gives_the_names_that_listing_gave(tmp_path):
    path = zip_names.write_zip(tmp_path / "photos.zip", {name.encode("gbk"): name.encode() for name in CHINESE})
    (tmp_path / "files").mkdir()
    unpacked = archives.unpack(path, str(path), tmp_path / "files")
    assert {name: file.read_bytes() for name, file in unpacked.items()} == {name: name.encode() for name in CHINESE}


def test_the_note_names_the_encoding_and_some_names(tmp_path):
    path = zip_names.write_zip(tmp_path / "photos.zip", {name.encode("gbk"): b"a" for name in CHINESE})
    names(path)
    note = archives.note_on_names(str(path))
    assert note.startswith(f"The names in {path} are not UTF-8, and are read as GBK (")
    assert "玫瑰" in note and note.endswith("If that is wrong, set name_encoding of advanced (or KFP_VISION_NAME_ENCODING).")


def test_the_note_names_utf8_where_names_may_be_in_it_or_not(tmp_path):
    path = zip_names.write_zip(tmp_path / "photos.zip", {"猫/1.jpg".encode("gbk"): b"a"})
    assert names(path) == ["猫/1.jpg"]
    assert archives.note_on_names(str(path)) == (
        f"The names in {path} do not say their encoding, and are read as GBK (猫), or UTF-8 (è). "
        "If that is wrong, set name_encoding of advanced (or KFP_VISION_NAME_ENCODING)."
    )


@pytest.mark.parametrize("known", [["daisy/1.jpg"], CHINESE])
def test_no_note_is_made_where_all_names_are_known(tmp_path, known, given_encoding):
    path = write_tar(tmp_path / "known.tar", known, encoding="utf-8")
    names(path)
    assert not archives.note_on_names(str(path))
    given_encoding("gbk")
    assert names(write_tar(path, ["daisy/1.jpg"], encoding="utf-8")) == ["daisy/1.jpg"]
    assert not archives.note_on_names(str(path))


@pytest.mark.parametrize("ending", ["", ".download", ".tar.xz", ".txz", ".tbz2", ".tar.lzma", ".jpg"])
@pytest.mark.parametrize("packer", [bytes, gzip.compress, bz2.compress, lzma.compress, "lzma", "zip", "exe"])
def test_an_archive_is_told_by_its_bytes(tmp_path, packer, ending):
    plain = (
        pack(tmp_path / "plain.zip" if packer in ("zip", "exe") else tmp_path / "plain.tar", [("daisy/1.jpg", b"a")])
    ).read_bytes()
    if packer == "lzma":
        content = lzma.compress(plain, format=lzma.FORMAT_ALONE)
    elif packer == "exe":
        content = b"MZ" + bytes(1000) + plain
    else:
        content = plain if packer == "zip" else packer(plain)
    path = tmp_path / f"photos{ending}"
    path.write_bytes(content)
    assert read_all(path) == {"daisy/1.jpg": b"a"}


@pytest.mark.parametrize("method, name", [(9, "Deflate64"), (93, "Zstandard"), (98, "PPMd"), (99, "AES"), (77, "method 77")])
def test_a_zip_compressed_in_a_way_that_python_lacks_is_told(tmp_path, method, name):
    path = zip_names.write_zip(tmp_path / "photos.zip", {b"daisy/1.jpg": b"a"}, method=method)
    assert refusal(path) == (
        f"error: a zip must be compressed by Deflate, bzip2, LZMA or not at all; got {name} for daisy/1.jpg in {path}. "
        "Unpack it, and give the folder, or pack that as .zip or .tar.gz."
    )


@pytest.mark.parametrize(
    "begin, what",
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"\x28\xb5\x2f\xfd\x04", "a file compressed by Zstandard (.zst)"),
        (b"\x04\x22\x4d\x18", "a file compressed by LZ4"),
        (b"\x1f\x9d\x90", "a file compressed by compress (.Z)"),
        (b"\r\n<!DOCTYPE html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\xff\xd8\xff\xe0", "a single image"),
        (b"", "an empty file"),
        (gzip.compress(b"one,two\n" * 500, mtime=0), "a file compressed by gzip that holds no tar"),
        (gzip.compress(b"PK\x03\x04" + bytes(500), mtime=0), "a file compressed by gzip that holds a zip"),
        (lzma.compress(b"Rar!\x1a\x07\x01\0"), "a file compressed by xz that holds a RAR archive"),
    ],
)
def test_a_file_that_is_no_archive_is_told_for_what_it_is(tmp_path, begin, what):
    path = tmp_path / "photos.tar.gz"
    path.write_bytes(begin)
    assert f"a data source that is a file must be an archive; got {path} ({what}). " in refusal(path)


def test_the_last_part_of_a_split_zip_is_told(tmp_path):
    whole = pack(tmp_path / "whole.zip", [(f"daisy/{n}.jpg", bytes(range(256)) * 40) for n in range(9)]).read_bytes()
    end = whole.rindex(b"PK\x05\x06") + 4
    split = whole[100:end] + b"\x04\0" + whole[end + 2 :]  # its directory lies on the fifth part, counted from 0
    path = tmp_path / "photos.zip"
    path.write_bytes(split + b"a comment")
    told = f"got {path} (the last part of a split zip). Join its parts first: zip -s 0 photos.zip --out whole.zip."
    assert refusal(path).endswith(told)
    (tmp_path / "photos.z03").write_bytes(whole[100:end])
    assert refusal(tmp_path / "photos.z03").endswith("zip -s 0 photos.zip --out whole.zip.")


@pytest.mark.parametrize(("kind", "ending"), [("zip", ".001"), ("tar", ".aa"), ("tgz", ".part1"), ("tar.gz", "aa")])
def test_a_part_of_an_archive_is_told(tmp_path, kind, ending):
    whole = pack(tmp_path / f"whole.{kind}", [(f"daisy/{n}.jpg", bytes(range(256)) * 40) for n in range(9)]).read_bytes()
    for half in (whole[: len(whole) // 2], whole[len(whole) // 2 + 1 :]):
        path = tmp_path / f"photos.{kind}{ending}"
        path.write_bytes(half)
        assert refusal(path).endswith("Join its parts first, as in cat photos.zip.* > photos.zip, or 7z x photos.zip.001.")
