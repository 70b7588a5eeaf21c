"""A chat message in the little Markdown that DingTalk and WeCom understand."""

from __future__ import annotations

from rankscope.agent.notifiers._message import Message


def markdown(said: Message, line: str = "\n") -> str:
    """Return a message as Markdown; `line` is what ends a line."""
    lines = [f"### {_escape(said.title, line)}"]
    for item in said.items:
        lines.append(("✅ " if item.resolved else "") + _escape(item.summary, line))
        lines += [f"> **{name}**: {_escape(value, line + '> ')}" for name, value in item.facts]
    if said.more:
        lines.append(f"… and {said.more} more")
    if said.link:
        lines.append(f"[Rankscope]({said.link})")
    return line.join(lines)


def _escape(text: str, line: str) -> str:
    """Return text that holds neither tags nor mentions (`<@name>`): neither service has another way to say so."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", line)
