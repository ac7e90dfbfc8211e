"""How a turn ends: which token stops an answer, found in the chat template itself.

Rule: never trust one field of a tokenizer for it. A model whose stop token is wrong talks to itself
until its budget is spent.
"""

from tokenizers import Tokenizer

from edged.engine.tokenizer.template import ChatTemplate, TemplateError
from edged.errors import BuildError, BundleError

_QUESTION = "edged question"
_ANSWER = "edged answer"


def turn_end(
    template: str, tokenizer: Tokenizer, bos_token: str | None, eos_token: str | None
) -> int | None:
    """Find the special token which a chat template writes after the assistant's words.

    It is rendered as the device will render it, so a template that cannot be is found here.

    Returns:
        Its id; None when the template ends a turn with plain text.

    Raises:
        BuildError: The template cannot be rendered, or leaves out what was said.
    """
    messages = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
    ]
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    try:
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
