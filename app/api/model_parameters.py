"""What may be told to the model behind an assistant: by who sets it up, and by who asks."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.text import Text

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2)]
TokenCount = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
StopText = Annotated[Text, Field(min_length=1, max_length=200)]


class Sampling(BaseModel):
    """How the model chooses its words."""

    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: StopText | Annotated[list[StopText], Field(min_length=1, max_length=4)] | None = None
    seed: Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)] | None = None

    def sampling(self) -> dict[str, Any]:
        """Those that were given."""
        return self.model_dump(include=set(Sampling.model_fields), exclude_none=True)


class ModelParameters(Sampling):
    """What is passed on to the model with each question. Others are refused, as the model might."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
