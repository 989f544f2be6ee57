"""Names as they are, in one line: what a terminal would obey instead of showing stands there as `\\x1b`."""

import unicodedata

_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (text from right to left), surrogates, line separators
_JOINERS = "\u200c\u200d"  # invisible, and part of how words and emoji are written


def visible(text: str) -> str:
    """The text with everything that moves the cursor, changes colours or direction, or ends a line written out.

    A byte that is no UTF-8, as in old file names, is `\\xe9`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python passes on a byte that it could not decode
        return f"\\x{code - 0xDC00:02x}"
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
