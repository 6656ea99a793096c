"""Pickles of arrays: what NumPy writes is read; what a stranger writes neither acts nor crashes."""

import io
import pickle
import random
import struct
import time
from contextlib import suppress

import numpy as np
import pytest
from hostile_pickles import (
    BUFFER_AS_OBJECTS,
    BYTES_AS_OBJECTS,
    POINTERS,
    RECONSTRUCT,
    TAME,
    Call,
)

from d2_hloc.files import safe_pickle
from d2_hloc.files.safe_pickle import PickleError, PickleRefused

PROTOCOLS = (2, 3, 4, 5)
MUTATIONS = 1500


def objects(*values):
    array = np.empty(len(values), dtype=object)
    for k, value in enumerate(values):
        array[k] = value
    return array


def scene():
    """Rows as a training scene has them: text, None, matrices, pairs with a score."""
    matrix = np.arange(9.0).reshape(3, 3)
    return objects(
        "images/a.jpg",
        None,
        matrix,
        np.asfortranarray(matrix),
        matrix.astype(">f4"),
        ((0, 1), np.float64(0.8), None),
        [np.array(["i", "viewpoint"]), np.array([1, 2]), np.array([True, False])],
        {np.int64(3): np.float32(0.5), "b": b"\x00\xff"},
        objects("x", (1, 2)),
        np.empty((0, 4)),
    )


def assert_same(found, expected):
    assert type(found) is (
        type(expected) if not isinstance(expected, np.generic) else type(expected.item())
    )
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.dtype != object:
            assert found.tolist() == expected.tolist()
            return
    if isinstance(expected, dict):
        assert list(found) == [key.item() if hasattr(key, "item") else key for key in expected]
        found, expected = found.values(), expected.values()
    if isinstance(expected, str | bytes) or not hasattr(expected, "__iter__"):
        assert found == expected
    else:
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("package", [b"numpy._core", b"numpy.core"])
def test_what_numpy_pickles_comes_back(protocol, package):
    data = pickle.dumps(scene(), protocol=protocol)
    if protocol < 4:  # names are not counted there, so that they can be replaced
        data = data.replace(b"numpy._core", package).replace(b"numpy.core", package)
    assert_same(safe_pickle.read_pickle(data), scene())


