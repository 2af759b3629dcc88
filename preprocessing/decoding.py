"""What decides a language model's answers beside the model, the prompt and the text.

In    settings.
Out   `Decoding`, or a UserError for what cannot be.
Run   `python -c "from preprocessing.decoding import Decoding; print(Decoding())"`
"""

from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What decides answers beside model, prompt and text."""

    threshold: float = 0.5
    """Values with a lower confidence stay None."""
    tolerance: float = 0.25
    """Two answers agree that lie this part of their scale apart, or less."""
    calibrate: bool = True
    """Divide probabilities by those for texts that say nothing. Without it a small model is sure of its favourite
    digit whatever it reads, and calling that confidence would be a lie."""
    samples: int = 1
    """Texts written for a record, of which the likeliest is kept."""
    temperature: float = 0.7
    seed: int = 0
    batch_size: int = 8
    """Rows judged together."""
    write_batch_size: int = 32
    """Rows written together: a step reads all weights for one token a row, so more rows cost little but memory."""
    fixed_shapes: bool = False
    max_tokens: int = 512
    """Longer texts are not asked about."""

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 <= self.tolerance <= 1):
            raise UserError(f"threshold {self.threshold} and tolerance {self.tolerance} must lie in [0, 1]")
        if self.temperature <= 0 or min(self.samples, self.batch_size, self.write_batch_size, self.max_tokens) < 1:
            raise UserError(
                f"temperature {self.temperature}, samples {self.samples}, batch_size {self.batch_size} and max_tokens "
                f"{self.max_tokens} must be above 0"
            )
