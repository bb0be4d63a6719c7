"""Files of PyTorch: both formats are read without PyTorch, and what a hostile one names is refused and not run."""

import base64
import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.networks.pytorch_file import MAGIC, PROTOCOL, read_tensors

# Written by torch.save of PyTorch 2.13 (compressed by zlib, in base 85) from the tensors of EXPECTED: `kernel` in the memory
# format channels_last, `head` and `tail` views of one storage. ZIPPED holds them as `state_dict` of a training's state with
# `epoch` and `optimizer`, in the format of today; OLDER alone, with _use_new_zipfile_serialization=False.
ZIPPED = (
    "c-p0w&u<$=6vxLuVml^3oHmd&KnPG^1Fd7Pf5cAG*eqfDV~a?PkW3}yZ0v2k>c;E09;Z-"
    "L$r4H=#DxPFI6ydZqBq0^`Ug~ka_FJrP>Dmu350}HAt89P>uh&7zi2YjXvXXLeBbx&?!4JWDG($i5+OTUj2t7fQLU@%%2Z9Ja=dv(6NLeC$<;dk>p-"
    "}24+2V4uhzjQ1<FzU)uJ+0DmArA!C$TFnx<5#syABEH;tNND76LrCklbd5(K$&2!Sh#(NHw#sZt%I#w%^AYOQF+P*&QiR;y5@(bA2|Iv<4)$Cblo2;GoZ6"
    "$o2MRMd2tzGYpELZs}&H3{e~2XL%5+YpsTDLl3$5l-"
    "?;0qlMXeVo)M`J|8(pwRzOo%tD{Fj#_E8Se|JD{>8n>KL&eu3L&pI988JeH4zP5);~lVN~;N!s8bI1ci|jjG8=^RSiyT^Ytz{wuAvg8}Ov$+kmGm>S+q&C"
    "3wc9uBtT!CM>F(+k)O+(G)wmXH6?SJcojq#q*|>4LHdJU$6vUr0`M+I4ccVy9|>q!E<=YmV4QhOTjCa+^MeIX(ku9<fbSjN{}?4^ok*?4d7jRf_e9oSz9w"
    "@YNjD=X=b{bS*AH{Y33;8OE6<<wy4r<!K_R3qTX1w_2x{y44gqdABB0;o1C<C3KWVZc-"
    "2g`p*Iu|Tu&?uuOUMyEHDp53U0#dQjk3{(c;fiI9G!6?Q$=!)|*saQ?DroT(}MrSN7vI&47z%3*UXl+UNDzci{~VUmCyCZpRm;aOBp|S3^F0%UECBb3=`g"
    "8GA#;FYCsdOe^b((ZXFJ3R%y-"
    "`oAs7;(z=5FCVf*S>HSU7@2+;zq@xTvZk&!)|3Vnh16jzWYf$*;VS&b?vsCC14E=>8(4XtDmtqKqA+{N)Xk=;lxhm|uyN+s6ReJe_VqA8=3P~7Dj^CpM=;"
    "QpEfCVdj^bnj$4}UAoELH2!hRFy%Q)U(bGELC>#+ZX^9YU{_Io&w;h4bw2hK-"
    "v%oSN?e{bgQE+e#jKxQZ1nI%PGf*kC>^8?z!POx{rx3rjdmQ%5t*H+i}y#n)dS6Y6MV72uCKf`W6yeP!T?)UFOp$pw)`X67owGlH<p#AmJZvB)fBp&%mlH"
    "9)^u$X_&|5#z=BX~f}qB~|<6y}cd`d;c3&YL-"
    "}|MS;7hlrm!YW#3lnR#g5xv#UJ5!(aV)x(_ILsk@WhxV{{u7l*b9mg({gWf=?D06=Mi`BOeu0P|1e^>xb>n+7lu>xL`*{4ZGt%*YX5i?0-"
    "bNLLP&t%inxeTAkW-`;c1fNXtnKWMJb7?-"
    "A&*k$e=JLz0@ADk`;7pf3X4dxUJVIhSoO{2+ytMNG7;%wH0kYSj;}vlh@iCXkZKueNlf$dyEW|@Dol=nOJOI47v)T=~@H;``soh@IS()7IjUEr1^s>&X<7"
    "SH?56gR5XZ3KiTV6KhWt}_U%?^h>Y}(5@cdVQJ)XQeJ+1>ZFvyDbPY}Omsx!(p|Y{$Xw@t!%i!MF?l*#YmqK^LV^=+yRh4xF~he$O}^u*Ua#x650|taRV>"
    "S--6>rJj(*^qcFgwf_O@X5N+"
)
OLDER = (
    "c-"
    "noFNpI6o5XYY#Cn+W^Wlvel?y!W!P27Z~38fT}*=jDnAd@DK+F;ok`=tm_rCeG8Cq4j&9y#&}pdW#c&?`5NAR)ncX`~bjOXC@j$G`u)_r`txy=edbIR9(%"
    "`KLz{#Xf)kdkXI>KqP&f5YqKr=C)niSf-wDxejnxppW7k+hWY726Z}C%K`qaE@G0s>QckEUQ-"
    "`ZD<DXE8k4^1dJNJkucz?Iau{S(K^Fps>nuT56?#3?Y@>`#+YD8F@uAnD9_`FoZ6*RKXuwH&2ETYgJ%`%Bx0&m;&7#p`mhFp%M;CjR-7y$-eAhFUWf4-"
    "6q-O(ltZXe&5TZ}SdE0HV$5B#*v_6J4^@==QEi09BrBYT(kO>=YcYD}d{sDuL1(irDucpv=20J7*r*djWO)(JPnL&3u8RRq=4Hsq7RtLsR)Hellm|v+Xb-"
    "4z+%&eM2?l^J->>BJwHn#?QBHCUC`!v`e(pbx~;lTfB2V+`(0b9zf!i37L!l8(Cn86VZj)tU{R)@l|h!pR|oZDNp>0mRC598(Ox?F-"
    "u#Pf(h5jMLDCj<Pc2!EQv84b=x%Wm1v;M@@Y4yFchX<P3hyb#0B$M6dQ{9**Z#Gt6b<#2=+y_V%bX^1`>o@7}WD3rG=$YllOSYawws00etNI_vRtwAjsQb"
    "xNz)Q1%A;dl<{SGLoqaPO}ookRLHq!$Vi^*VzY4I1I5IIcsX`S0n;)sj+Dlv)jLAb}uZHt3J2!W!IEg<uxuBHAqm^BUX^evl`@Pnj^TT+*@eNu!cV+94rn"
    "Vd<pP$|NlyON)6jbTtU+qmdaxCeeQgo-"
    "uBsUq{=(_$m6&K^)XIu@3DU#v|w@v`vi1(U;JEV4O!^Yw|-fKO1qdksIXtUlE5!(E4BE+)UI{Gwy3W*4=Du@%oLs8(bV`V?WTU{duz${spawHAe"
)
EXPECTED = {
    "kernel": np.arange(24, dtype="f4").reshape(2, 3, 2, 2) / 8,
    "head": np.arange(6, dtype="f4").reshape(2, 3) / 4 - 1,
    "tail": np.arange(6, dtype="f4") / 4 + 0.5,
    "wide": np.array([1.5, -2.0], "f8"),
    "half": np.array([0.5, 65504.0], "f2"),
    "brain": np.array([1.0, -3.140625], "f4"),  # bfloat16 in the file
    "steps": np.array(7, "i8"),
    "none": np.zeros((0, 4), "f4"),
}
TORCH_NAMES = b"ctorch._utils\n_rebuild_tensor_v2\n"


