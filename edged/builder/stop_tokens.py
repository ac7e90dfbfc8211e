"""Find the token that ends an assistant turn by rendering the chat template.

Rule: no field of a tokenizer is trusted for it. With a wrong stop token a model generates until its
token limit.
"""

from tokenizers import Tokenizer

from edged.engine.tokenizer.template import ChatTemplate, TemplateError
from edged.errors import BuildError, BundleError

_QUESTION = "edged question"
_ANSWER = "edged answer"


def turn_end(
    template: str, tokenizer: Tokenizer, bos_token: str | None, eos_token: str | None
) -> int | None:
    """Return the id of the special token that a chat template writes after an assistant turn.

    Returns:
        None when the template ends a turn with plain text.

    Raises:
        BuildError: The template cannot be rendered, or drops a message.
    """
    messages = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
    ]
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    try:
        # As the device renders it, so a template that the device refuses fails here.
        text = ChatTemplate(template, tokens).render(messages)
    except (BundleError, TemplateError) as error:
        raise BuildError(f"the chat template cannot be rendered: {error}") from error
    before, found, after = text.rpartition(_ANSWER)
    if not found or _QUESTION not in before:
        raise BuildError("the chat template leaves out what the user or the assistant said")
    added = tokenizer.get_added_tokens_decoder()
    special = {token_id for token_id, token in added.items() if token.special}
    for token_id in tokenizer.encode(after.lstrip(), add_special_tokens=False).ids[:1]:
        if token_id in special:
            return int(token_id)
    return None
