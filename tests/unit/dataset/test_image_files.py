"""Which files of a data set are images: bytes decide, not endings; what is skipped is named."""

import io
import tarfile
import zipfile

import pytest
from PIL import Image
from support import boxed_images, data_page

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import annotations, image_files, ingest, scan
from kfp_vision.dataset.images import PILLOW_FORMATS, validate_image
from kfp_vision.dataset.table import Catalog, SkippedFiles
from kfp_vision.storage import reading

OPENED = {".heic": "HEIF", ".heif": "HEIF"}  # by a package that may be missing


def encode(image_format="JPEG", shade=100):
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, 40, 200)).save(file, image_format)
    return file.getvalue()


JPEG = encode()
# By a file of the section Files: names and contents, and the reason why they are skipped; empty for images.
CASES = {
    "`1.jpg`, `1.PNG`, `1.heic`, `1.ppm` and other usual endings": (
        {"1.jpg": JPEG, "1.PNG": b"", "1.heic": b"?", "1.ppm": b"?"},
        "",
    ),
    "`1.jpg` that holds a PNG": ({"1.jpg": encode("PNG")}, ""),
    "`1.jfif`, `1.jpe`, `1.JPG_large`, `1.jpg.1`": ({f"1.{end}": JPEG for end in ("jfif", "jpe", "JPG_large", "jpg.1")}, ""),
    "`f81a9c` without an ending": ({"f81a9c": encode("WEBP")}, ""),
    "`1.jpg?width=640`, `1.png#a`, `50%`": ({"1.jpg?width=640": JPEG, "1.png#a": encode("PNG"), "50%": encode("TIFF")}, ""),
    "`README`, `1.bin`, any other that is no image": ({"README": b"read me", "1.bin": b"\0\1"}, "not an image"),
    "`f81a9c` of no bytes": ({"f81a9c": b""}, "an empty file"),
    "`1.txt`, `1.csv`, `1.xml`, `1.json` and the like": (
        dict.fromkeys(("1.txt", "1.CSV", "1.xml", "1.json"), JPEG),
        "not an image",
    ),
    "`1.mp4`, `1.MOV`": (dict.fromkeys(("1.mp4", "1.MOV"), b"?"), "a video; its frames are not taken"),
    "`1.CR2`, `1.nef`, `1.dng`": (dict.fromkeys(("1.CR2", "1.nef", "1.dng"), encode("TIFF")), "camera raw; convert it to JPEG"),
    "`1.psd`, `1.svg`, `1.jp2`": (
        dict.fromkeys(("1.psd", "1.svg", "1.jp2"), b"?"),
        "a format that is not read; convert it to PNG",
    ),
    "`1.zip`, `1.tar.gz`, `1.rar` in a folder": (
        dict.fromkeys(("1.zip", "1.tar.gz", "1.rar"), b"?"),
        "an archive; unpack it, or give it as images_uri",
    ),
    "`.1.jpg`, `.git/1.jpg`, `__MACOSX/1.jpg`": (dict.fromkeys((".1.jpg", ".git/1.jpg", "__MACOSX/1.jpg"), JPEG), "hidden"),
    "`@eaDir/1.jpg`, `Thumbs/1.jpg`": (dict.fromkeys(("@eaDir/1.jpg", "Thumbs/1.jpg"), JPEG), "thumbnail"),
    "`#recycle/1.jpg`, `$RECYCLE.BIN/1.jpg`": (dict.fromkeys(("#recycle/1.jpg", "$RECYCLE.BIN/1.jpg"), JPEG), "deleted"),
}


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def pack_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def pack_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


PLACES = {"folder": lambda path, files: lay(path / "photos", files)}
PLACES |= {
    "tgz": lambda path, files: pack_tar(path / "a.tgz", files),
    "zip": lambda path, files: pack_zip(path / "a.zip", files),
}


def tell(uri):
    """Maps the name of each file at a URI to why it is skipped."""
    return {item.name: reason for item, reason in image_files.with_skip_reasons(reading.walk(uri))}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("line", CASES)
def test_what_becomes_of_a_file_by_its_name_and_bytes(tmp_path, line, place):
    files, reason = CASES[line]
    assert tell(PLACES[place](tmp_path, files)) == dict.fromkeys(files, reason)


