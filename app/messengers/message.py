"""What is said over a channel: a message as the `chatsky` package has it, in Python and in JSON."""

from typing import Any

import msgspec


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="chatsky_attachment_type"):
    """What came with a message, and is no text."""


class CallbackQuery(Attachment, frozen=True, tag="callback_query"):
    query_string: str


class Location(Attachment, frozen=True, tag="location"):
    longitude: float
    latitude: float


class Contact(Attachment, frozen=True, tag="contact"):
    phone_number: str
    first_name: str
    last_name: str | None = None


class Invoice(Attachment, frozen=True, tag="invoice"):
    title: str
    description: str
    currency: str
    amount: int


class PollOption(msgspec.Struct, frozen=True):
    text: str
    votes: int = 0


class Poll(Attachment, frozen=True, tag="poll"):
    question: str
    options: list[PollOption]


class DataAttachment(Attachment, frozen=True):
    """A file: `source` is its address, or `id` what its channel knows it by, for `get_attachment_bytes`."""

    source: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.id):
            raise ValueError("an attachment has either a source or an id")


class Audio(DataAttachment, frozen=True, tag="audio"): ...


class Video(DataAttachment, frozen=True, tag="video"): ...


class Animation(DataAttachment, frozen=True, tag="animation"): ...


class Image(DataAttachment, frozen=True, tag="image"): ...


class Sticker(DataAttachment, frozen=True, tag="sticker"): ...


class Document(DataAttachment, frozen=True, tag="document"): ...


class VoiceMessage(DataAttachment, frozen=True, tag="voice_message"): ...


class VideoMessage(DataAttachment, frozen=True, tag="video_message"): ...


class MediaGroup(Attachment, frozen=True, tag="media_group"):
    group: list[Audio | Video | Image | Document] = []


AnyAttachment = (
    CallbackQuery
    | Location
    | Contact
    | Invoice
    | Poll
    | Audio
    | Video
    | Animation
    | Image
    | Sticker
    | Document
    | VoiceMessage
    | VideoMessage
    | MediaGroup
)


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a message is from: what the channel was sent, and the channel's name."""

    message: Any = None
    interface: str | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    text: str | None = None
    attachments: list[AnyAttachment] | None = None
    annotations: dict[str, Any] | None = None
    misc: dict[str, Any] | None = None
    origin: Origin | None = None

    @property
    def original_message(self) -> Any:
        """What the channel was sent, as it was sent."""
        return self.origin.message if self.origin is not None else None
