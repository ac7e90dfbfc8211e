"""What a bundle costs against its fp32 reference, as its manifest records it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """How far a bundle may be from its fp32 reference."""

    mean_kl: float
    """Nats per token, at most."""
    perplexity_ratio: float
    """Quantized over fp32, at most."""
    argmax_agreement: float
    """Fraction of positions with the same most likely token, at least."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """The same comparison on a text of other kinds than prompts and answers."""

    limits: QualityLimits
    mean_kl: float
    p99_kl: float
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    argmax_agreement: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Quality:
    """The comparison with the fp32 reference that was made at build time."""

    limits: QualityLimits
    passed: bool
    """Whether every limit is met, those of ``unseen`` included."""
    mean_kl: float
    """Mean over positions of KL(reference || bundle), nats."""
    p99_kl: float
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    argmax_agreement: float
    """Fraction of positions with the same most likely token."""
    tokens: int
    text: str
    """Which text was used; ``gate`` is the builder's own."""
    unseen: Unseen | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """One form of the model that the build held against the limits."""

    scheme: str
    scaling: str
    """Of the norms' outputs: ``static`` or ``dynamic``."""
    kv_type: str
    passed: bool
    mean_kl: float
    perplexity_ratio: float
    argmax_agreement: float

    @property
    def form(self) -> tuple[str, str, str]:
        """What was tried."""
        return self.scheme, self.scaling, self.kv_type