def test_each_line_of_the_documentation_is_tested():
    assert data_page.first_cells("Files") == list(CASES)


@pytest.mark.parametrize("place", PLACES)
def test_images_of_any_name_are_read_by_their_uri_and_labelled_by_their_folder(tmp_path, place):
    names = ("a b/1.jpg?width=640", "a b/2.jpg#x", "a b/3.jpg?endpoint=x", "50%25 c/#1", "50%25 c/%41?#&=+;", "50%25 c/f81a")
    files = {name: encode(shade=number) for number, name in enumerate(names)}
    found = scan.scan_images(PLACES[place](tmp_path, files))
    assert {row.name: row.label for row in found.rows} == {name: name.partition("/")[0] for name in names}
    with reading.Reader() as reader:
        assert {row.name: reader.read(row.uri) for row in found.rows} == files
    assert all(validate_image(files[row.name]).width == 32 for row in found.rows)


def test_a_png_called_jpg_is_converted_by_its_bytes():
    assert validate_image(encode("PNG")).format == "png"


def test_usual_endings_and_those_of_other_files_are_not_read():
    def fail(size: int = -1) -> bytes:
        pytest.fail("a file was read")

    names = ["1.jpg", "1.tiff", "1.AVIF", "1.txt", ".hidden", "1.mov", "Thumbs/1", "a\nb"]
    for random_access in (True, False):
        items = [reading.Item(name, name, 10, fail, random_access=random_access) for name in names]
        reasons = [reason for _, reason in image_files.with_skip_reasons(items)]
        assert [bool(reason) for reason in reasons] == [False] * 3 + [True] * 5


def test_only_the_first_bytes_of_a_file_are_read(tmp_path):
    lay(tmp_path, {"1": JPEG, "2": b"\0"})
    sizes = []

    def read(size: int = -1) -> bytes:
        sizes.append(size)
        return JPEG[:size]

    items = [reading.Item(str(number), str(number), 10**12, read, random_access=True) for number in range(9000)]
    assert [reason for _, reason in image_files.with_skip_reasons(items)] == [""] * 9000
    assert sizes == [image_files.HEAD_BYTES] * 9000


def test_a_member_of_an_archive_is_read_once(tmp_path):
    reads = []

    def read(size: int = -1) -> bytes:
        reads.append(size)
        return JPEG if size < 0 else JPEG[:size]

    (item, reason), (large, _) = image_files.with_skip_reasons(
        [reading.Item(name, name, size, read) for name, size in (("1", len(JPEG)), ("2", 1 << 30))]
    )
    assert (reason, item.read(), item.read(2), reads) == ("", JPEG, JPEG[:2], [-1, image_files.HEAD_BYTES])
    assert large.read(3) == JPEG[:3]


def test_a_file_that_cannot_be_read_is_skipped():
    def fail(size: int = -1) -> bytes:
        raise PermissionError(13, "Permission denied")

    ((_, reason),) = image_files.with_skip_reasons([reading.Item("1", "1", 10, fail, random_access=True)])
    assert reason == "cannot be read"


@pytest.mark.parametrize("suffix", image_files.IMAGE_SUFFIXES)
def test_each_usual_ending_is_of_a_format_that_is_read(suffix):
    assert OPENED.get(suffix) or Image.registered_extensions()[suffix] in PILLOW_FORMATS


def test_images_told_by_their_first_bytes_are_counted_and_named(tmp_path):
    names = [f"cat/{number}.jfif" for number in range(5)]
    uri = lay(tmp_path / "photos", dict.fromkeys(names, JPEG) | {"cat/a.jpg": encode(shade=1)})
    assert scan.scan_images(uri).notes == [
        "5 files without a usual ending are images by their first bytes: cat/0.jfif, cat/1.jfif, cat/2.jfif and 2 more."
    ]


def data_with(skipped):
    """Two classes of ten images, and other files."""
    images = {f"{label}/{n}.jpg": f"{label} {n}".encode() for label in ("cat", "dog") for n in range(10)}
    return images | dict.fromkeys(skipped, b"no")


def run_ingest(tmp_path, files, check_images=True):
    uri, page = lay(tmp_path / "photos", files), tmp_path / "page.html"
    ingest.ingest_images(uri, check_images=check_images, splits=2, table=tmp_path / "table.csv", page=page)
    return page.read_text()


