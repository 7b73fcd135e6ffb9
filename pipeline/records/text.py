"""What records and files say of themselves, as text that a terminal can be given."""


def printable(content: bytes | str, longest: int = 200) -> str:
    """Text in one line, whatever bytes or control codes it holds: those are escaped.

    Args:
        content: text, or bytes that may be UTF-8.
        longest: characters that are shown, an ellipsis included.
    """
    text = content if isinstance(content, str) else content.decode("utf-8", "backslashreplace")
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text[: longest + 1]
    )
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
