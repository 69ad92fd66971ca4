import gzip
import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardCorrupt
from pipeline.io.tarscan import BLOCK, Member, TarScan, scan_tar

END = 2 * BLOCK
PATIENT = settings(
    max_examples=250,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def tar(members, *, format=tarfile.USTAR_FORMAT, end=True):
    """An archive of (name, bytes) or TarInfo, without the padding to 10,240 bytes."""
    stream = io.BytesIO()
    writer = tarfile.TarFile(fileobj=stream, mode="w", format=format)
    for member in members:
        if isinstance(member, tarfile.TarInfo):
            writer.addfile(member, io.BytesIO(b"d" * member.size))
        else:
            entry = tarfile.TarInfo(member[0])
            entry.size = len(member[1])
            writer.addfile(entry, io.BytesIO(member[1]))
    return stream.getvalue() + bytes(END if end else 0)


def header(name, type_, size=0, **fields):
    """One raw block, with a correct checksum for whatever it says."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = type_, size
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry.tobuf(tarfile.GNU_FORMAT)


def resealed(block, at, value):
    """The block with other bytes at a place, and the checksum that fits them."""
    changed = block[:at] + value + block[at + len(value) :]
    checksum = sum(changed[:148]) + sum(changed[156:]) + 8 * ord(" ")
    return changed[:148] + b"%06o\0 " % checksum + changed[156:]


def padded(data):
    return data + bytes(-len(data) % BLOCK)


FIFTEEN = [
    (f"{i:05d}.{suffix}", bytes([i]) * 700) for i in range(5) for suffix in ("jpg", "txt", "json")
]
ARCHIVE = tar(FIFTEEN)
STRIDE = 3 * BLOCK  # a header and 700 bytes of data


@pytest.fixture
def scan(tmp_path):
    def run(data, **options):
        path = tmp_path / "x.tar"
        path.write_bytes(data)
        return scan_tar(path, **options)

    return run


def test_a_sound_archive(scan):
    found = scan(ARCHIVE)
    assert found.damage == ""
    assert found.end_marked
    assert [member.name for member in found.members] == [name for name, _ in FIFTEEN]
    assert [ARCHIVE[m.offset : m.offset + m.size] for m in found.members] == [d for _, d in FIFTEEN]


def test_padding_to_records_is_sound(scan):
    assert scan(ARCHIVE + bytes(10_240)).damage == ""


# The corruptions of which tarfile reports only one, the cut in data (CPython issue 120740).


def test_cut_at_a_member_boundary_lacks_the_end_marker(scan):
    """It cannot be told from a writer that omits the marker; counts against the Parquet can."""
    found = scan(ARCHIVE[: 6 * STRIDE])
    assert (len(found.members), found.damage, found.end_marked) == (6, "", False)


def test_cut_in_a_header(scan):
    found = scan(ARCHIVE[: 6 * STRIDE + 100])
    assert len(found.members) == 6
    assert found.damage == f"byte {6 * STRIDE}: the header is cut after 100 bytes"


def test_cut_in_data(scan):
    at = 6 * STRIDE + BLOCK
    found = scan(ARCHIVE[: at + 300])
    assert len(found.members) == 6
    assert found.damage == f"byte {at}: 700 bytes of data expected, 300 found"


def test_cut_in_padding(scan):
    found = scan(ARCHIVE[: 7 * STRIDE - 10])
    assert "padding of the last member is cut" in found.damage


def test_a_hole_of_zeros(scan):
    at = 6 * STRIDE
    found = scan(ARCHIVE[:at] + bytes(2048) + ARCHIVE[at + 2048 :])
    assert len(found.members) == 6
    assert found.damage.endswith("data after the end of the archive")
    assert int(found.damage.split(":")[0].removeprefix("byte ")) >= at + 2048 - BLOCK


def test_one_block_of_zeros_between_members(scan):
    at = 6 * STRIDE
    assert scan(ARCHIVE[:at] + bytes(BLOCK) + ARCHIVE[at:]).damage == (
        f"byte {at}: a block of zeros between members"
    )


@pytest.mark.parametrize("place", [0, 99, 124, 135, 150, 156, 300, 500])
def test_a_flipped_byte_in_a_header(scan, place):
    at = 6 * STRIDE
    data = bytearray(ARCHIVE)
    data[at + place] ^= 0x11
    found = scan(bytes(data))
    assert len(found.members) == 6
    assert found.damage.startswith(f"byte {at}: no valid tar header")


def test_garbage_after_the_end_is_named_to_the_byte(scan):
    found = scan(ARCHIVE + bytes(100) + b"garbage")
    assert found.damage == f"byte {len(ARCHIVE) + 100}: data after the end of the archive"


def test_garbage_far_after_the_end(scan):
    assert scan(ARCHIVE + bytes(3 << 20) + b"x").damage.startswith(
        f"byte {len(ARCHIVE) + (3 << 20)}:"
    )


def test_an_empty_file(scan):
    assert scan(b"") == TarScan((), "byte 0: the file is empty", end_marked=False)


def test_an_archive_of_no_members_is_sound(scan):
    assert scan(bytes(END)) == TarScan((), "", end_marked=True)


@pytest.mark.parametrize("kept", [0, BLOCK, BLOCK + 200])
def test_a_missing_end_marker_is_mild(scan, kept):
    found = scan(tar(FIFTEEN, end=False) + bytes(kept))
    assert (len(found.members), found.damage, found.end_marked) == (15, "", False)


def test_a_compressed_archive_is_named_at_once(scan):
    packed = gzip.compress(ARCHIVE, compresslevel=0)
    assert scan(packed).damage.startswith("byte 0: no valid tar header")


def test_two_archives_in_a_row(scan):
    assert (
        scan(ARCHIVE + ARCHIVE).damage == f"byte {len(ARCHIVE)}: data after the end of the archive"
    )


def test_require_sound_names_file_and_offset(tmp_path, scan):
    path = tmp_path / "x.tar"
    with pytest.raises(ShardCorrupt, match=r"x.tar: byte 9216: the header is cut.*fetch"):
        scan(ARCHIVE[: 6 * STRIDE + 100]).require_sound(path)
    assert scan(ARCHIVE).require_sound(path).members


def test_too_many_members(scan):
    assert scan(ARCHIVE, max_members=15).damage == ""
    assert scan(ARCHIVE, max_members=14).damage == "more than 14 members"


# Agreement with tarfile.


def by_tarfile(data):
    """Its members, with bytes that are not UTF-8 escaped as ours are."""
    with tarfile.open(fileobj=io.BytesIO(data), errors="backslashreplace") as archive:
        return [
            Member(m.name, m.offset_data, m.size if m.isreg() else 0, m.isreg()) for m in archive
        ]


LONG = "a/" * 60 + "é" * 40 + ".jpg"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_format(scan, format):
    long = LONG if format != tarfile.USTAR_FORMAT else "a/" * 60 + "b.jpg"
    link = tarfile.TarInfo("l" * 50)
    link.type, link.linkname = tarfile.SYMTYPE, "t" * 90
    data = tar([("short.jpg", b"x"), (long, b"y" * 600), link, ("last.txt", b"")], format=format)
    found = scan(data)
    assert found.damage == ""
    assert list(found.members) == by_tarfile(data)
    assert long in {member.name for member in found.members}


def test_a_long_link_is_no_member_and_does_not_take_the_long_name(scan):
    link = tarfile.TarInfo("n" * 150)
    link.type, link.linkname = tarfile.SYMTYPE, "t" * 150
    data = tar([link, ("a.jpg", b"x")], format=tarfile.GNU_FORMAT)
    found = scan(data)
    assert list(found.members) == by_tarfile(data)
    assert [member.name for member in found.members] == ["n" * 150, "a.jpg"]


def test_the_first_of_several_names_counts_as_in_tarfile(scan):
    def long(name):
        return header("././@LongLink", tarfile.GNUTYPE_LONGNAME, len(name) + 1) + padded(
            name + b"\0"
        )

    record = b"14 path=p.jpg\n"
    pax = header("pax", tarfile.XHDTYPE, len(record)) + padded(record)
    for before in (long(b"l.jpg") + pax, pax + long(b"l.jpg"), long(b"l.jpg") + long(b"m.jpg")):
        data = before + header("own.jpg", tarfile.REGTYPE, 1) + padded(b"x") + bytes(END)
        assert list(scan(data).members) == by_tarfile(data)


def test_a_name_ends_at_its_first_nul(scan):
    """A scanner that reads on sees another key than the reader that follows it."""
    name = b"good.jpg\0evil.jpg\0"
    data = header("x", tarfile.GNUTYPE_LONGNAME, len(name)) + padded(name)
    data += header("own.jpg", tarfile.REGTYPE, 1) + padded(b"x") + bytes(END)
    assert [member.name for member in scan(data).members] == ["good.jpg"]
    assert list(scan(data).members) == by_tarfile(data)


def test_links_folders_and_devices_are_irregular_and_have_no_data(scan):
    kinds = [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
    ]
    data = b"".join(header(f"x{i}", kind, 10**6) for i, kind in enumerate(kinds))
    data += header("a.jpg", tarfile.REGTYPE, 1) + padded(b"x") + bytes(END)
    found = scan(data)
    assert found.damage == ""
    assert [member.regular for member in found.members] == [False] * 6 + [True]
    assert list(found.members) == by_tarfile(data)


def test_a_folder_cannot_hide_a_member_from_the_scan(scan):
    """tarfile ignores a folder's stated size, so what lies in its "data" is a member."""
    hidden = header("hidden.jpg", tarfile.REGTYPE, 1) + padded(b"h")
    data = header("folder", tarfile.DIRTYPE, len(hidden)) + hidden
    data += header("seen.jpg", tarfile.REGTYPE, 1) + padded(b"s") + bytes(END)
    assert [member.name for member in scan(data).members] == ["folder", "hidden.jpg", "seen.jpg"]
    assert list(scan(data).members) == by_tarfile(data)


@pytest.mark.parametrize("type_", [tarfile.AREGTYPE, tarfile.CONTTYPE, b"Z"])
def test_other_types_with_data(scan, type_):
    data = header("a.jpg", type_, 600) + padded(b"d" * 600) + bytes(END)
    assert [(m.offset, m.size) for m in scan(data).members] == [(BLOCK, 600)]
    assert scan(data).members[0].regular == by_tarfile(data)[0].regular


def test_sparse_members_are_refused(scan):
    assert "sparse members are not read" in scan(header("s", tarfile.GNUTYPE_SPARSE)).damage


def pax(records, type_=tarfile.XHDTYPE):
    data = header("pax", type_, len(records)) + padded(records)
    return data + header("own.jpg", tarfile.REGTYPE, 1) + padded(b"x") + bytes(END)


@pytest.mark.parametrize(
    "records",
    [
        b"25 GNU.sparse.major=1\n\n\n\n",
        b"22 GNU.sparse.major=1\n",
        b"10 size=5\n",
    ],
)
def test_pax_records_that_move_data_are_refused(scan, records):
    assert scan(pax(records)).damage


def test_one_pax_path_for_all_members_is_refused(scan):
    assert "one pax path for all" in scan(pax(b"14 path=p.jpg\n", tarfile.XGLTYPE)).damage
    assert scan(pax(b"11 mtime=1\n", tarfile.XGLTYPE)).damage == ""


@pytest.mark.parametrize(
    "records",
    [
        b"path=p.jpg\n",
        b"0 path=p.jpg\n",
        b"99 path=p.jpg\n",
        b"13 path=p.jpg\n",
        b"14 path:p.jpg\n",
        b"5 =xx\n",
        b"9" * 5000 + b" path=p\n",
        b"14 path=p.jpg\n\0\0\0garbage",
        b"-1 path=p.jpg\n",
    ],
)
def test_malformed_pax_records(scan, records):
    assert "malformed pax record" in scan(pax(records)).damage


def test_many_small_pax_records_take_no_time(scan):
    """Two hundred thousand records: quadratic parsing would take minutes."""
    found = scan(pax(b"5 a=\n" * 200_000))
    assert found.damage == ""


def test_a_huge_extended_header_is_not_read(scan):
    data = header("x", tarfile.XHDTYPE, 2 << 20) + bytes(2 << 20) + bytes(END)
    assert "extended header of 2097152 bytes" in scan(data).damage


def test_an_endless_row_of_extended_headers(scan):
    """tarfile recurses over them."""
    one = header("x", tarfile.XHDTYPE, 11) + padded(b"11 mtime=1\n")
    assert "more than 16 extended headers" in scan(one * 3000 + bytes(END)).damage


@pytest.mark.parametrize("end", [b"", bytes(END)])
def test_an_extended_header_without_its_member(scan, end):
    one = header("x", tarfile.XHDTYPE, 11) + padded(b"11 mtime=1\n")
    assert "without its member" in scan(one + end).damage


def test_sizes_in_binary(scan):
    huge = header("a", tarfile.REGTYPE, 1 << 60)
    assert (
        "1152921504606846976 bytes of data expected, 1024 found" in scan(huge + bytes(END)).damage
    )
    negative = resealed(header("a", tarfile.REGTYPE, 1), 124, b"\xff" * 12)
    assert "negative size" in scan(negative + bytes(END)).damage


def test_names_that_are_not_unicode_can_be_written_to_a_table(scan):
    raw = resealed(header("ab.jpg", tarfile.REGTYPE), 1, b"\xff")
    assert scan(raw + bytes(END)).members[0].name == "a\\xff.jpg"


# Fuzzing: a sound verdict means the very members that were written, and nothing ever escapes.

FILES = st.lists(
    st.tuples(
        st.text("abcé/._0", min_size=1, max_size=140).filter(lambda name: name.strip("/")),
        st.binary(max_size=1500),
    ),
    max_size=6,
)


@PATIENT
@given(files=FILES, format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_any_valid_archive_reads_as_tarfile_reads_it(scan, files, format):
    data = tar([(name, content) for name, content in files], format=format)
    found = scan(data)
    assert found.damage == ""
    assert list(found.members) == by_tarfile(data)
    assert [data[m.offset : m.offset + m.size] for m in found.members] == [c for _, c in files]


MIXED = {
    name: tar([*FIFTEEN[:4], (LONG, b"long" * 300), ("e.txt", b"")], format=format)
    for name, format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT))
}
DAMAGES = {
    "cut": lambda data, at, extra: data[:at],
    "lost": lambda data, at, extra: data[:at] + data[at + len(extra) :],
    "put in": lambda data, at, extra: data[:at] + extra + data[at:],
    "hole": lambda data, at, extra: data[:at] + bytes(len(extra)) + data[at + len(extra) :],
    "flip": lambda data, at, extra: (
        data[:at] + bytes([data[at] ^ (extra[0] or 1)]) + data[at + 1 :]
    ),
}


