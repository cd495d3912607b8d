"""What a model or a person wrote, made safe to show; and what a model should not have said of itself.

Markdown becomes HTML with raw HTML switched off (`markdown-it-py`), and the HTML is cleaned again against a short list
of tags (`nh3`): neither has to be trusted alone. Images are dropped, because loading one would tell somebody else that
a participant reads it. A link is one only if it is absolute, http or https; it opens a page of its own that cannot
reach ours (`noopener noreferrer nofollow`). Any other stays the text that it was written as.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from simgym.extras import optional_import

TAGS = frozenset(
    ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "strong", "em", "s", "code", "pre",
     "blockquote", "a", "table", "thead", "tbody", "tr", "th", "td"]
)  # fmt: skip
"""All that a reply may consist of."""
_SELF = re.compile(
    r"\b(?:as|i am|i'm|my name is|this is|you are (?:talking|speaking) to)\s+(?:an?\s+)?"
    r"(?:ai\b|language model|large language model|assistant (?:made|trained|developed|created) by"
    r"|chat-?gpt|gpt-?\d|claude|gemini|bard|llama|mistral|mixtral|qwen|deepseek|grok|copilot|phi-\d|gemma|smollm)"
    r"|\b(?:trained|developed|created|made|built) by (?:openai|anthropic|google|meta|mistral|alibaba|hugging ?face)\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=4096)  # a conversation is shown again on every page, and there are many at once
def to_html(markdown: str) -> str:
    """Markdown of any origin as HTML that can be put into a page."""
    cleaner = optional_import("nh3", "study")
    return str(
        cleaner.clean(
            _markdown().render(markdown),
            tags=set(TAGS),
            attributes={"a": {"href"}, "ol": {"start"}},
            url_schemes={"http", "https"},
            url_relative="deny",
            link_rel="noopener noreferrer nofollow",
            set_tag_attribute_values={"a": {"target": "_blank"}},
        )
    )


@functools.cache
def _markdown() -> Any:
    module = optional_import("markdown_it", "study")
    parser = module.MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
    parser.validateLink = leads_elsewhere
    return parser


def leads_elsewhere(address: str) -> bool:
    """Is that an absolute http(s) address? Others, such as `/?PROLIFIC_PID=x` or `//host`, lead to pages of ours."""
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "\\" not in address


def shows_text(markdown: str) -> bool:
    """Is there anything to read once it is rendered? A reply that is an image alone leaves nothing."""
    return any(not character.isspace() for character in re.sub(r"<[^>]*>", "", to_html(markdown)))


def clean_text(text: str, limit: int) -> str:
    """A form field as it is stored: at most `limit` characters, no lone surrogates, no control characters but line ends
    and tabs, `\\n` as line end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = (character for character in text if character in "\n\t" or (character >= " " and character != "\x7f"))
    return re.sub(r"[\ud800-\udfff]", "�", "".join(kept))[:limit].strip()


def identity_flags(reply: str, aliases: Iterable[str]) -> list[str]:
    """How a reply gives away who wrote it: `alias: NAME` and `self_identification`; empty if it does not."""
    flags = [
        f"alias: {alias}" for alias in aliases if re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", reply, re.IGNORECASE)
    ]
    return flags + (["self_identification"] if _SELF.search(reply) else [])
