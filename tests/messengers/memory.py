"""What a conversation had been when the model was asked."""

from tests.scripted_model import ScriptedModel


def remembered(model: ScriptedModel) -> list[int]:
    """How many messages it was told before each of its questions."""
    told = [[one for one in prompt.messages if one.role != "system"] for prompt in model.prompts]
    return [len(messages) - 1 for messages in told]
