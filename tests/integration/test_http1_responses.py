"""Responses: framing for every version and method, fields, header injection, and the extensions that shape them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.integration.apps.responses import INJECTIONS, LINKS, PIECE, WRONG_TYPES
from tests.integration.support import MIB, Client, Response, Server, Truncated, fresh_key, request_bytes, serve

IMF_FIXDATE = re.compile(
    rb"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("responses:app") as running:
        yield running


def in_step(client: Client) -> bool:
    """Whether the connection is still usable and exactly at the start of a response."""
    return client.request("/hello").body == b"hello"


# -- framing (RFC 9112 section 6)


def test_content_of_a_known_length_is_framed_by_it(client: Client) -> None:
    response = client.request("/by_length")
    assert (response.framing, response.body) == ("length", b"hello")
    assert in_step(client)


def test_content_of_unknown_length_is_chunked(client: Client) -> None:
    response = client.request("/of_many_pieces")
    assert (response.framing, response.body) == ("chunked", b"hello")
    assert in_step(client)


def test_content_in_one_message_is_framed_one_way_or_the_other(client: Client) -> None:
    response = client.request("/of_one_piece")
    assert response.framing in ("length", "chunked")
    assert response.body == b"hello"
    assert in_step(client)


@pytest.mark.parametrize("path", ["/of_nothing", "/of_many_empty_pieces", "/minimal"])
def test_no_content_is_a_complete_response_too(client: Client, path: str) -> None:
    response = client.request(path)
    assert (response.status, response.body) == (200, b"")
    assert response.framing in ("length", "chunked")
    assert in_step(client)


@pytest.mark.parametrize("path", ["/of_one_piece", "/of_many_pieces", "/of_nothing", "/many_messages"])
def test_http10_gets_no_chunks(client: Client, path: str) -> None:
    response = client.request(path, version="1.0")
    assert response.framing in ("length", "close")
    assert response.body == client_body(path)
    assert response.get(b"transfer-encoding") is None


def client_body(path: str) -> bytes:
    many = b"".join(b"%d;" % number for number in range(1000))
    return {"/of_nothing": b"", "/many_messages": many}.get(path, b"hello")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_thousand_messages_arrive_in_order(client: Client, version: str) -> None:
    assert client.request("/many_messages", version=version).body == client_body("/many_messages")


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 1_000_000, 20 * MIB])
@pytest.mark.parametrize("path", ["/big", "/big_of_one_piece"])
def test_content_of_any_size_arrives_whole(client: Client, path: str, size: int) -> None:
    response = client.request(f"{path}?{size}")
    assert response.body == (PIECE * (size // len(PIECE) + 1))[:size]
    assert in_step(client)


def test_each_piece_leaves_before_the_next_is_made(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/piece_by_piece?{key}"))
    head = client.read_head()
    assert head.get(b"transfer-encoding") == b"chunked"
    assert client.read(10) == b"5\r\nfirst\r\n"
    server.post_note(f"{key}-first")
    assert client.read(11) == b"6\r\nsecond\r\n"
    server.post_note(f"{key}-second")
    assert client.read(5) == b"0\r\n\r\n"
    assert in_step(client)


def test_the_head_leaves_while_the_application_waits(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/head_then_wait?{key}", version="1.0"))
    head = client.read_head()
    assert (head.status, head.get(b"x-early")) == (200, b"1")
    server.post_note(f"{key}-go")
    assert client.read_to_end() == b"done"


def test_buffers_are_content_like_bytes(client: Client) -> None:
    assert client.request("/buffers").body == b"hello you"
    assert in_step(client)


def test_changing_a_buffer_after_sending_it_changes_nothing(client: Client) -> None:
    assert client.request(f"/a_buffer_that_changes_later?{fresh_key()}").body == b"a" * 1_000_000


def test_the_application_cannot_choose_the_transfer_coding(client: Client) -> None:
    response = client.request("/own_transfer_encoding")
    assert (response.framing, response.body) == ("chunked", b"hello")
    assert client.request("/own_transfer_encoding_and_length").body == b"hello"
    assert in_step(client)
    assert client.request("/own_transfer_encoding", version="1.0").body == b"hello"


# -- responses without content (RFC 9110 sections 6.4.1, 9.3.2, 15)


@pytest.mark.parametrize(
    "path",
    [
        "/hello",
        "/by_length",
        "/of_one_piece",
        "/of_many_pieces",
        "/of_nothing",
        "/many_messages",
        "/big?5000000",
        "/buffers",
    ],
)
def test_head_gets_no_content_whatever_the_application_sends(client: Client, path: str) -> None:
    assert client.request(path, method="HEAD").status == 200
    assert in_step(client)


def test_head_gets_the_length_get_would_get(client: Client) -> None:
    assert client.request("/by_length", method="HEAD").get(b"content-length") == b"5"
    assert client.request("/big_of_one_piece?5000", method="HEAD").get(b"content-length") == b"5000"
    response = client.request("/of_many_pieces", method="HEAD")
    assert response.get(b"content-length") is None, "RFC 9110 8.6: the length GET would have, or none"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_pipelined_head_and_get_stay_in_step(client: Client, version: str) -> None:
    keep = ["Connection: keep-alive"]
    client.send(
        request_bytes("/hello", method="HEAD", version=version, headers=keep)
        + request_bytes("/hello", version=version, headers=keep)
    )
    assert client.read_response("HEAD").body == b""
    assert client.read_response().body == b"hello"


@pytest.mark.parametrize("path", ["/status", "/status_streamed"])
@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_204_and_304_have_no_content(client: Client, status: int, path: str, method: str) -> None:
    response = client.request(f"{path}?{status}", method=method)
    assert (response.status, response.body) == (status, b"")
    assert in_step(client)


@pytest.mark.parametrize("status", [204, 304])
def test_204_and_304_keep_an_http10_connection(client: Client, status: int) -> None:
    response = client.request(f"/status?{status}", version="1.0", headers=["Connection: keep-alive"])
    assert response.status == status
    assert in_step(client)


def test_the_fields_of_an_empty_response_are_kept(client: Client) -> None:
    assert client.request("/status?204").get(b"x-kept") == b"1"
    assert client.request("/status?304").get(b"x-kept") == b"1"


@pytest.mark.parametrize("path", ["/status", "/status_streamed"])
@pytest.mark.parametrize("status", [100, 101, 103, 199])
def test_an_interim_status_as_a_response_carries_no_content(
    server: Server, client: Client, status: int, path: str
) -> None:
    # http.response.start is for final responses; whatever the server makes of it, the content must not reach the wire.
    client.send(request_bytes(f"{path}?{status}", headers=["Connection: close"]))
    assert b"hid" not in client.read_to_end()
    server.permit_error("in status")


@pytest.mark.parametrize("status", [200, 201, 206, 301, 400, 404, 418, 451, 499, 500, 503, 511, 599])
def test_any_other_status_has_its_content(client: Client, status: int) -> None:
    response = client.request(f"/status?{status}")
    assert (response.status, response.body) == (status, b"hidden")
    assert in_step(client)


def test_the_reason_phrase_is_the_registered_one(client: Client) -> None:
    assert client.request("/status?200").reason == "OK"
    assert client.request("/status?404").reason == "Not Found"
    assert client.request("/status?503").reason == "Service Unavailable"


# -- fields


@pytest.mark.parametrize("path", ["/headers_as_a_generator", "/headers_as_tuples"])
def test_headers_may_be_any_iterable_of_pairs(client: Client, path: str) -> None:
    response = client.request(path)
    assert (response.get(b"x-one"), response.get(b"x-two"), response.body) == (b"1", b"2", b"hello")


def test_repeated_fields_stay_apart_and_in_order(client: Client) -> None:
    assert client.request("/cookies").all(b"set-cookie") == [b"a=1", b"b=2"]


def test_unusual_values_arrive_as_they_are(client: Client) -> None:
    response = client.request("/unusual_values")
    assert response.get(b"x-empty") == b""
    assert response.get(b"x-text") == b"\xc3\xa4\xff"
    assert response.get(b"x-tab") == b"a\tb"
    assert response.get(b"x-case") == b"Kept"


def test_hundreds_of_response_fields_arrive(client: Client) -> None:
    response = client.request("/many_headers")
    assert [response.get(b"x-%d" % number) for number in range(500)] == [b"v" * 100] * 500
    assert in_step(client)


def test_every_response_is_dated_and_signed_once(client: Client) -> None:
    response = client.request("/hello")
    date = response.get(b"date")
    assert date is not None
    assert IMF_FIXDATE.fullmatch(date)
    assert abs(parsedate_to_datetime(date.decode()) - datetime.now(UTC)) < timedelta(seconds=5)
    assert response.get(b"server") == b"ladybug"


@pytest.mark.parametrize("key", ["lower", "mixed"])
def test_the_date_and_server_of_the_application_win(client: Client, key: str) -> None:
    response = client.request(f"/own_date_and_server?{key}")
    assert response.get(b"date") == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert response.get(b"server") == b"mine"


def test_the_date_moves_on(client: Client) -> None:
    first = client.request("/hello").get(b"date")
    assert client.readable(1.1) is False
    assert client.request("/hello").get(b"date") != first


@pytest.mark.parametrize("value", ["", "close", "Close", "foo,close"])
def test_an_application_that_says_close_is_obeyed(client: Client, value: str) -> None:
    response = client.request(f"/closing?{value}")
    assert response.body == b"bye"
    assert response.closes
    assert len(response.all(b"connection")) == 1
    client.expect_end()


def test_an_application_that_says_keep_alive_does_not_keep_what_must_close(client: Client) -> None:
    response = client.request("/closing?keep-alive", headers=["Connection: close"])
    assert response.body == b"bye"
    assert response.closes
    client.expect_end()


def test_fields_of_the_command_line_are_added() -> None:
    with serve("responses:app", "--header", "X-One: 1", "--header", "X-Two:two: words", "--no-date-header") as server:
        response = server.request("/hello")
        assert (response.get(b"x-one"), response.get(b"x-two")) == (b"1", b"two: words")
        assert response.get(b"date") is None
        assert response.get(b"server") == b"ladybug"
        assert server.request("/own_date_and_server?x").get(b"date") == b"Sun, 06 Nov 1994 08:49:37 GMT"


def test_the_server_may_stay_unnamed() -> None:
    with serve("responses:app", "--no-server-header") as server:
        response = server.request("/hello")
        assert response.get(b"server") is None
        assert response.get(b"date") is not None


def test_a_server_field_of_the_command_line_replaces_ours() -> None:
    with serve("responses:app", "--header", "Server: other") as server:
        assert server.request("/hello").all(b"server") == [b"other"]


# -- header injection


@pytest.mark.parametrize("name", INJECTIONS)
def test_no_field_can_inject_another(server: Server, client: Client, name: str) -> None:
    client.send(request_bytes(f"/inject?{name.replace(' ', '-')}"))
    response = client.read_response()
    assert response.status == 500
    assert not [key for key, _ in response.fields if key in (b"x-injected", b"x-before", b"x")]
    assert b"x-injected" not in response.body
    server.expect_error("in inject")
    if response.closes:
        client.expect_end()
    else:
        assert in_step(client)


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_fields_of_wrong_types_are_refused(server: Server, client: Client, name: str) -> None:
    response = client.request(f"/inject_by_type?{name.replace(' ', '-')}")
    assert response.status == 500
    server.expect_error("in inject_by_type")


# -- the early hint extension


def test_the_extensions_are_announced(client: Client) -> None:
    extensions = client.request("/extensions").value()
    for name in ("http.response.pathsend", "http.response.early_hint", "http.response.trailers"):
        assert extensions[name] == {}


def test_an_early_hint_is_a_103_before_the_response(client: Client) -> None:
    response = client.request("/early_hint")
    assert (response.status, response.body) == (200, b"hello")
    assert [hint.status for hint in response.interim] == [103]
    assert response.interim[0].all(b"link") in (LINKS, [b", ".join(LINKS)])
    assert response.all(b"link") == []
    assert in_step(client)


def test_early_hints_leave_at_once(server: Server, client: Client) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/early_hint_then_wait?{key}"))
    first = client.read_head()
    assert (first.status, first.all(b"link")) == (103, LINKS[:1])
    server.post_note(f"{key}-go")
    response = client.read_response()
    assert [hint.all(b"link") for hint in response.interim] == [LINKS[1:]]


def test_http10_gets_no_early_hint(client: Client) -> None:
    client.send(request_bytes("/early_hint", version="1.0"))
    response = client.read_response()
    assert (response.status, response.interim, response.body) == (200, [], b"hello")


def test_an_early_hint_behind_the_start_is_ignored(server: Server, client: Client) -> None:
    """There the ASGI specification has it; the head of the response is on its way by then."""
    response = client.request("/early_hint_too_late")
    assert (response.status, response.interim) == (200, [])


def test_no_early_hint_can_inject_anything(server: Server, client: Client) -> None:
    response = client.request("/early_hint_injected")
    assert (response.status, response.interim) == (500, [])
    server.expect_error("in early_hint_injected")


# -- the trailers extension

TE = ["TE: trailers", "Connection: TE"]


def test_trailers_follow_the_content(client: Client) -> None:
    response = client.request("/trailers", headers=TE)
    assert (response.framing, response.body) == ("chunked", b"hello")
    assert response.trailers == [(b"x-sum", b"5"), (b"x-last", b"1")]
    assert in_step(client)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http10_gets_no_trailers(client: Client, method: str) -> None:
    response = client.request("/trailers", method=method, version="1.0")
    assert response.body == (b"hello" if method == "GET" else b"")
    client.expect_end()


def test_head_gets_no_trailers(client: Client) -> None:
    assert client.request("/trailers", method="HEAD", headers=TE).body == b""
    assert in_step(client)


def test_a_response_framed_by_its_length_has_no_trailers(client: Client) -> None:
    response = client.request("/trailers_with_a_length", headers=TE)
    assert (response.body, response.trailers) == (b"hello", [])
    assert in_step(client)


def test_no_trailer_can_inject_anything(server: Server, client: Client) -> None:
    client.send(request_bytes("/trailers_injected", headers=TE))
    with pytest.raises(Truncated) as cut:
        client.read_response()
    assert b"x-injected" not in (cut.value.response or Response("", 0, "", [])).body
    server.expect_error("in trailers_injected")


def test_promised_trailers_that_never_come_are_no_complete_response(server: Server, client: Client) -> None:
    client.send(request_bytes("/trailers_promised_and_forgotten", headers=TE))
    with pytest.raises(Truncated):
        client.read_response()


# -- the pathsend extension


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 30 MiB and a bit, of bytes that show where they stand."""
    path = tmp_path_factory.mktemp("files") / "file"
    block = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(32768))
    path.write_bytes(block * 30 + b"tail")
    return path


