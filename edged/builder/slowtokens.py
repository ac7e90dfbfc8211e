"""Make a tokenizer.json for a folder that has only a slow tokenizer. Runs in ``child``.

Rule: what comes out is checked, because some conversions split words into letters.
"""

from transformers import AutoTokenizer

from edged.builder.child import OnProgress
from edged.builder.tokenizer_check import check_words
from edged.errors import BuildError


def convert_tokenizer(on_progress: OnProgress, folder: str, target: str) -> None:
    """Write what transformers makes of the slow tokenizer in ``folder`` to the file ``target``.

    Raises:
        BuildError: It cannot be converted, or the result splits words into letters.
    """
    on_progress(0, None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)
        fast = tokenizer.backend_tokenizer
        fast.save(target)
    except (ValueError, ImportError, AttributeError, OSError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise BuildError(
            f"{folder}: there is no tokenizer.json in it, and the slow tokenizer cannot be "
            f"converted ({reason}): save it once with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) and build from that"
        ) from error
    check_words(fast, [(token_id, text) for text, token_id in sorted(fast.get_vocab().items())])
