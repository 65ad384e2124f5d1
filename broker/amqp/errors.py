"""Whose fault it is, which reply code says so, and what that code closes."""

from broker.amqp.spec import ReplyCode


class ProtocolError(Exception):
    """A rule of AMQP was broken.

    `code` is what goes into `channel.close` or `connection.close`; `class_id` and `method_id` name
    the method at fault, or are 0 where no method is.
    """

    def __init__(self, code: ReplyCode, text: str, class_id: int = 0, method_id: int = 0) -> None:
        super().__init__(f"{code.value} {code.name} - {text}")
        self.code = code
        self.text = text
        self.class_id = class_id
        self.method_id = method_id

    @property
    def reply_text(self) -> str:
        """`NAME - explanation`, cut to the 255 bytes of a short string as RabbitMQ cuts it."""
        return f"{self.code.name} - {self.text}".encode()[:255].decode(errors="ignore")


class LocalProtocolError(ProtocolError):
    """We asked the codec for something that the protocol does not allow: our own bug."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""
