"""Shards on a real S3 protocol (moto's server) and on a web server, both on this machine."""

import functools
import http.server
import threading
from pathlib import Path

import fsspec
import pytest
from shard_builder import ShardBuilder, jpeg, picture
from tenacity import wait_none

from pipeline.config import make_config
from pipeline.errors import FingerprintMismatch, MissingInput, PartFailed, ShardCorrupt
from pipeline.io import remote
from pipeline.io.remote import RemoteFile, fetch, list_shards
from pipeline.jobs import Job, run_job
from pipeline.registry import DEDUP
from pipeline.runner.progress import SilentProgress


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(remote, "_WAIT", wait_none())


@pytest.fixture
def local(tmp_path):
    """Three shards of three pictures and a copy; the last without metadata."""
    for number in range(3):
        builder = ShardBuilder(tmp_path / "local" / f"{number:05d}.tar")
        for i in range(3):
            builder.add(f"{number}{i}", jpeg(picture(10 * number + i)), f"picture {i}")
        builder.add(f"{number}copy", jpeg(picture(1)), "a copy").write(metadata=number < 2)
    return tmp_path / "local"


def dedup(out, *addresses, **sections):
    values = {"dataset": {"shards": list(map(str, addresses))}, **sections}
    return run_job(Job(make_config(values), out, DEDUP), SilentProgress())


def same_result(one: Path, other: Path) -> bool:
    names = ("duplicates.parquet", "export/keep.parquet", "export/shards/00001.tar")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


# --- S3 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_server():
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server, local, monkeypatch):
    """The shards in s3://bucket/shards, with credentials where a user has them."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    for path in local.iterdir():
        files.pipe_file(f"bucket/shards/{path.name}", path.read_bytes())
    yield files
    files.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "/", "/*.tar", "/0000?.tar", "/{00000..00002}.tar"])
def test_a_bucket_gives_what_the_same_files_here_give(bucket, local, tmp_path, name):
    summary = dedup(tmp_path / "run", f"s3://bucket/shards{name}")
    assert summary.rows["fetch"] == (3, 3) and summary.rows["scan"] == (12, 12)
    dedup(tmp_path / "plain", local)
    assert same_result(tmp_path / "run", tmp_path / "plain")


def test_what_lies_beside_an_object_comes_along(bucket):
    first, _, last = list_shards(["s3://bucket/shards/{00000..00002}.tar"])
    assert [file.name for file in first.files] == ["00000.tar", "00000.parquet", "00000_stats.json"]
    assert [file.name for file in last.files] == ["00002.tar"]
    assert first.url == "s3://bucket/shards/00000.tar"
    assert first.files[0].version.strip('"') == bucket.info("bucket/shards/00000.tar")[
        "ETag"
    ].strip('"')


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/shards/00009.tar", "s3://bucket/none", "s3://bucket/{a,b}.tar", "s3://nobucket"],
)
def test_an_object_that_is_not_there_is_named(bucket, address):
    with pytest.raises(MissingInput) as missed:
        list_shards([address])
    first = address.replace("{a,b}", "a")
    assert str(missed.value) == f"{first}: no .tar file there"


def test_an_object_replaced_between_two_runs_is_noticed(bucket, tmp_path):
    dedup(tmp_path / "run", "s3://bucket/shards")
    bucket.pipe_file("bucket/shards/00000.tar", bucket.cat_file("bucket/shards/00001.tar"))
    with pytest.raises(FingerprintMismatch, match="fetch/00000: params"):
        dedup(tmp_path / "run", "s3://bucket/shards")


def test_an_object_replaced_after_it_was_listed_is_not_read(bucket, tmp_path):
    """By another of the same size: only the entity tag tells."""
    (shard, *_) = list_shards(["s3://bucket/shards"])
    data = bucket.cat_file("bucket/shards/00000.tar")
    bucket.pipe_file("bucket/shards/00000.tar", data[::-1])
    with pytest.raises(MissingInput, match=r"00000.tar: replaced since it was listed; run again"):
        fetch(shard.files[0], tmp_path / "0.tar")
    assert not list(tmp_path.glob("*.tar"))


@pytest.mark.parametrize("breaks", [2, 99])
def test_a_broken_connection_is_tried_again(bucket, tmp_path, monkeypatch, breaks):
    get, tries = bucket.get_file, []

    def breaking(source, target, **options):
        tries.append(source)
        if len(tries) <= breaks:
            Path(target).write_bytes(b"half")
            raise ConnectionResetError("peer went away")
        return get(source, target, **options)

    monkeypatch.setattr(bucket, "get_file", breaking)  # fsspec gives out one a process
    (shard, *_) = list_shards(["s3://bucket/shards"])
    if breaks == 2:
        fetch(shard.files[0], tmp_path / "0.tar")
        assert (tmp_path / "0.tar").read_bytes() == bucket.cat_file("bucket/shards/00000.tar")
        assert len(tries) == 3
    else:
        with pytest.raises(MissingInput, match=r"^s3://bucket/shards/00000.tar: peer went away$"):
            fetch(shard.files[0], tmp_path / "0.tar")
        assert len(tries) == remote._TRIES and not list(tmp_path.glob("*0.tar*"))


def test_no_credentials_are_one_line(bucket, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MissingInput) as refused:
        list_shards(["s3://bucket/shards"])
    assert str(refused.value).startswith("s3://bucket/shards: ")
    assert "credentials" in str(refused.value) and "\n" not in str(refused.value)


def test_a_store_that_does_not_answer_is_one_line(bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MissingInput, match=r"^s3://bucket/shards: .*127.0.0.1:9") as lost:
        list_shards(["s3://bucket/shards"])
    assert "\n" not in str(lost.value)


# --- a web server --------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; `faults` say for a path what goes wrong there, a list is used up."""

    faults: dict

    def log_message(self, *_):
        pass

    def _fault(self):
        fault = self.faults.get(self.path)
        if isinstance(fault, list):
            return fault.pop(0) if fault else None
        return fault

    def do_HEAD(self):
        fault = self.faults.get(self.path)
        if isinstance(fault, int):
            self.send_error(fault)
        else:
            super().do_HEAD()

    def do_GET(self):
        fault = self._fault()
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault == "cut":
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
        else:
            super().do_GET()