def npy(data, shape, dtype="|O"):
    """A .npy file around bytes."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def test_what_python_2_wrote_comes_back():
    """Bytes are its text, to be read as latin1."""
    numbers = struct.pack("<2d", 0.25, -3.0)
    inner = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x03U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + numbers + b"tb"
    )
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b"
        b"\x87R(K\x01K\x03\x85cnumpy\ndtype\nq\x03U\x02O8K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89](U\x05a.jpgN" + inner + b"etb."
    )
    found = safe_pickle.read_npy(io.BytesIO(npy(data, (3,))))
    assert found[:2].tolist() == ["a.jpg", None]
    assert found[2].tolist() == [0.25, -3.0]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).T,
        np.array(["a", "bc"]),
        np.array([["é"]], ">U3"),
        np.zeros((0, 3)),
        np.array(2.5),
    ],
)
def test_arrays_of_plain_values_come_back(array):
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    found = safe_pickle.read_npy(file)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "attack",
    [
        BYTES_AS_OBJECTS,
        BUFFER_AS_OBJECTS,
        Call(np.float64(0).__reduce__()[0], TAME, POINTERS[:8]),
        Call(RECONSTRUCT, np.ndarray, (8,), "O"),
        Call(RECONSTRUCT, np.dtype, (0,), b"b"),
        Call(np.ndarray, (8,), "O"),
        Call(
            *(RECONSTRUCT, np.ndarray, (0,), b"b"),
            state=(1, (1 << 20,), np.dtype("f8"), False, POINTERS),
        ),
        Call(
            *(RECONSTRUCT, np.ndarray, (0,), b"b"),
            state=(1, (-1, -8), np.dtype("f8"), False, POINTERS),
        ),
        Call(
            *(RECONSTRUCT, np.ndarray, (0,), b"b"),
            state=(1, (1 << 62, 1 << 62, 0), np.dtype("O"), False, []),
        ),
        Call(
            *(RECONSTRUCT, np.ndarray, (0,), b"b"),
            state=(1, (3,), np.dtype("O"), False, [None]),
        ),
        np.zeros(2, dtype=[("a", "O")]),
        np.zeros(2, dtype="V8"),
        np.datetime64("2020-01-01"),
        Call(np.dtype, "f8,O"),
        Call(eval, "1"),
        Call(getattr, 1, "real"),
        {(1, 2): 3},
        1 << 70,
        {1, 2},
        io.BytesIO(),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_what_would_act_or_lie_about_its_bytes_is_refused(protocol, attack):
    data = pickle.dumps(objects(attack), protocol=protocol)
    with pytest.raises(PickleError, match=r"^(it|its) "):
        safe_pickle.read_pickle(data)


def test_the_name_that_is_asked_for_is_told():
    with pytest.raises(PickleRefused, match=r"^it asks for builtins\.eval$"):
        safe_pickle.read_pickle(pickle.dumps(Call(eval, "1")))


MANY = b"h\x00" * 1000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"N",
        b"NN.",
        b"0.",
        b"K\x01K\x02\x86R.",
        b"]q\x00h\x00a.",  # a list in itself
        b"]" + b"q\x00]h\x00a" * 60 + b".",  # deep
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"N" + b"\x85" * 200_000 + b".",
        b"}" + b"N" + b"\x85" * 200_000 + b"Ns.",  # the hash of it would overflow the stack
        b"(Nq\x00" + b"".join(b"](" + MANY + b"eq\x00" for _ in range(5)) + b"t.",  # 10^15 values
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",
        b"\x8b\xff\xff\xff\x7f.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x8c\x02\xff\xffN.",
        b"\x97.",
        b"\x82\x01.",
        b"Pid\n.",
    ],
)
def test_a_pickle_that_is_no_pickle_is_an_error_at_once(data):
    start = time.process_time()
    with pytest.raises(PickleError):
        safe_pickle.read_pickle(data)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("data", [b"Nr\xff\xff\xff\x7f.", b"\x95" + b"\xff" * 8 + b"N."])
def test_memory_is_taken_for_what_is_there(data):
    """Python's own unpickler makes room for two thousand million things to remember."""
    assert safe_pickle.read_pickle(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x03\x00" + npy(b"", (0,))[8:],
        npy(b"", (3,), "<f8"),
        npy(b"", (1 << 40, 1 << 40), "<f8"),
        npy(b"", (1 << 50, 0), "<f8"),
        npy(b"", (3,), "<U0"),
        npy(b"\x00\x00\x11\x00", (1,), "<U1"),  # no code point
        npy(b"\x00\x02", (2,), "|b1"),
        npy(b"\x00" * 24, (3,), "<M8[s]"),
        npy(b"\x00" * 24, (3,), "|V8"),
        npy(b"\x00" * 24, (-3,), "<f8"),
        npy(b"\x00" * 24, "-" * 9000 + "3", "<f8"),
        npy(b"\x00" * 24, "(" * 3000 + ")" * 3000, "<f8"),
        npy(pickle.dumps(None), (3,)),
        npy(pickle.dumps(objects(1, 2)), (3,)),
    ],
)
def test_a_file_that_is_damaged_is_an_error(data):
    with pytest.raises(PickleError, match=r"^(it|its) "):
        safe_pickle.read_npy(io.BytesIO(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cut_file_is_an_error_wherever_it_is_cut(protocol):
    data = pickle.dumps(scene(), protocol=protocol)
    for end in range(0, len(data), 7):
        with pytest.raises(PickleError):
            safe_pickle.read_pickle(data[:end])


def mutated(data, rng):
    """A few bytes replaced, doubled, moved or left out."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randrange(len(found)) for _ in range(2))
        change = rng.randrange(5)
        if change == 0:
            found[at] = rng.randrange(256)
        elif change == 1:
            found[at] = rng.choice(b"().0NRabcdehqrstu\x85\x86\x87\x8c\x8e\x93\x94\x95\x96")
        elif change == 2:
            del found[at : min(to, at + 9)]
        elif change == 3:
            found[at:at] = found[at : min(to, at + 40)]
        else:
            found[at : at + 8] = struct.pack("<q", rng.choice([0, -1, 1 << 31, 1 << 62]))
    return bytes(found)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_any_mutation_is_read_or_refused(protocol):
    rng, data = random.Random(protocol), pickle.dumps(scene(), protocol=protocol)
    whole = npy(data, (10,))
    for _ in range(MUTATIONS):
        for read, good in (
            (safe_pickle.read_pickle, data),
            (lambda d: safe_pickle.read_npy(io.BytesIO(d)), whole),
        ):
            with suppress(PickleError):
                repr(read(mutated(good, rng)))  # touches every value
