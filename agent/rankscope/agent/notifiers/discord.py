"""Posts to a channel of Discord through a webhook."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rankscope.agent.notifiers._chat import Chat
from rankscope.agent.notifiers._message import COLOURS, Message, cut

TITLE_LIMIT, TEXT_LIMIT = 256, 4000  # characters; Discord refuses more than 256 and 4,096
_MARKUP = re.compile(r"([\\*_~`|>\[\]])")


@dataclass(kw_only=True)
class Discord(Chat):
    """Posts to a Discord channel through a webhook (`https://discord.com/api/webhooks/…`)."""

    def body(self, said: Message) -> dict[str, object]:
        """Return Discord's JSON for a message."""
        lines: list[str] = []
        for item in said.items:
            lines.append(("✅ " if item.resolved else "") + _escape(item.summary))
            lines += [f"**{name}**{_gap(value)}{_escape(value)}" for name, value in item.facts]
            lines.append("")
        if said.more:
            lines.append(f"… and {said.more} more")
        embed: dict[str, object] = {
            "title": cut(said.title, TITLE_LIMIT),
            "description": cut("\n".join(lines).strip(), TEXT_LIMIT),
            "color": int(COLOURS[said.tone][1:], 16),
        }
        if said.link:
            embed["url"] = said.link
        # A run that somebody called "@everyone" must not wake everyone.
        return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def _gap(value: str) -> str:
    return "\n" if "\n" in value else " "


def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)
