"""The text that the simulated model writes.

One word is one token, by construction: every token is a word with the space before it, and a stream sends one token
in each delta, so the tokens of a reply can be counted on the wire. The words are single tokens in the vocabularies
`cl100k_base` and `o200k_base` too: a meter that counts the text with either finds the number that was reported.

Some words take two, three and four bytes to a character, so that a body cut at any byte is sometimes cut inside one.
"""

_FIRST = "Sure"
_SENTENCE = (
    "the budget holds while every word of this reply counts as one token für über café 的 and each is sent on its own "
    "way to you → so that a meter 😀 can read it été by itself without any guess это at all"
)
_WORDS = tuple(_SENTENCE.split())
_ROUND = "".join(f" {word}" for word in _WORDS)
_ROUND_BYTES = len(_ROUND.encode())


def token(*, position: int, choice: int = 0) -> str:
    """The token at `position` (from 0) of one choice; the choices of a reply differ from their second token on."""
    return _FIRST if position == 0 else f" {_WORDS[(position + choice) % len(_WORDS)]}"


def text(*, tokens: int, choice: int = 0) -> str:
    """The first `tokens` tokens of one choice, joined."""
    return "".join(token(position=position, choice=choice) for position in range(tokens))


def padding(*, about_bytes: int) -> str:
    """Text of `about_bytes` bytes in UTF-8, less at most one round through the words."""
    return _ROUND * (about_bytes // _ROUND_BYTES)
