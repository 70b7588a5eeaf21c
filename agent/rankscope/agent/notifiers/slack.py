"""Posts to a channel of Slack (or Mattermost, Rocket.Chat) through an incoming webhook."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.agent.notifiers._chat import Chat
from rankscope.agent.notifiers._message import COLOURS, Item, Message, cut

TEXT_LIMIT = 2900  # characters of one section; Slack refuses more than 3,000


@dataclass(kw_only=True)
class Slack(Chat):
    """Posts to a Slack channel through an incoming webhook (`https://hooks.slack.com/services/…`)."""

    def body(self, said: Message) -> dict[str, object]:
        """Return Slack's JSON for a message."""
        sections = [_section(_text(item)) for item in said.items]
        if said.more:
            sections.append(_section(f"… and {said.more} more"))
        if said.link:
            sections.append(_section(f"<{_escape(said.link)}|Open Rankscope>"))
        head = {"type": "section", "text": {"type": "mrkdwn", "text": f"*{_escape(said.title)}*"}}
        blocks = [head, *sections]
        summary = said.items[0].summary if said.items else ""
        return {
            "text": cut(_escape(f"{said.title}: {summary}"), TEXT_LIMIT),  # what a phone shows
            "attachments": [{"color": COLOURS[said.tone], "blocks": blocks}],
        }


def _text(item: Item) -> str:
    sign = "✅ " if item.resolved else ""
    lines = [f"{sign}{_escape(item.summary)}"]
    lines += [f"*{name}*{_gap(value)}{_escape(value)}" for name, value in item.facts]
    return cut("\n".join(lines), TEXT_LIMIT)


def _gap(value: str) -> str:
    return "\n" if "\n" in value else "  "


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _escape(text: str) -> str:
    """Return text that neither links nor mentions anybody: Slack's three control characters are written out."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
