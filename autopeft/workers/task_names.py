"""Names of the built-in tasks, known to everything that reads, trains or scores."""

CLASSIFICATION = "classification"
REGRESSION = "regression"
CAUSAL_LM = "causal-lm"
SEQ2SEQ_LM = "seq2seq-lm"
TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105
MULTIPLE_CHOICE = "multiple-choice"
IMAGE_CLASSIFICATION = "image-classification"
AUDIO_CLASSIFICATION = "audio-classification"