def test_a_file_is_sent_by_its_path(client: Client, file: Path) -> None:
    response = client.request(f"/pathsend?{file}")
    assert response.body == file.read_bytes()
    assert in_step(client)


def test_a_file_is_sent_by_its_length(client: Client, file: Path) -> None:
    size = file.stat().st_size
    response = client.request(f"/pathsend_with_length?{size}:{file}")
    assert response.framing == "length"
    assert response.body == file.read_bytes()
    assert in_step(client)


def test_a_file_is_sent_to_http10(client: Client, file: Path) -> None:
    assert client.request(f"/pathsend?{file}", version="1.0").body == file.read_bytes()


def test_a_file_is_sent_behind_an_answer_that_waited(client: Client, file: Path) -> None:
    assert client.request(f"/pathsend_after_waiting?{file}").body == file.read_bytes()
    assert in_step(client)


def test_pipelined_files_stay_in_step(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"small file")
    client.send((request_bytes(f"/pathsend_with_length?10:{path}") + request_bytes("/hello")) * 20)
    for _ in range(20):
        assert client.read_response().body == b"small file"
        assert client.read_response().body == b"hello"


def test_an_empty_file_is_an_empty_response(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert client.request(f"/pathsend?{path}").body == b""
    assert client.request(f"/pathsend_with_length?0:{path}").body == b""
    assert in_step(client)


def test_head_of_a_file_sends_none_of_it(client: Client, file: Path) -> None:
    size = file.stat().st_size
    response = client.request(f"/pathsend_with_length?{size}:{file}", method="HEAD")
    assert response.get(b"content-length") == b"%d" % size
    assert client.request(f"/pathsend?{file}", method="HEAD").status == 200
    assert in_step(client)


def test_a_file_that_is_not_there_is_an_error_the_application_sees(
    server: Server, client: Client, tmp_path: Path
) -> None:
    key = fresh_key()
    client.send(request_bytes(f"/pathsend_then_report?{key}:{tmp_path / 'nowhere'}"))
    assert server.read_note(key)["name"] == "FileNotFoundError"
    server.expect_error("in pathsend_then_report")
    try:
        assert client.read_response().status == 500
    except Truncated as cut:
        assert cut.response is None or cut.response.body == b""


def test_a_file_shorter_than_promised_is_visible(server: Server, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    client.send(request_bytes(f"/pathsend_with_length?50:{path}"))
    server.expect_error("in pathsend_with_length")
    try:
        assert client.read_response().status == 500
    except Truncated as cut:
        assert cut.response is None or len(cut.response.body) < 50
    assert server.request("/hello").body == b"hello"


def test_a_file_longer_than_promised_never_runs_over(server: Server, client: Client, tmp_path: Path) -> None:
    # A log grows between its measuring and its sending: what was promised, or an error, but never a byte more.
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    client.send(request_bytes(f"/pathsend_with_length?5:{path}"))
    server.permit_error("in pathsend_with_length")
    try:
        response = client.read_response()
        assert response.status == 500 or response.body == b"01234"
        assert response.closes or in_step(client)
    except Truncated as cut:
        assert cut.response is None or len(cut.response.body) < 5


def test_a_client_that_leaves_in_the_middle_of_a_file_leaves_no_descriptor(server: Server, file: Path) -> None:
    server.request("/hello")
    before = server.resources()
    for _ in range(20):
        key = fresh_key()
        client = server.connect(receive_buffer=4096)
        client.send(request_bytes(f"/pathsend_then_report?{key}:{file}"))
        client.read_head()
        client.reset()
        assert server.read_note(key)["oserror"]
    assert server.resources(before)["fds"] <= before["fds"]
    server.permit_error("in pathsend_then_report")