@pytest.fixture
def web(local):
    """The shards on a web server; yields its address and what goes wrong there."""
    pytest.importorskip("aiohttp", reason="needs aiohttp")
    faults: dict = {}
    handler = type("Faulty", (Handler,), {"faults": faults})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(local))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", faults
        server.shutdown()
        fsspec.filesystem("http").clear_instance_cache()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "/*.tar", "/{00000..00002}.tar"])
def test_a_web_server_gives_what_the_same_files_here_give(web, local, tmp_path, name):
    summary = dedup(tmp_path / "run", f"{web[0]}{name}")
    assert summary.rows["fetch"] == (3, 3) and summary.rows["scan"] == (12, 12)
    dedup(tmp_path / "plain", local)
    assert same_result(tmp_path / "run", tmp_path / "plain")


@pytest.mark.parametrize("status", [403, 404])
def test_no_index_page_is_needed_for_shards_named_one_by_one(web, status):
    address, faults = web
    faults["/"] = status
    first, *_, last = list_shards([f"{address}/{{00000..00002}}.tar"])
    assert [file.name for file in first.files] == ["00000.tar", "00000.parquet", "00000_stats.json"]
    assert [file.name for file in last.files] == ["00002.tar"]
    assert first.files[0].version  # Last-Modified
    with pytest.raises(MissingInput, match=r"/00003.tar: no .tar file there"):
        list_shards([f"{address}/{{00000..00003}}.tar"])


def test_metadata_that_a_server_fails_to_give_is_not_taken_for_absent(web):
    address, faults = web
    faults["/"] = 404
    faults["/00001.parquet"] = 500
    with pytest.raises(MissingInput, match=r"00001.parquet"):
        list_shards([f"{address}/{{00000..00002}}.tar"])


def test_a_server_that_does_not_answer_is_one_line():
    pytest.importorskip("aiohttp", reason="needs aiohttp")
    for address in ("http://127.0.0.1:9/00000.tar", "http://127.0.0.1:9/shards"):
        with pytest.raises(MissingInput, match=r"^http://127.0.0.1:9/") as lost:
            list_shards([address])
        assert "\n" not in str(lost.value)


@pytest.mark.parametrize("fault", ["cut", 503])
def test_an_answer_that_breaks_off_is_asked_for_again(web, local, tmp_path, fault):
    address, faults = web
    (shard, *_) = list_shards([address])
    faults["/00000.tar"] = [fault, fault]
    fetch(shard.files[0], tmp_path / "0.tar")
    assert (tmp_path / "0.tar").read_bytes() == (local / "00000.tar").read_bytes()
    assert faults["/00000.tar"] == []


def test_a_part_that_never_comes_whole_is_set_aside_by_name(web, tmp_path):
    address, faults = web
    faults["/00001.tar"] = ["cut"] * 99
    with pytest.raises(PartFailed, match="fetch/00001 failed"):
        dedup(tmp_path / "run", address)
    log = (tmp_path / "run/receipts/fetch/00001.failed.json").read_text()
    assert f"{address}/00001.tar" in log
    assert len(list((tmp_path / "run/fetched").glob("*/00000.tar"))) == 1


def test_a_file_gone_since_it_was_listed_is_not_asked_for_again(web, local, tmp_path):
    address, _ = web
    (shard, *_) = list_shards([address])
    (local / "00000.tar").unlink()
    with pytest.raises(MissingInput, match=r"00000.tar"):
        fetch(shard.files[0], tmp_path / "0.tar")


def test_fewer_bytes_than_listed_are_refused(local, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe_file("/short/0.tar", b"x" * 100)
    monkeypatch.setattr(
        type(store), "get_file", lambda self, source, target: Path(target).write_bytes(b"x" * 9)
    )
    (shard,) = list_shards(["memory://short"])
    with pytest.raises(ShardCorrupt, match="9 bytes came, 100 were listed"):
        fetch(shard.files[0], tmp_path / "0.tar")
    with pytest.raises(MissingInput, match="replaced"):
        fetch(RemoteFile(shard.url, 99, shard.files[0].version), tmp_path / "0.tar")
    store.rm("/short", recursive=True)
