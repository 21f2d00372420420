"""Send one message over a channel of the operator's. See SKILL.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.skills import Effect, SkillContext
from coterie.skills.communication.request import (
    Channel,
    ChannelSettings,
    Feishu,
    Message,
    Smtp,
    Webhook,
    strangers,
)
from coterie.skills.communication.sending import Refused, body_of, is_address, post, send_mail
from coterie.skills.errors import BadInput
from coterie.skills.outbound import NotAllowed
from coterie.skills.shipped import needs_extra, permissions_of, settings_of

Send = Callable[[Effect], dict[str, Any]]


async def run(ctx: SkillContext, input: Message) -> dict[str, Any]:
    """Raises BadInput, NotAllowed, Refused, InDoubt, and NotDone or Unknown, after which a retry may help."""
    channels = settings_of(ctx, "communication", ChannelSettings).channels
    channel = channels.get(input.channel)
    if channel is None:
        raise BadInput(f"channel: there is no {input.channel!r}; known: {', '.join(channels)}")
    permissions = await permissions_of(ctx)
    if permissions is not None and not permissions["network_access"]:
        raise NotAllowed("the agent may not use the network (agent.permissions.network_access)")
    send = _settled(_sender(channel, input))
    # Feishu knows a message by its key and sends it once, so that there is nothing to ask anybody.
    policy = input.on_unknown or ("retry" if isinstance(channel, Feishu) else None)
    done: dict[str, Any] = await ctx.effect("send", send, effects="external", on_unknown=policy)
    if "not_sent" in done:
        raise Refused(done["not_sent"], code=done["code"])
    return {"channel": input.channel, "kind": channel.kind, **done}


def _sender(channel: Channel, message: Message) -> Send:
    """Raises BadInput, NotAllowed, MissingExtra."""
    if isinstance(channel, Webhook):
        if message.data is None and not message.text:
            raise BadInput("data: give it, or text")
        body = body_of(message)
        return lambda effect: post(channel, body, effect)
    if not message.to or not message.text:
        raise BadInput(f"{'to' if not message.to else 'text'}: missing; {channel.kind} needs it")
    if unknown := strangers(message.to, channel.allow_to):
        raise NotAllowed(f"to: the operator does not allow {', '.join(unknown)} (allowTo of the channel)")
    if isinstance(channel, Smtp):
        return _mailer(channel, message)
    if len(message.to) != 1:
        raise BadInput("to: Feishu takes one receiver; send a message for each")
    with needs_extra("feishu"):
        from coterie.skills.communication.lark import send_feishu
    return lambda effect: send_feishu(channel, message, effect)


def _mailer(channel: Smtp, message: Message) -> Send:
    if not message.subject:
        raise BadInput("subject: missing; a mail needs one")
    for one in message.to:
        if not is_address(one):
            raise BadInput(f"to: {one!r} is no mail address; write name@example.org")
    return lambda effect: send_mail(channel, message, effect)


def _settled(send: Send) -> Send:
    """A refusal is an answer, and recorded: nothing is in doubt after it."""

    def settled(effect: Effect) -> dict[str, Any]:
        try:
            return send(effect)
        except Refused as error:
            return {"not_sent": str(error), "code": error.code}

    return settled