@PATIENT
@given(
    kind=st.sampled_from(sorted(DAMAGES)),
    format=st.sampled_from(sorted(MIXED)),
    place=st.floats(0, 1, exclude_max=True),
    extra=st.binary(min_size=1, max_size=2000),
)
def test_one_damage_of_any_kind_is_named_or_harmless(scan, kind, format, place, extra):
    archive = MIXED[format]
    at = int(place * len(archive))
    damaged = DAMAGES[kind](archive, at, extra)
    intact = scan(archive).members
    found = scan(damaged)
    if found.damage or not found.end_marked:
        return
    if not damaged[at:].strip(b"\0"):  # a tail of zeros is how an archive ends
        assert found.members == intact[: len(found.members)]
        return
    assert [(m.offset, m.size) for m in found.members] == [(m.offset, m.size) for m in intact]
    for member, original in zip(found.members, intact, strict=True):
        # an extended header's name has no checksum: it may change, and its place does not
        assert member == original or original.name == LONG


@PATIENT
@given(data=st.binary(max_size=4000))
def test_anything_at_all_gives_a_verdict(scan, data):
    found = scan(data)
    assert found.damage or not found.members or not data.strip(b"\0")


@PATIENT
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(b"01256xgLKXS7Z"), st.integers(0, 2000), st.binary(max_size=700)),
        max_size=8,
    )
)
def test_valid_headers_in_any_order_never_escape_or_disagree(scan, blocks):
    """Each block has a right checksum, so that the fuzz reaches what lies behind it."""
    data = b"".join(
        header(f"m{i}.jpg", bytes([kind]), size) + padded(content)
        for i, (kind, size, content) in enumerate(blocks)
    ) + bytes(END)
    found = scan(data)
    if not found.damage and found.end_marked:
        readable = [m for m in by_tarfile(data) if m.regular]
        assert [m for m in found.members if m.regular] == readable