def written(encoded: str) -> bytes:
    return zlib.decompress(base64.b85decode(encoded))


def older(pickled: bytes, keys: list[str] = [], storages: bytes = b"") -> bytes:  # noqa: B006
    """Frames a pickle as a file of the older format."""
    header = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True})]
    return b"".join([*header, pickled, pickle.dumps(keys, 2), storages])


def zipped(pickled: bytes, method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """Frames a pickle as a file of the format of today, with storages by their key and further members."""
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in members.items():
            archive.writestr(f"archive/data/{key[1:]}" if key[0] == "_" else f"archive/{key}", content)
    return file.getvalue()


def tensor(offset: str, shape: str, strides: str, count: int = 4) -> bytes:
    """Writes the pickle of a state dict with the tensor `x` in storage 0, in pickle's text opcodes."""
    storage = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{count}\ntQ".encode()
    place = f"{offset}{shape}{strides}".encode()
    return b"(dVx\n" + TORCH_NAMES + b"(" + storage + place + b"I00\nN" + b"tRs."


def numbers(*values: int) -> str:
    return "(" + "".join(f"I{value}\n" for value in values) + "t"


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    (folder / "weights.pth").write_bytes(content)
    return read_tensors(folder / "weights.pth", str(folder / "weights.pth"))


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content)
    assert str(folder / "weights.pth") in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoded", [ZIPPED, OLDER], ids=["zip", "older"])
def test_reads_what_pytorch_wrote(tmp_path, encoded):
    found = read(tmp_path, written(encoded))
    assert found.keys() == EXPECTED.keys()
    for name, value in EXPECTED.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        np.testing.assert_array_equal(found[name], value)


class Hostile:
    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("frame", [older, zipped])
def test_a_function_named_in_a_file_is_refused_and_not_run(tmp_path, frame, protocol):
    message = refusal(tmp_path, frame(pickle.dumps({"conv.weight": Hostile(tmp_path)}, protocol)))
    assert message.startswith("error: a .pth checkpoint must hold tensors by name, and nothing that is run; got ")
    assert f"which names {os.mkdir.__module__}.mkdir. Save the weights alone: " in message
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Hostile(tmp_path)))  # what it would have done
    assert (tmp_path / "ran").exists()


