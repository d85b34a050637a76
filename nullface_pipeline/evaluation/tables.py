"""Tables of embeddings of any number of people, in memory that does not grow with their number."""

import tempfile

import numpy as np

from nullface_pipeline.runs.records import state_folder


# Rows that are worked on at a time.
BLOCK = 256


def scratch_table(rows: int, width: int) -> np.ndarray:
    """(`rows`, `width`) float32 zeros, held in a file without a name that is gone with the table, and with the program.

    The system reads what is asked for and takes the memory back when it needs it. The file lies among the user's own,
    beside what is remembered: embeddings are biometric.

    Raises:
        OSError: if it cannot be made.
    """
    folder = state_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # NumPy's own type is of no use once the file is let go.
        return np.memmap(file, np.float32, "w+", shape=(rows, width)).view(np.ndarray)


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) rows at unit norm, float32; a row of zeros stays."""
    embeddings = embeddings.astype(np.float32)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings


def normalized_table(
    embeddings: np.ndarray, mean: np.ndarray | float = 0.0, rows: np.ndarray | None = None
) -> np.ndarray:
    """The same less a mean, of all rows or some, as a table of `scratch_table`; of no rows, an empty array."""
    rows = np.arange(len(embeddings)) if rows is None else rows
    if not len(rows):
        return np.zeros((0, embeddings.shape[1]), np.float32)
    table = scratch_table(len(rows), embeddings.shape[1])
    for start in range(0, len(rows), BLOCK):
        table[start : start + BLOCK] = normalized(embeddings[rows[start : start + BLOCK]] - mean)
    return table
