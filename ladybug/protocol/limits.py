"""What one client may ask of the server's memory, as native integers the parsers compare against.

Built once per worker from the settings; read on the hot path, never written there.
"""

from typing import Final, final

from mypy_extensions import i64, mypyc_attr

MAX_FIELDS: Final = 128  # size of the fixed array of field offsets; see scanner.py

# A chunk extension means nothing to us (RFC 9112 section 7.1.1: "A recipient MUST ignore unrecognized chunk extensions"),
# so there is only a bound: room for signature schemes on each chunk, none for a stream of extensions without end.
MAX_CHUNK_LINE: Final = 1024
MAX_CHUNK_EXTENSIONS: Final = 1 << 20  # of one body, in all


@mypyc_attr(native_class=True)
@final
class Limits:
    """Bounds on one request, in bytes unless said otherwise.

    Attributes:
        request_line: longest request line without its CRLF; longer is 414.
        fields: most field lines in the header section (a count, at most 128), and in a trailer section; more is 431.
        fields_size: size of all field lines with their CRLFs; more is 431.
        body: largest content; more is 413. -1 for no limit.
    """

    def __init__(self, request_line: i64 = 16384, fields: i64 = 128, fields_size: i64 = 65536, body: i64 = -1) -> None:
        if not 1 <= fields <= MAX_FIELDS:
            raise ValueError(f"fields must lie between 1 and {MAX_FIELDS}")
        self.request_line: Final[i64] = request_line
        self.fields: Final[i64] = fields
        self.fields_size: Final[i64] = fields_size
        self.body: Final[i64] = body