def test_a_function_in_the_header_of_the_older_format_is_not_run_either(tmp_path):
    message = refusal(tmp_path, pickle.dumps(Hostile(tmp_path), 2) + older(pickle.dumps({}, 2)))
    assert "nothing that is run" in message and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins\neval", "torch\nload", "torch._utils\n_rebuild_parameter", "os\ngetcwd"])
def test_no_other_name_is_known(tmp_path, name):
    assert f"which names {name.replace(chr(10), '.')}. " in refusal(tmp_path, older(f"c{name}\n)R.".encode()))


@pytest.mark.parametrize("name", ["collections\nOrderedDict.fromkeys", "collections\nOrderedDict.__init__"])
def test_no_attribute_of_a_known_name_is_known(tmp_path, name):
    module, attribute = name.encode().split(b"\n")
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text for text in (module, attribute))
    assert f"which names {name.replace(chr(10), '.')}. " in refusal(tmp_path, older(b"\x80\x04" + texts + b"\x93)R."))


def test_a_type_of_storage_cannot_be_called(tmp_path):
    assert "(TypeError)" in refusal(tmp_path, older(b"ctorch\nFloatStorage\n)R."))


@pytest.mark.parametrize("name", ["collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage"])
@pytest.mark.parametrize("state", [({"call": 1}, None), (None, {"__doc__": "other"}), {"__class__": 1}])
def test_nothing_that_is_known_can_be_changed(tmp_path, name, state):
    build = pickle.dumps(state, 0).removesuffix(b".") + b"b."
    assert "torch.save" in refusal(tmp_path, older(f"c{name}\n".encode() + build))
    read(tmp_path, written(OLDER))


FOUR = np.arange(4, dtype="<f4").tobytes()


def test_a_tensor_is_read_at_its_place_in_the_storage(tmp_path):
    pickled = tensor("I1\n", numbers(3), numbers(1))
    for content in (older(pickled, ["0"], struct.pack("<q", 4) + FOUR), zipped(pickled, _0=FOUR)):
        assert read(tmp_path, content)["x"].tolist() == [1, 2, 3]


def test_a_big_endian_file_says_so(tmp_path):
    pickled = tensor("I1\n", numbers(3), numbers(1))
    swapped = np.arange(4, dtype=">f4").tobytes()
    assert read(tmp_path, zipped(pickled, _0=swapped, byteorder=b"big"))["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        ("I1\n", numbers(4), numbers(1)),
        ("I0\n", numbers(2), numbers(4)),
        ("I-1\n", numbers(2), numbers(1)),
        ("I3\n", numbers(2), numbers(-1)),
        ("I0\n", numbers(10**9, 10**9), numbers(0, 0)),
        ("I0\n", numbers(2, 2), numbers(1)),
        ("I0\n", "(Vtwo\nt", numbers(1)),
        ("N", numbers(2), numbers(1)),
    ],
    ids=["end", "stride", "offset", "backwards", "repeated", "axes", "text", "none"],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, offset, shape, strides):
    pickled = tensor(offset, shape, strides)
    for content in (older(pickled, ["0"], struct.pack("<q", 4) + FOUR), zipped(pickled, _0=FOUR)):
        assert "must be a whole file as torch.save writes it" in refusal(tmp_path, content)


@pytest.mark.parametrize("count", [2**40, -1, 3])
def test_a_storage_of_another_length_than_it_says_is_refused(tmp_path, count):
    pickled = tensor("I0\n", numbers(2), numbers(1))
    assert "torch.save" in refusal(tmp_path, older(pickled, ["0"], struct.pack("<q", count) + FOUR))
    assert "torch.save" in refusal(tmp_path, zipped(tensor("I0\n", numbers(2), numbers(1), count), _0=FOUR))


def test_a_compressed_archive_is_refused(tmp_path):
    bomb = zipped(tensor("I0\n", numbers(2), numbers(1), 2**22), zipfile.ZIP_DEFLATED, _0=bytes(2**24))
    assert "(BadZipFile)" in refusal(tmp_path, bomb)


@pytest.mark.parametrize("encoded", [ZIPPED, OLDER], ids=["zip", "older"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_torn_file_is_refused(tmp_path, encoded, share):
    content = written(encoded)
    (tmp_path / "weights.pth").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedError, match=r"whole file as torch\.save writes it"):
        read_tensors(tmp_path / "weights.pth", "weights.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", zipped(b"."), pickle.dumps({}), older(b"")])
def test_what_pytorch_did_not_write_is_refused(tmp_path, content):
    assert "must be a whole file as torch.save writes it" in refusal(tmp_path, content)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], "weights", {"state_dict": {"a": 1}}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    assert "must hold tensors by name; got none in " in refusal(tmp_path, older(pickle.dumps(content, 2)))