def test_skipped_files_are_named_by_reason_in_the_output_and_on_the_page(tmp_path, capsys):
    page = run_ingest(tmp_path, data_with([*(f"cat/{n:02d}.nef" for n in range(12)), "LICENSE.txt", "cat/two\nlines.jpg"]))
    assert capsys.readouterr().out.splitlines() == [
        "12 files skipped: camera raw; convert it to JPEG (cat/00.nef, cat/01.nef, cat/02.nef and 9 more)",
        "1 file skipped: control character in the name (cat/two\\nlines.jpg)",
        "1 file skipped: not an image (LICENSE.txt)",
        "20 images in 2 classes, 14 files skipped",
    ]
    assert "13 of 34 files are skipped for what they are: camera raw 12, not an image 1; see the names below." in page
    assert "<summary>the first 10 names</summary>" in page and "<summary>names</summary>" in page
    assert all(f"<bdi>cat/{n:02d}.nef</bdi>" in page for n in range(10)) and "cat/10.nef" not in page


@pytest.mark.slow
def test_files_skipped_for_their_format_are_noted_only_above_a_hundredth():
    found = Catalog(scan.scan_images("sample").rows[:99])
    found.skipped.add("not an image", "a.txt")
    assert len(found.rows) == 99 and image_files.format_notes(found) == []
    for number in range(100):
        found.skipped.add("hidden", f".{number}")
    found.skipped.add("a video; its frames are not taken", "b.mov")
    found.skipped.add("an empty file", "c")
    assert image_files.format_notes(found) == [
        "3 of 202 files are skipped for what they are: not an image 1, a video 1, an empty file 1; see the names below."
    ]


FORMATS = "Give images as JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF or HEIC, and convert others to JPEG or PNG."
LAYOUT = "Put the images into one folder per class, such as photos/daisy/1.jpg and photos/tulip/2.jpg."


@pytest.mark.parametrize(
    ("files", "others", "remedy"),
    [
        (
            ["cat/1.nef", "cat/2.nef", "dog/1.nef", "dog/2.nef", "cat/notes.txt"],
            "4 files skipped: camera raw; convert it to JPEG (cat/1.nef, cat/2.nef, dog/1.nef and 1 more); "
            "1 file skipped: not an image (cat/notes.txt)",
            FORMATS,
        ),
        (["cat/f81a", "dog/a7b2"], "2 files skipped: not an image (cat/f81a, dog/a7b2)", FORMATS),
        (["LICENSE.txt"], "1 file skipped: not an image (LICENSE.txt)", f"{FORMATS} {LAYOUT}"),
        (
            ["1.jpg", "notes.txt"],
            "1 file skipped: not an image (notes.txt); 1 file skipped: not in a class folder (1.jpg)",
            LAYOUT,
        ),
        ([], "no files", LAYOUT),
    ],
    ids=["raw", "no images", "no folders", "loose", "nothing"],
)
def test_without_any_image_the_error_names_the_files_and_a_remedy_that_fits(tmp_path, files, others, remedy):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError) as rejected:
        run_ingest(tmp_path, dict.fromkeys(files, b"no"))
    assert str(rejected.value) == f"error: images_uri must contain images; got none at {tmp_path}/photos ({others}). {remedy}"


def test_boxed_images_of_any_name_are_found(tmp_path):
    boxed_images.data(tmp_path / "boxed", pictures=20)
    expected = annotations.scan_annotated_images(str(tmp_path / "boxed"))
    for row in expected.rows:
        file = tmp_path / "boxed" / row.name
        file.rename(file.with_suffix(""))
    found = annotations.scan_annotated_images(str(tmp_path / "boxed"))
    assert [(row.content_id, row.objects) for row in found.rows] == [(row.content_id, row.objects) for row in expected.rows]
    assert any("20 files without a usual ending are images" in note for note in found.notes)


def test_names_in_the_output_are_printable():
    skipped = SkippedFiles()
    skipped.add("hidden", "a\udcff\n\u2028ü花.jpg")
    assert skipped.lines() == ["1 file skipped: hidden (a\\udcff\\n\\u2028ü花.jpg)"]
